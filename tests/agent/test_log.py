"""Log lines: JSON for a collector, text for a person, and never an error of their own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import log


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    """Each test begins and ends as a program does."""
    log.configure()
    yield
    log.configure()


def test_a_line_is_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    """Module, level, time and fields; what JSON does not know is its text."""
    log.logger("agent.x").warning("no way", path=Path("/a"), name="l\n\udcff", tries=2)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    found = json.loads(err)
    assert found.pop("timestamp").endswith("Z")
    assert found == {
        "module": "agent.x", "event": "no way", "level": "warning",
        "path": "/a", "name": "l\n\udcff", "tries": 2,
    }  # fmt: skip


def test_a_terminal_gets_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fields follow the event."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    log.logger("agent.x").info("ready", device="a")
    assert capsys.readouterr().err.endswith("Z info    ready device=a (agent.x)\n")


def test_debug_lines_are_for_those_who_ask(capsys: pytest.CaptureFixture[str]) -> None:
    """By default they are dropped."""
    one = log.logger("agent.x")
    one.debug("one")
    log.configure(debug=True)
    one.debug("two")
    log.show(None)
    one.error("three")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["two"]


def test_an_exception_brings_its_stack(capsys: pytest.CaptureFixture[str]) -> None:
    """As a field of the one line."""
    try:
        raise ValueError("seven")
    except ValueError:
        log.logger("agent.x").exception("failed")
    found = json.loads(capsys.readouterr().err)
    assert found["level"] == "error"
    assert found["exception"].endswith("ValueError: seven\n")
