"""A wrong clock is known by the controller's, named, and forgotten when it was set."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from agent.system.clock import EARLIEST
from agent.system.controller_clock import (
    MAX_ANSWER_S,
    WRONG,
    ControllerClock,
    certificate_time,
)
from contracts.clock import span, utc
from tests.support.engine import FakeClock

DAY_S = 24 * 3600.0


class Board(FakeClock):
    """A device whose wall clock is ahead of the controller's, which is `now`."""

    def __init__(self, ahead_s: float = 0.0) -> None:
        super().__init__()
        self.ahead_s = ahead_s
        self.changes = 0
        self.heard = ControllerClock(self, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def time(self) -> float:
        """By the device."""
        return self.now + self.ahead_s

    def ask(self, took: float = 1.0, read_after: float = 0.5) -> None:
        """A round trip to the controller."""
        sent, at = self.now, self.now + read_after
        self.now += took
        self.heard.heard(at, sent)


@pytest.mark.parametrize(
    ("ahead_s", "words"),
    [
        (30 * DAY_S, "30 days ahead of the controller's"),
        (-30 * DAY_S, "30 days behind the controller's"),
        (3600 * 3, "3 hours ahead"),
        (-600, "10 minutes behind"),
        (119, None),
        (60, None),
        (0, None),
    ],
)
def test_a_clock_is_compared_with_the_controllers(ahead_s: float, words: str | None) -> None:
    """Both times are in the reason; what the way took counts for the device."""
    board = Board(ahead_s)
    board.ask(took=2.0)
    fault = board.heard.fault()
    if words is None:
        assert fault is None
        return
    assert fault is not None and fault.code == WRONG and words in fault.message
    assert utc(board.time()) in fault.message
    assert fault.detail["offset_s"] == pytest.approx(ahead_s, abs=2)
    wait = board.heard.wait()
    assert wait is not None and wait.reason == fault


@pytest.mark.parametrize("took", [0.0, 1.0, 250.0])
def test_a_slow_way_is_no_wrong_clock(took: float) -> None:
    """The answer was written at any moment between the question and its arrival."""
    for read_after in (0.0, took):
        board = Board()
        board.ask(took, read_after)
        assert board.heard.fault() is None


@pytest.mark.parametrize("at", [float("nan"), float("inf"), -1e300, -1.0, 1e15])
def test_nonsense_is_not_believed(at: float) -> None:
    """Numbers that are none, and answers that took longer than they say anything."""
    board = Board()
    board.heard.heard(at, board.now)
    assert board.heard.offset_s is None and board.heard.fault() is None
    board = Board(30 * DAY_S)
    board.ask(took=MAX_ANSWER_S + 1)
    board.heard.heard(board.now, board.now + 5)  # it came before it was asked
    assert board.heard.offset_s is None


def test_a_clock_that_was_never_set_needs_no_controller() -> None:
    """1970 is told at once, and with the controller's time when that is heard."""
    board = Board()
    board.ahead_s = 12.0 - board.now
    with capture_logs() as said:
        board.heard.look()
    # Threads of tests before this one may log meanwhile.
    own = [line["log_level"] for line in said if "the clock" in line["event"]]
    assert own == ["warning", "error"]
    fault = board.heard.fault()
    assert fault is not None and "not set: it says 1970-01-01 00:00 UTC" in fault.message
    board.ask()
    fault = board.heard.fault()
    assert fault is not None and f"the controller {utc(board.now)}" in fault.message


def test_a_clock_that_is_set_is_right_until_it_is_heard_to_be_wrong() -> None:
    """A jump ends what was known, and is told at once; the next answer says the rest."""
    board = Board(30 * DAY_S)
    board.ask()
    assert board.heard.fault() is not None and board.changes == 1
    board.now += 60
    board.heard.look()
    assert board.changes == 1, "it is told once"
    board.ahead_s = 0.0
    board.heard.look()
    assert board.heard.fault() is None and board.heard.offset_s is None
    assert board.changes == 2
    board.ask()
    assert board.heard.offset_s == 0.0
    board.ahead_s = -30 * DAY_S  # and away again, while it runs
    board.heard.look()
    assert board.changes == 3
    board.ask()
    fault = board.heard.fault()
    assert fault is not None and "behind" in fault.message
    board.ahead_s = EARLIEST - 1e6 - board.now
    board.heard.look()
    fault = board.heard.fault()
    assert fault is not None and "not set" in fault.message


def test_certificates_out_of_their_time_name_the_clock() -> None:
    """Not valid yet is a clock that is behind; expired may be either; others are none."""

    class RefusalError(Exception):
        verify_code = 0

    error = RefusalError()
    assert certificate_time(error, EARLIEST) == ""
    error.verify_code = 9
    assert "not set" in certificate_time(error, 5.0)
    assert "behind" in certificate_time(error, EARLIEST + 1)
    error.verify_code = 10
    assert "ahead, or it was not renewed" in certificate_time(error, EARLIEST + 1)
    assert certificate_time(OSError("no route"), 5.0) == ""


@pytest.mark.parametrize("seconds", [0.0, 1.0, 119.0, 1e9, -1e9, float("inf"), float("nan")])
def test_any_length_of_time_has_words(seconds: float) -> None:
    """What is heard may be any number."""
    assert span(seconds)
    assert utc(seconds)
