"""A classifier that gives a text several labels: by its integers, cut by cut."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from agent.runtime.classifier import UNKNOWN, Classifier
from contracts import codec, limits
from contracts.bundle import MANIFEST, Bundle
from contracts.errors import InputError
from contracts.manifest import Manifest
from tests.support.several import CUTS, expected, of_several


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny classifier with cuts."""
    return of_several(tmp_path_factory.mktemp("several") / "bundle")


def test_each_label_whose_output_reaches_its_cut_is_given(bundle: Bundle) -> None:
    """For every golden text; none, one and more of them occur."""
    model = Classifier(bundle)
    counts = set()
    facts = bundle.manifest.classifier
    output = bundle.manifest.model.signatures[0].outputs[0]
    assert facts is not None
    for vector in bundle.golden():
        answer = model.classify(vector.text, 4)
        said = expected(bundle, vector.output)
        assert [one.label for one in answer.labels or []] == said
        assert answer.label == (said[0] if said else UNKNOWN)
        assert answer.best == (None if said else vector.label)
        assert answer.said == (said or [UNKNOWN])
        for one in answer.top:
            logit = (
                vector.output[facts.labels.index(one.label)] - output.zero_point
            ) * output.scale
            assert one.confidence == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-5)
        counts.add(len(said))
    model.close()
    assert {0, 1, 2} <= counts


def test_an_output_at_its_cut_has_the_label_and_one_below_has_not(tmp_path: Path) -> None:
    """The comparison is of integers, and it is `at least`."""
    vector = of_several(tmp_path / "any").golden()[0]
    for step, given in ((0, 4), (1, 0)):
        cuts = [min(127, value + step) for value in vector.output]
        model = Classifier(of_several(tmp_path / f"by{step}", cuts))
        found = model.classify(vector.text).labels
        model.close()
        assert found is not None
        assert len(found) == given + (step and sum(v == 127 for v in vector.output))


@pytest.mark.parametrize(
    "spoil",
    [
        {"schema": 1},
        {"cuts": CUTS[:3]},
        {"cuts": []},
        {"cuts": [*CUTS[:3], 128]},
        {"cuts": [*CUTS[:3], 0.5]},
        {"quantization": "float32"},
    ],
    ids=str,
)
def test_a_manifest_whose_cuts_cannot_be_meant_is_refused(
    bundle: Bundle, spoil: dict[str, object]
) -> None:
    """Cuts of another number or of another kind, and a schema that old readers would read."""
    document = json.loads(bundle.manifest_bytes)
    for name, value in spoil.items():
        of = {"cuts": document["classifier"], "quantization": document["model"]}
        of.get(name, document)[name] = value
    with pytest.raises(InputError) as caught:
        Bundle(bundle.path, json.dumps(document).encode())
    assert caught.value.code in ("bad-manifest", "bad-message")


def test_readers_of_older_schemas_refuse_such_a_bundle_and_say_that_it_is_newer(
    bundle: Bundle,
) -> None:
    """A reader that knows no cuts would answer one label, and wrongly."""
    document = json.loads(bundle.manifest_bytes)
    assert document["schema"] == 2
    document["schema"] = 3  # what 2 is to a reader of 1
    with pytest.raises(InputError, match="newer version of Shoal"):
        codec.decode(json.dumps(document).encode(), Manifest, what=MANIFEST)


def test_a_model_of_several_labels_cannot_be_taught_and_says_so(bundle: Bundle) -> None:
    """A lesson would take the place of all labels of an answer."""
    model = Classifier(bundle)
    with pytest.raises(InputError, match="several labels") as caught:
        model.features("turn on the light")
    model.close()
    assert caught.value.code == "wrong-task"


def test_an_answer_gives_no_more_labels_than_a_message_holds() -> None:
    """The cap times the longest label stays below the largest message."""
    assert limits.MAX_SAID * (4 * limits.MAX_LABEL_CHARS + 60) < limits.MAX_MESSAGE_BYTES
