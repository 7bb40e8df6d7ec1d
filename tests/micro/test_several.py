"""Several labels a text: MicroPython and the C pack give those that the agent gives."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from agent.runtime.classifier import Classifier
from contracts.bundle import MANIFEST, Bundle
from model_builder.export_c import pack
from model_builder.export_c.pack import c_string
from tests.micro import device
from tests.support.several import CUTS, expected, of_several
from tests.support.tools import need_tool


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny classifier with cuts."""
    return of_several(tmp_path_factory.mktemp("several") / "bundle")


def test_a_board_gives_the_labels_and_confidences_of_the_agent(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Labels are equal, confidences to what a float of the board holds."""
    texts = [vector.text for vector in bundle.golden()]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    found = device.run("several.py", str(bundle.path), str(tmp_path / "texts.json"), heap="1M")
    model = Classifier(bundle)
    for text, answer in zip(texts, found, strict=True):
        wanted = model.classify(text, 4)
        assert [one["label"] for one in answer["labels"]] == [
            one.label for one in wanted.labels or []
        ]
        assert answer["label"] == wanted.label
        assert answer.get("best") == wanted.best
        assert answer["confidence"] == pytest.approx(wanted.confidence, abs=1e-4)
        assert [one["confidence"] for one in answer["top"]] == pytest.approx(
            [one.confidence for one in wanted.top], abs=1e-4
        )
    model.close()


@pytest.mark.parametrize(
    "spoil",
    [{"schema": 1}, {"cuts": CUTS[:3]}, {"cuts": []}, {"cuts": [*CUTS[:3], 300]}],
    ids=str,
)
def test_a_board_refuses_cuts_that_cannot_be_meant(
    bundle: Bundle, tmp_path: Path, spoil: dict[str, object]
) -> None:
    """As the agent does; an answer of one label would look right and be wrong."""
    document = json.loads(bundle.manifest_bytes)
    for name, value in spoil.items():
        (document["classifier"] if name == "cuts" else document)[name] = value
    (tmp_path / MANIFEST).write_text(json.dumps(document))
    (tmp_path / "texts.json").write_text("[]")
    found = device.run("several.py", str(tmp_path), str(tmp_path / "texts.json"))
    assert found["refused"] == "bad-manifest"


def test_the_c_pack_gives_the_same_labels(bundle: Bundle, tmp_path: Path) -> None:
    """Gcc compiles it with warnings as errors."""
    need_tool("gcc")
    pack.export(bundle, tmp_path)
    vectors = bundle.golden()
    texts = ",\n".join(c_string(vector.text) for vector in vectors)
    (tmp_path / "main.c").write_text(
        f"""#include <stdio.h>
#include <string.h>
#include "shoal_bundle.h"
static const char *const texts[] = {{{texts}}};
int main(void)
{{
    int found[SHOAL_LABEL_COUNT];
    for (size_t t = 0; t < sizeof texts / sizeof texts[0]; t++) {{
        int count = shoal_classify_several(texts[t], strlen(texts[t]), found);
        printf("%d", count);
        for (int i = 0; i < count; i++) {{
            printf(" %s", shoal_labels[found[i]]);
        }}
        printf("\\n");
    }}
    return 0;
}}
"""
    )
    sources = ["main.c", "model.c", "shoal_bundle.c", "shoal_kernels.c", "shoal_ngrams.c"]
    subprocess.run(
        ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-O1", "-o", "main", *sources, "-lm"],
        cwd=tmp_path,
        check=True,
    )
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    for vector, line in zip(vectors, done.stdout.splitlines(), strict=True):
        count, *labels = line.split()
        assert int(count) == len(labels)
        assert set(labels) == set(expected(bundle, vector.output))
    assert json.loads((tmp_path / "pack.json").read_text())["cuts"] == CUTS
