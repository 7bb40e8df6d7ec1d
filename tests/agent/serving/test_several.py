"""What is said of an answer with several labels, and what is counted of it."""

from __future__ import annotations

import json

import pytest

from agent.serving.answers import Answers
from agent.telemetry.recorder import Recorder, drift
from contracts import codec
from contracts.answers import Classified
from contracts.bundle import Bundle
from contracts.errors import InputError
from contracts.histogram import Histogram
from contracts.judged import UNKNOWN, UNSAID, Judged
from contracts.manifest import Baseline
from contracts.messages import BundleRef, Scored
from contracts.requests import FeedbackRequest
from fleet.ingest.decode import decode
from tests.support.controller import TINY

MANIFEST = Bundle.open(TINY).manifest
REF = Bundle.open(TINY).ref
SHADOW = BundleRef("tiny-classifier", "1.1.0", "b" * 64)
assert MANIFEST.classifier is not None
ONE, TWO, THREE = MANIFEST.classifier.labels[:3]


def answer(*labels: str) -> Classified:
    """An answer with these labels."""
    first = labels[0] if labels else UNKNOWN
    return Classified(first, 0.9, [], REF, 10.0, labels=[Scored(name, 0.9) for name in labels])


def judged(given: Classified, shadow: Classified | None = None, **said: object) -> list[Judged]:
    """What is counted of a verdict, of the model and of its shadow."""
    recorder = Recorder(lambda: 0)
    answers = Answers(recorder, lambda: 0.0)
    answers.classified("classify", "q", given, MANIFEST)
    if shadow is not None:
        answers.shadowed("classify", "q", SHADOW, shadow.given)
    answers.judge(FeedbackRequest(answer="q", **said))  # type: ignore[arg-type]
    return [sample.judged for sample in recorder.take(1.0, 1.0) if sample.judged is not None]


@pytest.mark.parametrize(
    ("given", "said", "wanted"),
    [
        ([ONE, TWO], {"labels": [TWO, ONE]}, Judged(1, 0, labels={ONE: 1, TWO: 1})),
        ([ONE, TWO], {"right": True}, Judged(1, 0, labels={ONE: 1, TWO: 1})),
        ([ONE, TWO], {"label": ONE}, Judged(0, 1, labels={ONE: 1}, confusions={TWO: {UNKNOWN: 1}})),
        (
            [ONE, TWO],
            {"labels": [ONE, THREE]},
            Judged(0, 1, labels={ONE: 1}, confusions={TWO: {THREE: 1}}),
        ),
        (
            [ONE],
            {"labels": [ONE, TWO]},
            Judged(0, 1, labels={ONE: 1}, confusions={UNKNOWN: {TWO: 1}}),
        ),
        (
            [ONE, TWO],
            {"right": False},
            Judged(0, 1, confusions={ONE: {UNSAID: 1}, TWO: {UNSAID: 1}}),
        ),
        ([], {"labels": []}, Judged(1, 0, labels={UNKNOWN: 1})),
        ([], {"label": UNKNOWN}, Judged(1, 0, labels={UNKNOWN: 1})),
        ([ONE], {"labels": []}, Judged(0, 1, confusions={ONE: {UNKNOWN: 1}})),
    ],
)  # fmt: skip
def test_an_answer_is_right_as_a_whole_and_its_labels_count_one_by_one(
    given: list[str], said: dict[str, object], wanted: Judged
) -> None:
    """And the controller takes what is counted: its parts are no more than they may be."""
    wanted.several = 1
    (found,) = judged(answer(*given), **said)
    assert found == wanted
    sample = {"at": 1.0, "window_s": 1.0, "judged": json.loads(codec.encode(found))}
    payload = json.dumps({"boot": "b", "seq": 1, "samples": [sample]}).encode()
    decode("reef", "shoal/v1/reef/d/d1/telemetry", payload)


def test_a_shadow_is_judged_by_all_of_its_labels() -> None:
    """It agrees only where they are the same, in any order."""
    same = judged(answer(ONE, TWO), answer(TWO, ONE), right=True)
    other = judged(answer(ONE, TWO), answer(ONE), right=True)
    assert [one.right for one in same] == [1, 1]
    assert sorted(one.right for one in other) == [0, 1]
    assert answer(ONE, TWO).whole == answer(TWO, ONE).whole != answer(ONE).whole


def test_labels_are_for_answers_that_may_have_several_and_of_the_model() -> None:
    """Nothing is counted otherwise."""
    with pytest.raises(InputError, match="one label") as caught:
        judged(Classified(ONE, 0.9, [], REF, 10.0), labels=[ONE])
    assert caught.value.code == "wrong-task"
    with pytest.raises(InputError, match="no label 'else'") as caught:
        judged(answer(ONE), labels=["else"])
    assert caught.value.code == "unknown-label"


def test_parts_of_feedback_on_one_label_may_still_not_be_more_than_all_of_it() -> None:
    """The room that several labels need is given to verdicts on them alone."""
    for counts in ({"right": 1, "labels": {ONE: 2}}, {"wrong": 1, "several": 2}):
        sample = {"at": 1.0, "window_s": 1.0, "judged": counts}
        payload = json.dumps({"boot": "b", "seq": 1, "samples": [sample]}).encode()
        with pytest.raises(InputError, match="more than all of it"):
            decode("reef", "shoal/v1/reef/d/d1/telemetry", payload)


def test_drift_of_several_labels_compares_shares_of_all_that_were_given() -> None:
    """Both sides add up to more than the texts; the same mix has no drift, another has."""
    baseline = Baseline({ONE: 0.8, TWO: 0.8, THREE: 0.4}, Histogram("unit20"))
    assert drift({ONE: 80, TWO: 80, THREE: 40}, baseline) == pytest.approx(0)
    assert drift({THREE: 40}, baseline) == pytest.approx(0.8)
    recorder = Recorder(lambda: 0)
    recorder.answered("classify", REF, 5.0, label=ONE, also=[TWO], times=3)
    (sample,) = recorder.take(1.0, 1.0)
    assert (sample.requests, sample.labels) == (3, {ONE: 3, TWO: 3})
