"""Hard examples leave a device by consent alone: chosen, redacted, bounded, and written down."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.__main__ import main
from agent.serving.examples import Example, Examples, erase, marked
from agent.serving.registry import Registry
from agent.serving.reply import Reply
from agent.sharing import choice
from agent.sharing.giving import Giving, consents
from agent.sharing.ledger import MAX_WAITING, Ask, Ledger
from contracts import limits
from contracts.answers import Answer, Classified
from contracts.bundle import Bundle
from contracts.config import AgentConfig, ExamplesConfig, RedactConfig, SourceConfig
from contracts.errors import InputError, RefusedError
from contracts.requests import SamplesRequest
from fleet.identity import provisioning
from tests.support.controller import TINY

REF = Bundle.open(TINY).ref
MODEL = REF.name


class Bench:
    """What a device gives, whose time a test sets."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder / "state"
        self.folder.mkdir()
        self.now = time.time()  # the owner's commands know no other
        examples = ExamplesConfig(keep=True, **config)
        self.config = AgentConfig(
            fleet="home", device="kitchen", board="raspberry-pi-5", trust_root="{}",
            examples=examples,
            sources=[
                SourceConfig("open", "stdin", share="hard"),
                SourceConfig("shut", "stdin"),
            ],
        )  # fmt: skip
        self.path = folder / "agent.yaml"
        self.path.write_bytes(provisioning.to_yaml(self.config))
        self.examples = Examples(self.folder, examples, lambda: self.now)
        self.registry = Registry()
        giving = Giving(self.folder, self.config, self.examples, lambda: self.now, lambda: self.now)
        giving.register(self.registry)

    def hard(self, text: str, confidence: float = 0.3, source: str = "", label: str = "x") -> None:
        """A model answered, and was not sure."""
        self.now += 1
        said = Classified(label, confidence, [], REF, 1.0)
        self.examples.consider("classify", text, said, 0.0, None, source)

    def ask(self, name: str = "a1", most: int = 50, kept: tuple[str, ...] = ()) -> Answer:
        """What is answered to a request."""
        self.now += 5
        heard: list[Answer] = []
        done = threading.Event()
        reply = Reply("r1", "kitchen", heard.append, monotonic=lambda: 0.0, done=done.set)
        request = SamplesRequest(ask=name, model=MODEL, most=most, kept=list(kept), requester="ann")
        try:
            self.registry.get("samples").handler(request, reply)
        except RefusedError as error:
            reply.fail(error)
        assert done.wait(60)
        return heard[0]

    def texts(self, name: str = "a1", most: int = 50) -> list[str]:
        """The texts that leave."""
        answer = self.ask(name, most)
        assert answer.shared is not None, answer.error
        return [one.text for one in answer.shared.samples]

    def command(self, *arguments: str) -> int:
        """``shoal-agent samples``."""
        return main(["samples", "--config", str(self.path), *arguments])


def test_without_consent_nothing_leaves_and_the_request_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The owner sees who asks and what would leave, approves, and reads later what has left."""
    bench = Bench(tmp_path)
    bench.hard("call 0170 123 please")
    bench.hard("from the shut source", source="shut")
    first = bench.ask()
    assert first.shared is None and first.error is not None
    assert first.error.code == "consent-needed"
    assert "170" not in repr(first) and "shut" not in repr(first), "not even how many there are"
    assert bench.command("audit") == 0
    assert capsys.readouterr().out == "nothing has left\n"
    assert bench.command("requests", "--json") == 0
    (waits,) = json.loads(capsys.readouterr().out)
    assert (waits["name"], waits["requester"], waits["state"]) == ("a1", "ann", "waiting")
    assert sorted(waits["would_leave"]) == ["call <number> please", "from the shut source"]
    assert bench.command("approve", "a1") == 0
    assert sorted(bench.texts()) == ["call <number> please", "from the shut source"]
    assert bench.ask("a2").error is not None, "another request needs another word"
    capsys.readouterr()
    assert bench.command("audit", "--json") == 0
    left = json.loads(capsys.readouterr().out)
    assert sorted(one["text"] for one in left) == ["call <number> please", "from the shut source"]
    assert {(one["ask"], one["requester"], one["consent"]) for one in left} == {
        ("a1", "ann", "owner")
    }
    assert bench.command("audit") == 0
    assert "call <number> please" in capsys.readouterr().out


def test_a_source_that_shares_gives_its_own_texts_alone(tmp_path: Path) -> None:
    """A text that came from elsewhere too needs the consent of both."""
    bench = Bench(tmp_path)
    bench.hard("of the open source", source="open")
    bench.hard("of the shut source", source="shut")
    bench.hard("somebody asked this")
    bench.hard("of both", source="open")
    bench.hard("of both", source="shut")
    assert bench.texts() == ["of the open source"]
    assert consents(Example(0, "s", "t", "l", 0, REF, ["corrected"]), {}) is False
    with Ledger(bench.folder) as ledger:
        assert [one.state for one in ledger.asks(bench.now)] == ["waiting"], "for the others"


@pytest.mark.parametrize("shares", [("hard", "ask"), ("ask", "hard")])
def test_of_two_sources_with_one_name_both_must_consent(tmp_path: Path, shares: Any) -> None:
    """Which of them a text came from is not kept."""
    bench = Bench(tmp_path)
    twice = [
        SourceConfig("hall", "unix", f"/run/{index}", share=one) for index, one in enumerate(shares)
    ]
    config = msgspec.structs.replace(bench.config, sources=[*bench.config.sources, *twice])
    registry = Registry()
    giving = Giving(bench.folder, config, bench.examples, lambda: bench.now, lambda: bench.now)
    giving.register(registry)
    bench.registry = registry
    bench.hard("of the open source", source="open")
    bench.hard("of either", source="hall")
    assert bench.texts() == ["of the open source"]


def test_what_is_refused_or_never_shared_does_not_leave(tmp_path: Path) -> None:
    """The owner's no, and `never`, which an approval does not change."""
    (tmp_path / "never").mkdir()
    bench = Bench(tmp_path)
    bench.hard("mine")
    bench.ask()
    assert bench.command("refuse", "a1") == 0
    error = bench.ask().error
    assert error is not None and error.code == "samples-withheld"
    never = Bench(tmp_path / "never", share="never")
    never.hard("of the open source", source="open")
    error = never.ask().error
    assert error is not None and error.code == "samples-withheld"


def test_what_the_fleet_has_leaves_no_more_and_what_it_has_not_comes_again(tmp_path: Path) -> None:
    """The same sample under the same id; `most` counts over all answers to one request."""
    bench = Bench(tmp_path, share="hard")
    for number in range(9):
        bench.hard(f"text {'abcdefghi'[number]} and so on")
    first = bench.ask(most=4).shared
    again = bench.ask(most=4).shared
    assert first is not None and again is not None and len(first.samples) == 4
    assert {one.id for one in first.samples} == {one.id for one in again.samples}
    assert {one.id for one in first.samples} < set(marked(bench.folder))
    ids = tuple(one.id for one in first.samples)
    rest = bench.ask(most=4, kept=ids).shared
    assert rest is not None and rest.samples == []
    other = bench.ask("a2", kept=("0" * 32,)).shared
    assert other is not None and len(other.samples) == 5
    assert not {one.id for one in other.samples} & set(ids)
    with Ledger(bench.folder) as ledger:
        assert sorted(one.times for one in ledger.left()) == [1] * 5 + [2] * 4
        assert sum(one.kept_at is not None for one in ledger.left()) == 4


def test_an_answer_is_bounded_and_the_next_one_brings_the_rest(tmp_path: Path) -> None:
    """Texts over the cap stay; bytes of an answer have a cap."""
    bench = Bench(tmp_path, share="hard")
    bench.hard("way " * 600)
    for number in range(40):
        bench.hard(f"x{chr(97 + number % 26)}{chr(97 + number // 26)} " * 480)
        bench.examples.flush()
    found: set[str] = set()
    kept: tuple[str, ...] = ()
    for _ in range(4):
        shared = bench.ask(most=200, kept=kept).shared
        assert shared is not None
        size = sum(len(one.text.encode()) for one in shared.samples)
        assert size <= limits.MAX_SAMPLES_BYTES
        assert all(len(one.text.encode()) <= limits.MAX_SAMPLE_BYTES for one in shared.samples)
        kept = tuple(one.id for one in shared.samples)
        found |= {one.text for one in shared.samples}
    assert len(found) == 40


def test_a_request_cannot_be_widened_after_it_was_approved(tmp_path: Path) -> None:
    """The same name with another number is another request."""
    bench = Bench(tmp_path)
    bench.hard("mine")
    bench.ask(most=1)
    assert bench.command("approve", "a1") == 0
    error = bench.ask(most=200).error
    assert error is not None and error.code == "id-in-use"
    assert bench.texts(most=1) == ["mine"]


def test_nothing_leaves_that_cannot_be_written_down_or_redacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full, a key that is gone, patterns that never end."""
    bench = Bench(tmp_path, share="hard", redact=RedactConfig(patterns=["(a+)+$"]))
    bench.hard("mine")
    monkeypatch.setattr("agent.sharing.redaction.subprocess.run", _fails)
    error = bench.ask().error
    assert error is not None and error.code == "redaction-failed"
    monkeypatch.undo()

    class Full(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> Any:
            if sql.startswith("INSERT INTO leaving"):
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, *arguments)

    connect = sqlite3.connect
    monkeypatch.setattr(
        "agent.sharing.ledger.sqlite3.connect", lambda *a, **k: connect(*a, factory=Full, **k)
    )
    error = bench.ask("a3").error
    assert error is not None and error.code == "not-written"
    monkeypatch.undo()
    assert bench.texts("a4") == ["mine"]


def _fails(*_arguments: Any, **_options: Any) -> Any:
    raise OSError("no process")


def test_what_is_erased_cannot_be_read_in_the_audit_either(tmp_path: Path) -> None:
    """That it left stays known, its text does not."""
    bench = Bench(tmp_path, share="hard")
    bench.hard("mine, all mine")
    assert bench.texts() == ["mine, all mine"]
    bench.examples.close()
    assert erase(bench.folder)
    with Ledger(bench.folder) as ledger:
        (left,) = ledger.left()
    assert left.text is None and left.ask == "a1"
    for path in bench.folder.iterdir():
        assert b"all mine" not in path.read_bytes(), path


def test_requests_that_wait_are_bounded_and_end(tmp_path: Path) -> None:
    """A flood pushes the oldest out; a week later nothing waits."""
    with Ledger(tmp_path) as ledger:
        for number in range(MAX_WAITING + 20):
            ledger.note(Ask(f"a{number}", MODEL, 5, "", "", 1000.0 + number, "waiting"))
        found = [one.name for one in ledger.asks(2000.0)]
        assert len(found) == MAX_WAITING and "a0" not in found
        ledger.decide("a119", "approved", 2000.0)
        assert ledger.asks(2000.0 + 8 * 24 * 3600) == []
        with pytest.raises(InputError) as error:
            ledger.decide("a119", "approved", 2000.0 + 8 * 24 * 3600)
        assert error.value.code == "no-such-request"


def test_the_most_telling_are_chosen_and_unlike_each_other() -> None:
    """A correction before as good a guess; one of many that say the same."""

    def one(text: str, confidence: float, *reasons: Any, times: int = 1) -> Example:
        return Example(0, "classify", text, "x", confidence, REF, list(reasons), times=times)

    same = [one(f"turn on the light in the {room}", 0.4, "low-confidence")
            for room in ("kitchen", "cellar", "garden")]  # fmt: skip
    corrected = one("is it going to rain", 0.6, "corrected")
    sure = one("is it going to snow", 0.97, "corrected")
    odd = one("defrost the freezer", 0.5, "low-confidence")
    chosen = choice.choose([*same, odd, corrected], 3)
    assert chosen[0] == corrected
    assert {one.text for one in chosen[1:]} >= {"defrost the freezer"}
    assert choice.choose([sure, odd], 1) == [odd], "one correction in ten is false"
    often = one("water the plants", 0.59, "low-confidence", times=40)
    assert choice.choose([odd, often], 1) == [often]
    assert choice.choose([], 3) == [] and choice.choose(same, 0) == []
