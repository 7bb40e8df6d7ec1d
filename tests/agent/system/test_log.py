"""Logs hold no text of a user, whatever failed."""

from __future__ import annotations

import json
import sys
import threading

import pytest

from agent.system import log

SECRET = "zzsecretzz"


@pytest.fixture(autouse=True)
def hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program sets for itself is not set for other tests."""
    for owner, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(owner, name, getattr(owner, name))


def test_an_exception_is_logged_without_locals_and_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A library's message may quote the text that it choked on."""
    log.configure()

    def choke(text: str) -> None:
        words = text.split()
        raise ValueError(f"cannot encode {words}")

    try:
        choke(f"{SECRET} and more")
    except ValueError:
        log.logger("test").exception("failed")
    said = capsys.readouterr().err
    assert SECRET not in said
    line = json.loads(said)
    assert line["exception"]["type"] == "ValueError"
    assert any(" choke" in frame for frame in line["exception"]["frames"])


def test_what_the_system_says_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk is named; it quotes a path at most."""
    log.configure()
    try:
        raise OSError(28, "No space left on device")
    except OSError:
        log.logger("test").exception("failed")
    assert "No space left" in json.loads(capsys.readouterr().err)["exception"]["message"]
