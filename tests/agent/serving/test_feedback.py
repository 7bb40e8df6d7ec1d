"""Feedback on a device: what counts, for whom, and what is refused and said so."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import pytest

from agent.serving import answers as answers_module
from agent.serving.answers import MAX_AGE_S, MAX_ANSWERS, Answers
from agent.serving.feedback import DEVICE_PER_S, REQUESTER_PER_S, Feedback
from agent.serving.reply import Reply
from agent.telemetry.recorder import Recorder
from contracts.answers import Answer, Classified
from contracts.bundle import Bundle
from contracts.errors import InputError, ShoalError
from contracts.judged import UNSAID, WHOLE, Judged
from contracts.messages import BundleRef
from contracts.requests import FeedbackRequest
from tests.support.controller import TINY

MANIFEST = Bundle.open(TINY).manifest
REF = Bundle.open(TINY).ref
SHADOW = BundleRef("tiny-classifier", "1.1.0", "b" * 64)
assert MANIFEST.classifier is not None
ONE, TWO, THREE = MANIFEST.classifier.labels[:3]


def classified(label: str, ref: BundleRef = REF) -> Classified:
    """An answer."""
    return Classified(label, 0.9, [], ref, 10.0)


class Bench:
    """Answers of a device whose time stands still."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.recorder = Recorder(lambda: 0)
        self.answers = Answers(self.recorder, lambda: self.now)
        self.operation = Feedback(self.answers, self.recorder, lambda: self.now)

    def answered(self, answer_id: str, label: str, shadow: str | None = None) -> None:
        """A classifier answered, and its shadow."""
        self.answers.classified("classify", answer_id, classified(label), MANIFEST)
        if shadow is not None:
            self.answers.shadowed("classify", answer_id, SHADOW, shadow)

    def say(self, answer_id: str, **fields: object) -> Answer:
        """Sends feedback; what is answered."""
        sent: list[Answer] = []
        reply = Reply("f1", "d1", sent.append, monotonic=lambda: self.now)
        request = msgspec.convert({"answer": answer_id, **fields}, FeedbackRequest)
        try:
            self.operation.feedback(request, reply)
        except ShoalError as error:
            reply.fail(error)
        (answer,) = sent
        return answer

    def code(self, answer_id: str, **fields: object) -> str:
        """The code of the error that is answered."""
        answer = self.say(answer_id, **fields)
        assert answer.error is not None
        assert answer.noted is None
        return answer.error.code

    def counted(self) -> dict[str, Judged]:
        """What is sent of it, by version."""
        samples = self.recorder.take(2000.0, 10.0)
        return {
            s.bundle.version if s.bundle else "": s.judged for s in samples if s.judged is not None
        }


@pytest.fixture
def bench() -> Bench:
    """A device that has answered nothing."""
    return Bench()


def test_a_right_answer_and_a_corrected_one_are_counted_under_their_version(bench: Bench) -> None:
    """The label of the answer said as the right one is a right answer, too."""
    for number, label in enumerate((ONE, ONE, TWO, TWO)):
        bench.answered(f"q{number}", label)
    noted = bench.say("q0", right=True).noted
    assert noted is not None
    assert (noted.bundle, noted.label, noted.right, noted.again) == (REF, ONE, True, False)
    assert bench.say("q1", label=ONE, sampled=True).noted is not None
    wrong = bench.say("q2", label=THREE, sampled=True).noted
    assert wrong is not None
    assert not wrong.right
    bench.say("q3", right=False)
    counted = bench.counted()
    sure = [0] * 9 + [2]  # every answer had a confidence of 0.9
    assert counted == {
        "1.0.0": Judged(
            2, 2, 1, 1, {ONE: 2}, {TWO: {THREE: 1, UNSAID: 1}}, sure_right=sure, sure_wrong=sure
        )
    }
    assert bench.counted() == {}, "each is told once"


def test_an_answer_is_judged_once_however_often_it_is_said(bench: Bench) -> None:
    """A redelivery changes nothing; another verdict is refused, and the first stays."""
    bench.answered("q1", ONE)
    assert bench.say("q1", label=TWO).noted is not None
    again = bench.say("q1", label=TWO).noted
    assert again is not None
    assert again.again
    assert bench.code("q1", right=True) == "already-judged"
    assert bench.code("q1", label=THREE) == "already-judged"
    counted = bench.counted()
    assert counted["1.0.0"].wrong == 1
    assert counted["1.0.0"].right == 0
    assert counted[""].refused == {"already-judged": 2}


def test_what_cannot_be_judged_is_refused_by_name_and_counted(bench: Bench) -> None:
    """Unknown ids, another device's, labels that the bundle has not, and feedback that is none."""
    bench.answered("q1", ONE)
    bench.answers.generated("generate", "g1", REF, "it is noon")
    assert bench.code("q-of-another-device", right=True) == "no-such-answer"
    assert bench.code("q1", label="a label of no bundle") == "unknown-label"
    assert bench.code("q1") == "bad-feedback"
    assert bench.code("q1", right=False, label=TWO) == "bad-feedback"
    assert bench.code("q1", text="noon") == "wrong-task"
    assert bench.code("g1", label=ONE) == "wrong-task"
    counted = bench.counted()
    assert set(counted) == {""}, "no version is blamed"
    assert counted[""].refused == {
        "no-such-answer": 1, "unknown-label": 1, "bad-feedback": 2, "wrong-task": 2,
    }  # fmt: skip
    assert bench.say("q1", label="unknown").noted is not None, "out of scope is right at times"


def test_answers_are_kept_for_a_time_and_up_to_a_number(bench: Bench) -> None:
    """The oldest of a slot goes first, and of that slot alone."""
    bench.answers.classified("other", "o1", classified(ONE), MANIFEST)
    for number in range(MAX_ANSWERS + 1):
        bench.answered(f"q{number}", ONE)
    assert bench.code("q0", right=True) == "no-such-answer"
    assert bench.say("q1", right=True).noted is not None
    assert bench.say("o1", right=True).noted is not None
    bench.now += MAX_AGE_S + 1
    assert bench.code("q2", right=True) == "answer-too-old"
    bench.answered("q2", TWO)
    again = bench.say("q2", right=True).noted
    assert again is not None
    assert again.label == TWO, "an id that is used again means the newer answer"


def test_a_shadow_is_judged_by_the_same_word(bench: Bench) -> None:
    """Where the right label is known; of a wrong answer without one, only when they agree."""
    bench.answered("agrees", ONE, shadow=ONE)
    bench.answered("differs", ONE, shadow=TWO)
    bench.answered("better", ONE, shadow=TWO)
    bench.answered("both-wrong", ONE, shadow=ONE)
    bench.answered("nobody-knows", ONE, shadow=TWO)
    bench.say("agrees", right=True)
    bench.say("differs", label=ONE, sampled=True)
    bench.say("better", label=TWO)
    bench.say("both-wrong", right=False)
    bench.say("nobody-knows", right=False)
    counted = bench.counted()
    assert (counted["1.0.0"].right, counted["1.0.0"].wrong) == (2, 3)
    assert counted["1.1.0"] == Judged(
        2, 2, 0, 1, {ONE: 1, TWO: 1}, {TWO: {ONE: 1}, ONE: {UNSAID: 1}}
    )


def test_a_shadow_that_answers_after_the_verdict_is_judged_too(bench: Bench) -> None:
    """The shadow works after the answer has gone out: feedback may be faster."""
    bench.answered("q1", ONE)
    bench.say("q1", label=TWO)
    bench.answers.shadowed("classify", "q1", SHADOW, TWO)
    bench.answers.shadowed("classify", "q1", SHADOW, THREE)
    bench.answers.shadowed("classify", "never-there", SHADOW, TWO)
    assert bench.counted()["1.1.0"] == Judged(1, labels={TWO: 1})


def test_a_completion_is_right_when_it_is_the_answers(bench: Bench) -> None:
    """Space around it says nothing; of the text a hash alone is kept."""
    for name in ("g1", "g2", "g3"):
        bench.answers.generated("generate", name, REF, " it is noon\n")
    assert bench.say("g1", text="it is noon").noted is not None
    assert bench.say("g2", text="it is one").noted is not None
    assert bench.say("g3", right=False).noted is not None
    assert bench.counted()["1.0.0"] == Judged(
        1, 2, labels={WHOLE: 1}, confusions={WHOLE: {UNSAID: 2}}
    )
    kept = bench.answers._slots["generate"]
    assert "noon" not in repr(list(kept.values()))


def test_a_flood_is_refused_by_requester_and_by_device(bench: Bench) -> None:
    """Made-up names help nobody; later there is room again."""
    codes = [bench.code(f"x{n}", right=True, requester="me") for n in range(100)]
    assert codes.count("no-such-answer") == 2 * REQUESTER_PER_S
    codes = [bench.code(f"x{n}", right=True, requester=f"r{n}") for n in range(200)]
    assert codes.count("no-such-answer") <= 2 * DEVICE_PER_S
    assert bench.counted()[""].refused["rate-limited"] >= 250
    bench.now += 60
    assert bench.code("x", right=True, requester="me") == "no-such-answer"


def test_threads_that_answer_and_judge_at_once_count_each_verdict_once(bench: Bench) -> None:
    """The worker keeps while the network thread judges."""
    errors: list[BaseException] = []

    def run(work: Callable[[], None]) -> threading.Thread:
        def safely() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001
                errors.append(error)

        thread = threading.Thread(target=safely)
        thread.start()
        return thread

    def keep() -> None:
        for number in range(500):
            bench.answered(f"q{number}", ONE, shadow=TWO)

    def judge() -> None:
        left = set(range(500))
        while left:
            for number in list(left):
                try:
                    bench.answers.judge(FeedbackRequest(answer=f"q{number}", label=TWO))
                except InputError:
                    continue
                left.discard(number)

    for thread in (run(keep), run(judge), run(judge)):
        thread.join(120)
    assert errors == []
    counted = bench.counted()
    assert counted["1.0.0"].wrong == 500
    assert counted["1.1.0"].right == 500


def test_labels_of_few_bundles_are_held(bench: Bench) -> None:
    """A device that changes its version again and again does not grow."""
    for number in range(50):
        ref = BundleRef("tiny", f"1.0.{number}", "a" * 64)
        bench.answers.classified("classify", f"q{number}", classified(ONE, ref), MANIFEST)
    assert len(bench.answers._labels) == answers_module._MAX_BUNDLES
