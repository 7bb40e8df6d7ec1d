"""The spool: order, bounds, ages, set clocks, full disks, damaged files."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from agent.system.clock import EARLIEST
from agent.telemetry.spool import RETRY_S, Spool
from tests.support.full_disk import full_disk
from tests.support.spools import Wire, filled, reporter, spool


def test_the_spool_keeps_order_over_restarts(tmp_path: Path) -> None:
    """What was put comes out, in order, once removed never again."""
    first = spool(tmp_path)
    for number in range(5):
        assert first.put("t", b"%d" % number)
    first.close()
    second = spool(tmp_path)
    rows = second.after(0, 10)
    assert [r.payload for r in rows] == [b"0", b"1", b"2", b"3", b"4"]
    second.remove([r.id for r in rows[:3]])
    assert [r.payload for r in second.after(0, 10)] == [b"3", b"4"]
    assert (second.depth, second.payload_bytes) == (2, 2)


def test_what_was_put_under_another_name_goes_out_under_the_own(tmp_path: Path) -> None:
    """After a device was renamed; another fleet's messages stay with it."""
    first = spool(tmp_path)
    topics = ["s/home/d/kitchen/telemetry", "s/home/d/kitchen-2/update", "s/old/d/kitchen/result"]
    for number, topic in enumerate([*topics, "s/home/d/pantry/telemetry"]):
        assert first.put(topic, b"%d" % number, boot="b1", seq=number)
    first.close()
    second = spool(tmp_path)
    second.readdress("s/home/d/", "pantry")
    second.readdress("s/home/d/", "pantry")
    assert [row.topic for row in second.after(0, 10)] == [
        "s/home/d/pantry/telemetry",
        "s/home/d/pantry/update",
        "s/old/d/kitchen/result",
        "s/home/d/pantry/telemetry",
    ]


def test_the_oldest_telemetry_goes_first_and_update_events_last(tmp_path: Path) -> None:
    """Bounded by bytes; every drop is counted once."""
    one = spool(tmp_path, max_bytes=500)
    one.put("event", b"e" * 100, precious=True)
    for number in range(10):
        one.put("t", bytes([number]) * 100)
    left = [r.payload[:1] for r in one.after(0, 100)]
    assert left == [b"e", b"\6", b"\7", b"\x08", b"\x09"]
    assert one.untold == {"spool-full": 6}


def test_a_spool_full_of_events_takes_what_comes(tmp_path: Path) -> None:
    """The oldest event goes for the first result; then results go for results."""
    one = spool(tmp_path, max_bytes=500)
    for number in range(5):
        assert one.put("event", b"e%d" % number * 50, precious=True)
    for number in range(3):
        assert one.put("result", b"r%d" % number * 50)
        assert one.after(0, 9)[-1].payload[:2] == b"r%d" % number
    assert one.put("event", b"e5" * 50, precious=True)
    left = [r.payload[:2] for r in one.after(0, 9)]
    assert left == [b"e1", b"e2", b"e3", b"e4", b"e5"]
    assert (one.payload_bytes, one.untold) == (500, {"spool-full": 4})


def test_a_message_larger_than_the_spool_is_refused_and_drops_no_other(tmp_path: Path) -> None:
    """It counts, in the message that comes next."""
    one, wire = spool(tmp_path, max_bytes=500), Wire()
    one.put("t", b"x" * 400)
    assert not one.put("t", b"y" * 501, precious=True)
    assert [r.payload[:1] for r in one.after(0, 9)] == [b"x"]
    there = reporter(one, wire, "b")
    there._gauges = lambda: {"x" * 600: 1.0}
    there.sample()
    assert one.untold == {"spool-large": 2}


def test_old_messages_are_dropped_by_age(tmp_path: Path) -> None:
    """Age counts from when it was put."""
    now = [EARLIEST]
    one = spool(tmp_path, max_age_s=100.0, time=lambda: now[0])
    one.put("t", b"old")
    now[0] += 150.0
    one.put("t", b"new")
    assert [r.payload for r in one.after(0, 9)] == [b"new"]
    assert one.untold == {"spool-old": 1}


@pytest.mark.parametrize("step", [1.0, -1.0])
def test_age_counts_over_restarts_and_set_clocks(tmp_path: Path, step: float) -> None:
    """The oldest message is looked for when the spool is opened, and after each drop."""
    began = EARLIEST + 1000.0
    now = [began]
    one = spool(tmp_path, max_age_s=100.0, time=lambda: now[0])
    for payload in (b"a", b"b", b"c"):
        one.put("t", payload)
        now[0] += step
    one.put("t", b"event", precious=True)
    one.close()
    again = spool(tmp_path, max_age_s=100.0, time=lambda: now[0])
    for late, left in ((100.5, 2), (101.5, 1), (102.5, 0)):
        now[0] = began + late + min(0.0, 2 * step)
        again.put("t", b"new", precious=True)
        found = [r.payload for r in again.after(0, 9)]
        assert len([p for p in found if len(p) == 1]) == left
    assert again.untold == {"spool-old": 3}


class Board:
    """A board whose clock is set while it runs."""

    def __init__(self, folder: Path, now: float) -> None:
        self.now = now
        self.running = 50.0
        self.folder = folder
        self.spool = self.open()

    def open(self, **limits_: Any) -> Spool:
        """The spool, as a new run has it."""
        clocks = {"time": lambda: self.now, "monotonic": lambda: self.running}
        self.spool = spool(self.folder, **({"max_age_s": 100.0} | clocks | limits_))
        return self.spool

    def restart(self) -> None:
        """The agent starts anew."""
        self.spool.close()
        self.open()

    def put(self, payload: bytes, seconds: float = 0.0, *, precious: bool = False) -> None:
        """Time passes, and a message comes."""
        self.now += seconds
        self.running += seconds
        assert self.spool.put("t", payload, precious=precious)

    def left(self) -> list[bytes]:
        """What was not dropped."""
        return [r.payload for r in self.spool.after(0, 99)]


@pytest.mark.parametrize("began", [EARLIEST - 1e6, EARLIEST + 1e6])
@pytest.mark.parametrize("step", [5e6, -5e5])
def test_setting_the_clock_drops_nothing_and_makes_nothing_younger(
    tmp_path: Path, began: float, step: float
) -> None:
    """Ages go on from what they were, whether or not the clock could be right before."""
    board = Board(tmp_path, began)
    for number in range(4):
        board.put(b"%d" % number, 20)
    board.now += step
    board.put(b"set", 20)
    assert board.left() == [b"0", b"1", b"2", b"3", b"set"]
    if board.now < EARLIEST:  # set to what cannot be right either
        board.now += 5e6
    board.put(b"later", 39)
    assert board.left() == [b"1", b"2", b"3", b"set", b"later"]
    board.restart()
    board.put(b"last", 90)
    assert board.left() == [b"later", b"last"]
    assert board.spool.untold == {"spool-old": 5}


def test_what_was_put_before_the_clock_was_ever_set_ages_from_then_on(tmp_path: Path) -> None:
    """Runs of a board without a clock begin at the same time; which one was first nobody knows."""
    board = Board(tmp_path, 1000.0)
    board.put(b"first")
    for number in range(3):
        board.restart()
        board.now = 1000.0
        board.put(b"%d" % number, 500)
    assert board.left() == [b"first", b"0", b"1", b"2"]
    board.restart()
    board.now = EARLIEST + 10.0  # can be right, and is not
    board.put(b"set")
    board.now += 1e7
    board.put(b"again", 60)
    assert board.left() == [b"first", b"0", b"1", b"2", b"set", b"again"]
    board.put(b"end", 50)
    assert board.left() == [b"again", b"end"]


def test_a_board_whose_clock_is_never_set_keeps_the_bound_of_bytes(tmp_path: Path) -> None:
    """No message is dropped by an age that nobody knows."""
    board = Board(tmp_path, 0.0)
    board.open(max_bytes=30)
    for number in range(5):
        board.put(b"%d" % number * 10, 1000)
    assert [p[:1] for p in board.left()] == [b"2", b"3", b"4"]


def test_what_waits_in_memory_moves_with_the_clock_too(tmp_path: Path) -> None:
    """Before and after it is moved to the file, behind messages of an earlier run."""
    board = Board(tmp_path, EARLIEST)
    board.put(b"earlier")
    board.spool.close()
    with full_disk():
        board.open()
        assert board.spool.in_memory
        board.put(b"a", 10)
    board.now += 1e6
    assert board.spool.settle() is not None  # the earlier one is older than a million seconds
    board.put(b"b", 10)
    board.now += 1e6
    board.put(b"c", 80)
    assert board.left() == [b"a", b"b", b"c"]
    board.put(b"d", 15)
    assert board.left() == [b"b", b"c", b"d"]


def test_on_a_disk_that_refuses_the_clock_of_before_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is dropped and nothing is refused for that; it is tried again."""
    board = Board(tmp_path, EARLIEST + 10.0)
    board.put(b"a")

    def refuse(seconds: float) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(board.spool._table, "clock_moved", refuse)
        board.now += 1e6
        board.put(b"b", 10)
    board.put(b"c", RETRY_S - 1)
    assert board.spool._ahead < 1e6 + EARLIEST - 50.0
    board.put(b"d", 1)
    assert board.left() == [b"a", b"b", b"c", b"d"]
    board.restart()
    board.put(b"e", 35)
    assert board.left() == [b"b", b"c", b"d", b"e"]


def test_a_board_that_sleeps_does_not_write_its_spool_anew_each_time(tmp_path: Path) -> None:
    """Its wall clock goes on meanwhile, its monotonic clock does not."""
    board = Board(tmp_path, EARLIEST)
    board.put(b"x")
    before = board.spool._table._db.total_changes
    for _ in range(9):
        board.now += 0.3
        board.put(b"x")
    assert board.spool._table._db.total_changes - before <= 9 + 2 * 10


def test_the_newest_is_known_after_a_restart(tmp_path: Path) -> None:
    """Whoever sends looks only when there is more than was sent."""
    one = spool(tmp_path)
    assert one.newest == 0
    for number in range(3):
        one.put("t", b"x")
        assert one.newest == one.after(0, 9)[-1].id == number + 1
    one.remove([2, 3])
    one.close()
    again = spool(tmp_path)
    assert again.newest == 1
    again.put("t", b"y")
    assert again.newest == again.after(1, 9)[0].id == 4


@pytest.mark.parametrize("junk", [b"not a database" * 500, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_spool_is_set_aside(tmp_path: Path, junk: bytes) -> None:
    """The agent starts anyway."""
    (tmp_path / "spool.db").write_bytes(junk)
    one = spool(tmp_path)
    assert one.put("t", b"x")
    assert (tmp_path / "spool.db.bad").exists()


def test_on_a_full_disk_the_spool_waits_in_memory_and_its_file_stays(tmp_path: Path) -> None:
    """Once there is room it goes on in the file, behind what was there."""
    first = spool(tmp_path)
    first.put("t", b"event", precious=True)
    first.close()
    one = filled(tmp_path)
    assert one.put("t", b"new")
    with full_disk():
        assert one.settle() is None
    assert (one.in_memory, one.depth, one.payload_bytes) == (True, 1, 3)
    moved = one.settle()
    assert moved is not None
    assert list(moved.values()) == [2]
    assert one.settle() is None
    assert (one.in_memory, one.depth, one.payload_bytes, one.newest) == (False, 2, 8, 2)
    one.close()
    again = spool(tmp_path)
    assert [r.payload for r in again.after(0, 9)] == [b"event", b"new"]
    assert not list(tmp_path.glob("*.bad"))


def test_a_file_that_a_killed_agent_left_is_tried_by_a_write(tmp_path: Path) -> None:
    """With the log that it left it can be opened, and read, on a disk that takes nothing."""
    killed = spool(tmp_path / "of")  # keeps it open, as a kill does
    killed.put("t", b"event")
    copy = shutil.copytree(tmp_path / "of", tmp_path / "now")
    one = filled(copy)
    assert one.put("t", b"new")
    assert one.settle() is not None
    assert [r.payload for r in one.after(0, 9)] == [b"event", b"new"]


@pytest.mark.parametrize("there", ["nothing", "junk"])
def test_on_a_full_disk_a_file_that_is_new_or_damaged_is_made_later(
    tmp_path: Path, there: str
) -> None:
    """Until then messages wait in memory."""
    if there == "junk":
        (tmp_path / "spool.db").write_bytes(b"not a database" * 500)
    one = filled(tmp_path)
    one.put("t", b"x")
    assert one.settle() is not None
    assert [r.payload for r in one.after(0, 9)] == [b"x"]
    assert (tmp_path / "spool.db.bad").exists() == (there == "junk")


def test_memory_and_file_together_keep_the_bound_and_the_count_of_what_was_dropped(
    tmp_path: Path,
) -> None:
    """Two were dropped in memory, then three of the file, which were older than the rest."""
    first = spool(tmp_path, max_bytes=400)
    for number in range(4):
        first.put("t", b"f%d" % number * 50)
    first.close()
    one = filled(tmp_path, max_bytes=400)
    for number in range(6):
        one.put("t", b"m%d" % number * 50)
    assert one.payload_bytes == 400
    one.remove([one.newest])
    assert one.settle() is not None
    assert [r.payload[:2] for r in one.after(0, 9)] == [b"f3", b"m2", b"m3", b"m4"]
    assert (one.payload_bytes, one.untold) == (400, {"spool-full": 5})
