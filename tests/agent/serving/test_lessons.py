"""Lessons on a device: a label from five examples, what it costs, and how it is taken back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.runtime import model as models
from agent.serving.answers import Answers
from agent.serving.handlers import Answering
from agent.serving.lessons import FILE, Lessons
from agent.serving.models import Models
from agent.serving.registry import Registry
from agent.serving.reply import Reply
from agent.serving.teaching import Teaching
from agent.serving.worker import Worker
from agent.system.filesystem import Disk
from agent.telemetry.recorder import Recorder
from contracts import codec, limits
from contracts.answers import Answer, Classified, Taught
from contracts.bundle import Bundle
from contracts.errors import ShoalError
from contracts.messages import Reported
from contracts.requests import FeedbackRequest, TeachRequest
from tests.support.controller import TINY, TINY_NEXT
from tests.support.faulty_disk import CRASHES, Fault, FaultyDisk, PowerCut

MUSIC = [
    "play some music in the kitchen",
    "put on a song by the beatles",
    "play my favourite album",
    "start the jazz playlist",
    "I want to hear some rock music",
]
GOLDEN = [vector.text for vector in Bundle.open(TINY).golden()]


class Bench:
    """A device's classifier with its lessons; `disk`: what they are written to."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self.root = root
        self.models = Models(models.Options())
        self.models.activate("classify", TINY)
        self.changes = 0
        self.recorder = Recorder(lambda: 0)
        self.answers = Answers(self.recorder, lambda: 1.0)
        self.start(disk or Disk())

    def start(self, disk: Disk) -> None:
        """Begins anew, with what is on the disk."""
        self.lessons = Lessons(disk, self.root, self.models.ref)
        self.registry = Registry()
        Teaching(self.models, self.lessons, lambda: 7.0, self._changed).register(self.registry)
        self.answering = Answering(
            self.models, self.recorder, Worker(4, lambda *_: None), self._reported, self.answers,
            lessons=self.lessons,
        )  # fmt: skip

    def _changed(self) -> None:
        self.changes += 1

    def _reported(self) -> Reported:
        raise AssertionError("nobody asks")

    def ask(self, **fields: Any) -> Answer:
        """What is answered to ``teach``."""
        heard: list[Answer] = []
        reply = Reply("r1", "kitchen", heard.append, monotonic=lambda: 0.0)
        request = msgspec.convert({"requester": "ann", **fields}, TeachRequest)
        try:
            self.registry.get("teach").handler(request, reply)
        except ShoalError as error:
            reply.fail(error)
        return heard[0]

    def teach(self, lesson: str = "one", **fields: Any) -> Taught:
        """Teaches music."""
        answer = self.ask(**{"lesson": lesson, "label": "music", "texts": MUSIC, **fields})
        assert answer.error is None
        assert answer.taught is not None
        return answer.taught

    def code(self, **fields: Any) -> str:
        """The code of the error that is answered."""
        answer = self.ask(**{"lesson": "one", "label": "music", "texts": MUSIC, **fields})
        assert answer.error is not None
        return answer.error.code

    def says(self, text: str) -> Classified:
        """What the device answers."""
        return self.answering.label("classify", text, answer_id="q1")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A device that was taught nothing."""
    made = Bench(tmp_path)
    yield made
    made.models.close()


def test_a_label_is_taught_by_five_examples_and_the_others_stay(bench: Bench) -> None:
    """An answer that a lesson gave says so; what the model was built with is answered as before."""
    before = [bench.says(text) for text in GOLDEN]
    assert bench.says("play a song").label != "music"
    taught = bench.teach()
    (lesson,) = taught.lessons
    assert (lesson.name, lesson.label, lesson.examples, lesson.by) == ("one", "music", 5, "ann")
    assert lesson.serves
    answer = bench.says("play some rock music in the kitchen")
    assert answer.label == "music"
    assert answer.taught
    assert 0.5 <= answer.confidence <= 1
    assert answer.top[0].label == "music"
    assert sum(one.confidence for one in answer.top) <= 1.0001
    after = [bench.says(text) for text in GOLDEN]
    assert [one.label for one in after] == [one.label for one in before]
    assert not any(one.taught for one in after)


def test_a_lesson_taken_back_leaves_the_device_as_it_was(bench: Bench) -> None:
    """Its features are gone from the disk, too."""
    text = "play some rock music in the kitchen"
    before = msgspec.structs.replace(bench.says(text), latency_us=0)
    bench.teach()
    bench.teach("two", texts=["listen to the radio", "turn the radio on"])
    assert bench.code(action="undo", lesson="three") == "no-such-lesson"
    answer = bench.ask(action="undo", lesson="one")
    assert answer.taught is not None
    assert [one.name for one in answer.taught.lessons] == ["two"]
    assert bench.ask(action="undo", lesson="two").error is None
    assert bench.lessons.of("classify") == []
    assert msgspec.structs.replace(bench.says(text), latency_us=0) == before
    assert b"one" not in (bench.root / FILE).read_bytes()
    assert bench.changes == 4, "the reported document is told anew each time"


def test_no_text_is_kept(bench: Bench) -> None:
    """No word of an example is in the file."""
    bench.teach()
    kept = (bench.root / FILE).read_bytes()
    words = {word for text in MUSIC for word in text.split() if len(word) > 3} - {"music"}
    assert not [word for word in words if word.encode() in kept]
    assert len(kept) < 40_000


def test_a_lesson_survives_a_restart(bench: Bench) -> None:
    """What was answered as taught is answered so after it."""
    bench.teach()
    bench.start(Disk())
    assert bench.says("play some rock music in the kitchen").taught
    assert [one.name for one in bench.lessons.of("classify")] == ["one"]


def test_a_lesson_answers_for_its_model_alone(bench: Bench) -> None:
    """With another version it does not; with its own again it does, as after a rollback."""
    bench.teach()
    bench.models.activate("classify", TINY_NEXT)
    assert not bench.says("play some rock music in the kitchen").taught
    (lesson,) = bench.lessons.of("classify")
    assert not lesson.serves
    bench.models.activate("classify", TINY)
    assert bench.says("play some rock music in the kitchen").taught
    bench.models.activate("classify", TINY_NEXT)
    (lesson,) = bench.teach().lessons
    assert lesson.serves, "of the same name, for the model that serves now"


def test_feedback_may_name_a_label_that_was_taught(bench: Bench) -> None:
    """The right label of an answer may be one that the bundle has not."""
    bench.teach()
    bench.says("turn on the light")
    noted = bench.answers.judge(FeedbackRequest(answer="q1", label="music"))
    assert not noted.right


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"label": None}, "bad-lesson"),
        ({"lesson": None}, "bad-lesson"),
        ({"texts": []}, "bad-lesson"),
        ({"texts": ["play", "  "]}, "bad-lesson"),
        ({"label": "unknown"}, "bad-lesson"),
        ({"label": " music"}, "bad-lesson"),
        ({"label": "mu\nsic"}, "bad-lesson"),
        ({"texts": ["a\ud800"]}, "bad-text"),
        ({"model": "another"}, "other-model"),
        ({"slot": "generate"}, "no-model"),
        ({"action": "undo", "lesson": None}, "bad-lesson"),
    ],
)
def test_what_is_no_lesson_is_refused_by_name(
    bench: Bench, fields: dict[str, Any], code: str
) -> None:
    """Nothing is kept of it."""
    assert bench.code(**fields) == code
    assert bench.lessons.of("classify") == []
    assert not (bench.root / FILE).exists()


def test_the_same_lesson_again_changes_nothing_and_another_of_its_name_is_refused(
    bench: Bench,
) -> None:
    """A redelivered request is no second lesson."""
    assert bench.teach().lessons == bench.teach().lessons
    assert bench.code(texts=["something else"]) == "id-in-use"
    assert bench.code(label="songs") == "id-in-use"


def test_lessons_are_bounded_and_those_of_a_model_that_is_gone_make_room(bench: Bench) -> None:
    """Texts of one lesson, too: by the message."""
    for number in range(limits.MAX_LESSONS):
        bench.teach(f"l{number}", texts=MUSIC[:1])
    assert bench.code(lesson="more") == "too-many-lessons"
    assert len(codec.encode(bench.lessons.of("classify"))) < 16 * limits.KIB
    bench.models.activate("classify", TINY_NEXT)
    lessons = bench.teach("more").lessons
    assert len(lessons) == limits.MAX_LESSONS
    assert [one.name for one in lessons if one.serves] == ["more"]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"texts": ["x"] * (limits.MAX_LESSON_TEXTS + 1)}, TeachRequest)


@pytest.mark.parametrize("fault", [*CRASHES, "ENOSPC"])
def test_a_fault_of_the_disk_leaves_the_lessons_of_before_or_of_after(
    tmp_path: Path, fault: Fault
) -> None:
    """At every operation on it; a device that goes on says what it has."""
    base = tmp_path / "base"
    base.mkdir()
    bench = Bench(base)
    bench.teach()
    seen = set()
    for number in range(1, 20):  # the first reads
        root = tmp_path / str(number)
        shutil.copytree(base, root)
        disk = FaultyDisk(root, number, fault)
        bench.root = root
        bench.start(disk)
        try:
            said = bench.ask(lesson="two", label="radio", texts=["listen to the radio"])
        except PowerCut:
            said = None
        found = [one.name for one in Lessons(Disk(), root, lambda _: None).of("classify")]
        assert found in (["one"], ["one", "two"])
        seen.add(len(found))
        if not disk.fired:
            break
        if said is not None:
            assert said.error is not None
            assert said.error.code == "lesson-not-kept"
            assert [one.name for one in bench.lessons.of("classify")] == ["one"]
    else:
        raise AssertionError("it never ended")
    bench.models.close()
    assert seen == {1, 2}


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema":2,"lessons":[]}', b"[" * 100_000])
def test_a_damaged_file_is_no_lesson_and_stops_nothing(tmp_path: Path, content: bytes) -> None:
    """The device answers as its model does, and can be taught again."""
    (tmp_path / FILE).write_bytes(content)
    bench = Bench(tmp_path)
    assert not bench.says("play a song").taught
    assert len(bench.teach().lessons) == 1
    bench.models.close()


def test_features_of_another_size_are_passed_over(bench: Bench) -> None:
    """A file that was written by somebody else must not stop the model."""
    bench.teach()
    text = (bench.root / FILE).read_bytes()
    document = msgspec.json.decode(text)
    document["lessons"][0]["examples"][0]["response"] = "AAAA"
    (bench.root / FILE).write_bytes(msgspec.json.encode(document))
    bench.start(Disk())
    assert not bench.says("play some rock music in the kitchen").taught
