"""Hard examples: what is kept, how much of it, encrypted, and readable by the owner alone."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from agent.__main__ import main
from agent.serving.answers import MAX_TEXT_BYTES, Answers
from agent.serving.examples import DATABASE, KEY, MAX_WAITING, Examples, erase, read
from agent.telemetry.recorder import Recorder
from contracts.answers import Classified
from contracts.bundle import Bundle
from contracts.config import AgentConfig, ExamplesConfig
from contracts.errors import InputError, UnavailableError
from contracts.requests import FeedbackRequest
from fleet.identity import provisioning
from tests.support.controller import TINY

REF = Bundle.open(TINY).ref
MANIFEST = Bundle.open(TINY).manifest
assert MANIFEST.classifier is not None
ONE, TWO = MANIFEST.classifier.labels[:2]
DAY = 24 * 3600.0


class Bench:
    """Examples in a folder, whose time a test sets."""

    def __init__(self, folder: Path, **config: float) -> None:
        self.folder = folder
        self.now = 1_800_000_000.0
        self.dropped = 0
        self.config = ExamplesConfig(keep=True, **config)  # type: ignore[arg-type]
        self.examples = Examples(folder, self.config, lambda: self.now, self._drop)

    def _drop(self) -> None:
        self.dropped += 1

    def answer(
        self, text: str, confidence: float, *, threshold: float = 0.0, hidden: str | None = None
    ) -> None:
        """A model answered."""
        self.now += 1
        said = Classified(ONE, confidence, [], REF, 1.0)
        self.examples.consider("classify", text, said, threshold, hidden)

    def kept(self) -> dict[str, list[str]]:
        """Texts with their reasons, once all is written."""
        self.examples.flush()
        return {one.text: list(one.reasons) for one in read(self.folder)}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Nothing is kept yet."""
    return Bench(tmp_path)


def test_what_is_hard_is_kept_and_says_why(bench: Bench) -> None:
    """Not sure, near the threshold, or another label by the shadow; the rest is not kept."""
    bench.answer("sure", 0.95)
    bench.answer("sure, and the shadow agrees", 0.95, hidden=ONE)
    bench.answer("unsure", 0.3)
    bench.answer("near", 0.72, threshold=0.7)
    bench.answer("not near", 0.8, threshold=0.7)
    bench.answer("the shadow differs", 0.95, hidden=TWO)
    bench.answer("all of it", 0.4, threshold=0.42, hidden=TWO)
    assert bench.kept() == {
        "unsure": ["low-confidence"],
        "near": ["near-threshold"],
        "the shadow differs": ["shadow-disagrees"],
        "all of it": ["low-confidence", "near-threshold", "shadow-disagrees"],
    }


def test_a_corrected_answer_is_kept_with_the_right_label(bench: Bench) -> None:
    """The text waits in memory for the correction; one that was right is forgotten."""
    answers = Answers(Recorder(lambda: 0), lambda: 0.0, bench.examples)
    for name in ("wrong", "right", "never judged"):
        said = Classified(ONE, 0.99, [], REF, 1.0)
        answers.classified("classify", name.replace(" ", "-"), said, MANIFEST, f"text of {name}")
    answers.judge(FeedbackRequest(answer="wrong", label=TWO))
    answers.judge(FeedbackRequest(answer="wrong", label=TWO))
    answers.judge(FeedbackRequest(answer="right", right=True))
    assert bench.kept() == {"text of wrong": ["corrected"]}
    (one,) = read(bench.folder)
    assert (one.meant, one.label, one.confidence, one.bundle) == (TWO, ONE, 0.99, REF)
    assert list(answers._texts.values()) == ["text of never judged"]


def test_texts_that_wait_for_a_correction_are_bounded(bench: Bench) -> None:
    """The oldest text is forgotten; its answer may be judged all the same."""
    answers = Answers(Recorder(lambda: 0), lambda: 0.0, bench.examples)
    long = "ä" * 8000
    for number in range(100):
        said = Classified(ONE, 0.99, [], REF, 1.0)
        answers.classified("classify", f"q{number}", said, MANIFEST, long)
    assert answers._text_bytes <= MAX_TEXT_BYTES
    assert answers._text_bytes == sum(len(t.encode()) for t in answers._texts.values())
    assert not answers.judge(FeedbackRequest(answer="q0", label=TWO)).right
    plain = Answers(Recorder(lambda: 0), lambda: 0.0)
    plain.classified("classify", "q", Classified(ONE, 0.99, [], REF, 1.0), MANIFEST, long)
    assert not plain._texts, "where nothing is kept no text waits"


def test_nothing_on_the_disk_can_be_read_without_the_key(bench: Bench) -> None:
    """Neither texts nor labels; a copy of the database alone is worth nothing."""
    bench.answer("turn on the marmalade", 0.1)
    assert bench.kept()
    bench.examples.close()
    for path in bench.folder.iterdir():
        data = path.read_bytes()
        assert b"marmalade" not in data, path
        assert ONE.encode() not in data, path
        assert path.stat().st_mode & 0o077 == 0 or path.suffix != ".key"
    (bench.folder / KEY).write_bytes(os.urandom(32))
    with pytest.raises(InputError) as error:
        read(bench.folder)
    assert error.value.code == "bad-key"
    (bench.folder / KEY).unlink()
    with pytest.raises(UnavailableError):
        read(bench.folder)
    bench.answer("begun anew", 0.1)
    assert bench.kept() == {"begun anew": ["low-confidence"]}


def test_a_text_is_kept_once_with_its_best_reason(bench: Bench) -> None:
    """What is asked again and again takes no more room, and a correction is not lost for it."""
    for _ in range(5):
        bench.answer("again", 0.2)
    bench.examples.corrected("classify", "again", ONE, 0.2, REF, TWO)
    bench.answer("again", 0.2)
    assert bench.kept() == {"again": ["corrected"]}
    bench.examples.corrected("other", "again", ONE, 0.2, REF, TWO)
    bench.examples.flush()
    assert len(read(bench.folder)) == 2, "of another slot it is another"


def test_room_is_made_by_rank_and_age_and_the_file_stays_small(tmp_path: Path) -> None:
    """Corrections stay longest; the bound holds for the file too."""
    bench = Bench(tmp_path, max_bytes=20_000)
    for number in range(10):
        bench.examples.corrected("classify", f"corrected {number}", ONE, 0.2, REF, TWO)
    bench.examples.flush()
    for number in range(200):
        bench.answer(f"unsure {number} " + "x" * 200, 0.2)
        if number % 20 == 0:
            bench.examples.flush()
    kept = bench.kept()
    assert sum(name.startswith("corrected") for name in kept) == 10
    unsure = [int(name.split()[1]) for name in kept if name.startswith("unsure")]
    assert unsure
    assert min(unsure) > 150, "the newest"
    bench.examples.close()
    size = sum(p.stat().st_size for p in tmp_path.iterdir())
    assert size < 2 * 20_000 + 80_000


def test_what_is_old_goes(bench: Bench) -> None:
    """A month, unless the configuration says otherwise."""
    bench.answer("old", 0.1)
    assert bench.kept()
    bench.now += 31 * DAY
    bench.answer("new", 0.1)
    assert bench.kept() == {"new": ["low-confidence"]}


def test_a_flood_is_dropped_and_counted(bench: Bench) -> None:
    """The list in memory is short; nothing waits for the disk."""
    for number in range(MAX_WAITING + 10):
        bench.answer(f"t{number}", 0.1)
    assert bench.dropped == 10
    assert len(bench.kept()) == MAX_WAITING


def test_a_disk_that_takes_nothing_loses_examples_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are counted; once there is room again, what comes is kept."""
    folder = tmp_path / "gone"
    bench = Bench(folder)
    bench.answer("zqx lost", 0.1)
    bench.examples.flush()
    assert bench.dropped == 1
    folder.mkdir()
    bench.answer("kept", 0.1)
    assert bench.kept() == {"kept": ["low-confidence"]}
    assert "zqx" not in caplog.text


def test_a_damaged_database_is_begun_anew(bench: Bench) -> None:
    """A power cut or a bad card must not end it for ever."""
    bench.answer("before", 0.1)
    assert bench.kept()
    bench.examples.close()
    for path in bench.folder.glob(f"{DATABASE}*"):
        path.write_bytes(b"no database at all, but long enough to be looked at " * 100)
    with pytest.raises(UnavailableError):
        read(bench.folder)
    bench.answer("after", 0.1)
    assert bench.kept() == {"after": ["low-confidence"]}


def test_a_row_that_was_changed_is_left_out(bench: Bench) -> None:
    """Ciphertext is authenticated, with the place that it stands in."""
    for number in range(3):
        bench.answer(f"t{number}", 0.1)
    assert len(bench.kept()) == 3
    bench.examples.close()
    with sqlite3.connect(bench.folder / DATABASE) as db:
        first, second = (row[0] for row in db.execute("SELECT data FROM example LIMIT 2"))
        db.execute("UPDATE example SET data = ? WHERE data = ?", (second, first))
    db.close()
    assert len(read(bench.folder)) == 2


def test_the_owner_reads_and_erases_them_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also while an agent writes; with the key gone, nothing is left to read."""
    config = AgentConfig("home", "kitchen", "raspberry-pi-5", "{}")
    path = tmp_path / "agent.yaml"
    path.write_bytes(provisioning.to_yaml(config))
    command = ["samples", "--config", str(path)]
    assert main(command) == 1
    assert "examples in agent.yaml" in capsys.readouterr().err
    (tmp_path / "state").mkdir()
    bench = Bench(tmp_path / "state")
    bench.answer("turn on\nthe marmalade", 0.1)
    bench.examples.corrected("classify", "set a teapot", ONE, 0.9, REF, TWO)
    bench.examples.flush()
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "turn on the marmalade" in shown
    assert f"{ONE}, right is {TWO}" in shown
    assert main([*command, "--json"]) == 0
    assert '"meant"' in capsys.readouterr().out
    bench.examples.close()
    assert main([*command, "--erase"]) == 0
    assert capsys.readouterr().out == "erased\n"
    assert not erase(tmp_path / "state")
    assert main(command) == 1


def test_nothing_is_kept_unless_the_configuration_says_so() -> None:
    """Of an agent.yaml that does not speak of it."""
    assert not AgentConfig("home", "kitchen", "raspberry-pi-5", "{}").examples.keep
