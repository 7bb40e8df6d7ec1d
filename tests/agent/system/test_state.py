"""The state folder: whose it is, and on a disk that takes nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from agent.system.state import StateFolder
from contracts.errors import UnavailableError
from tests.support.engine import FakeClock

NOW = 1_800_000_000
"""Seconds since the epoch."""


def test_a_second_agent_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    """One agent at a time on one folder."""
    first = StateFolder(tmp_path)
    with pytest.raises(UnavailableError, match="another agent runs"):
        StateFolder(tmp_path)
    first.close()
    StateFolder(tmp_path).close()


def session(folder: Path, now: float, connections: int = 1) -> int:
    """The session of the last of some connections of one run of the agent."""
    state = StateFolder(folder, FakeClock(now))
    try:
        return [state.next_session() for _ in range(connections)][-1]
    finally:
        state.close()


@pytest.mark.parametrize("lost", ["wiped", "damaged", "out of range", "not written"])
def test_a_device_that_lost_its_count_is_heard(
    tmp_path: Path, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller drops what has a lower session than it has seen."""
    counter = tmp_path / "session"
    if lost == "not written":
        monkeypatch.setattr("agent.system.state.write_durably", refused)
    seen = session(tmp_path, NOW, 400)
    match lost:
        case "wiped":
            counter.unlink()
        case "damaged":
            counter.write_bytes(b"garbage")
        case "out of range":
            counter.write_bytes(b"9007199254740993")
    assert session(tmp_path, NOW + 5) > seen


def refused(*_: object) -> None:
    """What a full disk does."""
    raise OSError(errno.ENOSPC, "full")


@pytest.mark.parametrize("now", [0.0, 1e9, NOW - 1e6, 1e300])
def test_whatever_the_clock_says_the_session_grows(tmp_path: Path, now: float) -> None:
    """By one where it is not set at boot, was set back, or is absurd."""
    (tmp_path / "session").write_bytes(b"1800000000000")
    assert session(tmp_path, now) == 1_800_000_000_001
    assert session(tmp_path, now, 2) == 1_800_000_000_003


def test_a_clock_that_is_set_later_counts_from_then_on(tmp_path: Path) -> None:
    """Without one a wiped device begins at 1."""
    clock = FakeClock(5.0)
    state = StateFolder(tmp_path, clock)
    first = state.next_session()
    clock.now = NOW
    assert (first, state.next_session(), state.next_session()) == (1, NOW * 1000, NOW * 1000 + 1)
    state.close()


def test_the_highest_session_stays(tmp_path: Path) -> None:
    """Above it the controller would refuse each status."""
    (tmp_path / "session").write_bytes(b"9007199254740990")
    assert [session(tmp_path, NOW) for _ in range(3)] == [2**53 - 1] * 3


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_in_which_nothing_can_be_made_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """What is installed there serves; the session counts in memory."""
    opened = os.open

    def refuse(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    state = StateFolder(tmp_path)
    sessions = [state.next_session() for _ in range(2)]
    assert sessions[0] < sessions[1]
    with pytest.raises(UnavailableError, match="another agent runs"):
        StateFolder(tmp_path)
    state.close()
