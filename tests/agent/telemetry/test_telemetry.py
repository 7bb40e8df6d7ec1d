"""Telemetry: windows, drift, spool, Prometheus, Home Assistant."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import urllib.request
from pathlib import Path
from typing import Annotated, Any, Literal

import jinja2
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.system.clock import EARLIEST, SystemClock
from agent.telemetry import gauges, homeassistant
from agent.telemetry.gauges import Gauges
from agent.telemetry.news import MAX_REASONS, News
from agent.telemetry.prometheus import MetricsServer, render
from agent.telemetry.recorder import Recorder, drift
from agent.telemetry.reporter import Reporter
from agent.telemetry.spool import RETRY_S, Spool
from contracts import codec, limits
from contracts.bundle import Bundle
from contracts.errors import ErrorInfo
from contracts.histogram import Histogram
from contracts.manifest import Baseline
from contracts.messages import (
    Acknowledged,
    BundleRef,
    Reported,
    Sample,
    SlotReport,
    Telemetry,
    UpdateEvent,
)
from contracts.topics import Topics, home_assistant_discovery
from tests.support.controller import TINY
from tests.support.engine import FakeClock
from tests.support.full_disk import full_disk

REF = Bundle.open(TINY).ref
NEXT = BundleRef(REF.name, "1.1.0", "1" * 64)
SHADOW = BundleRef(REF.name, "2.0.0", "2" * 64)


def spool(path: Path, **limits_: Any) -> Spool:
    """A spool with room."""
    path.mkdir(exist_ok=True)
    options: dict[str, Any] = {"max_bytes": 1 << 20, "max_age_s": 1e6, "time": lambda: 1000.0}
    return Spool(path / "spool.db", **(options | limits_))


def test_windows_add_up_and_merge() -> None:
    """Two windows merge to what one would have been."""
    recorder = Recorder(lambda: 0)
    whole = Histogram("log8")
    merged = Histogram("log8")
    count = 0
    for window in range(2):
        for value in range(100, 200):
            recorder.answered("a", REF, value * (window + 1), label="x", confidence=0.5)
            whole.add(value * (window + 1))
        (sample,) = recorder.take(1.0, 10.0)
        assert sample.latency_us is not None
        merged.merge(sample.latency_us)
        count += sample.requests
    assert recorder.take(2.0, 10.0) == []
    assert (count, merged.counts) == (200, whole.counts)


def test_a_requester_who_makes_slots_up_makes_no_figures() -> None:
    """What fails for a slot that is not there is the device's; memory stays."""
    slots = {"a": REF, "b": REF}
    recorder = Recorder(lambda: 0, slots.get)
    recorder.answered("a", REF, 1.0)
    for number in range(1000):
        recorder.failed(f"s{number}", "no-model")
        recorder.failed("", "busy")
    recorder.failed("b", "model-failed")
    slots.clear()
    recorder.failed("a", "no-model")  # what has answered keeps its figures when it is gone
    recorder.failed("b", "busy")
    figures = {slot: (t.requests, t.errors, t.busy) for slot, t in recorder.totals.items()}
    assert figures == {"a": (2, 1, 0), "b": (1, 1, 1), "device": (1000, 1000, 1000)}
    assert [(s.slot, s.bundle, s.requests) for s in recorder.take(1.0, 10.0)] == [
        ("a", REF, 1),
        ("device", None, 1000),
        ("b", REF, 1),
        ("a", None, 1),
        ("b", None, 0),
    ]
    recorder.failed("s1", "no-model")
    assert [s.slot for s in recorder.take(1.0, 10.0)] == ["device"]


def test_what_a_bundle_did_counts_under_that_bundle_alone() -> None:
    """Who judges a version reads its figures: not those of the one before, in the same window."""
    active = {"a": REF}
    recorder = Recorder(lambda: 0, active.get)
    recorder.answered("a", REF, 1.0, label="x", times=3)
    active["a"] = NEXT
    recorder.answered("a", NEXT, 1.0, label="y")
    recorder.failed("a", "model-failed")
    recorder.shadowed("a", SHADOW, disagrees=True, times=2)
    recorder.shadowed("a", SHADOW, disagrees=False)
    found = {s.bundle: s for s in recorder.take(1.0, 10.0)}
    assert {b: (s.requests, s.errors, s.labels) for b, s in found.items()} == {
        REF: (3, 0, {"x": 3}),
        NEXT: (2, 1, {"y": 1}),
        SHADOW: (0, 0, {}),
    }
    assert {b: (s.shadow_requests, s.shadow_disagreements) for b, s in found.items()} == {
        REF: (0, 0),
        NEXT: (0, 0),
        SHADOW: (3, 2),
    }


def test_a_bundle_that_answers_nothing_has_its_errors_counted() -> None:
    """Nothing else would tell a gate that it never works."""
    recorder = Recorder(lambda: 0, {"a": REF}.get)
    recorder.failed("a", "model-failed", times=5)
    (sample,) = recorder.take(1.0, 10.0)
    assert (sample.bundle, sample.requests, sample.errors) == (REF, 5, 5)


def test_errors_count_in_the_trial_of_a_slot_that_has_not_answered() -> None:
    """Its model may fail at every request."""
    recorder = Recorder(lambda: 0)
    recorder.begin_trial("a")
    recorder.failed("a", "model-failed")
    assert recorder.trial("a").errors == 1


def test_drift_is_the_distance_from_the_baseline() -> None:
    """0 for the same shares, 1 for labels that never were."""
    baseline = Baseline({"a": 0.5, "b": 0.5}, Histogram("unit20"))
    assert drift({"a": 50, "b": 50}, baseline) == 0
    assert drift({"c": 50}, baseline) == 1
    assert drift({"a": 100}, baseline) == pytest.approx(0.5)
    assert drift({"a": 5}, baseline) is None
    assert drift({"a": 50}, None) is None


def test_gauges_are_measured(tmp_path: Path) -> None:
    """Of this process, in the units of their names."""
    gauges = Gauges().read(tmp_path)
    assert 10e6 < gauges["rss_bytes"] < 10e9
    assert gauges["disk_free_bytes"] > 0
    assert gauges["memory_available_bytes"] > 0


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


def event(state: str, code: str | None = None, revision: int = 2, **fields: Any) -> UpdateEvent:
    """An event of an update."""
    reason = ErrorInfo(code, "why", {}) if code else None
    return UpdateEvent(
        "b",
        1,
        revision,
        "classify",
        REF,
        state,
        1.0,
        reason=reason,
        **fields,  # type: ignore[arg-type]
    )


def test_progress_and_the_same_failure_again_are_no_news() -> None:
    """Another state is, or another failure; until there have been many."""
    news = News()
    told = [
        (event("downloading"), True),
        (event("downloading", done_bytes=5), False),
        (event("downloading", "offline"), True),
        (event("downloading", "offline", done_bytes=9), False),
        (event("downloading", "disk-error"), True),
        (event("downloading", "offline"), False),
        (event("verified"), True),
        (event("downloading", "offline"), True),
        (event("downloading", "offline", 3), True),
    ]
    assert [news.is_new(one) for one, _ in told] == [new for _, new in told]
    assert sum(news.is_new(event("trial", f"c{number}")) for number in range(99)) == MAX_REASONS


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


def filled(path: Path, **limits_: Any) -> Spool:
    """A spool that was opened on a full disk."""
    with full_disk() as said:
        one = spool(path, **limits_)
    assert one.in_memory
    assert "spool kept in memory" in said.getvalue()
    return one


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


class Wire:
    """A broker that acknowledges when told."""

    def __init__(self) -> None:
        self.sent: list[Telemetry] = []
        self.waiting: list[Any] = []
        self.most = 0

    def publish(self, topic: str, payload: bytes, done: Any) -> None:
        """Takes a message."""
        self.sent.append(codec.decode(payload, Telemetry, what="telemetry"))
        self.waiting.append(done)
        self.most = max(self.most, len(self.waiting))

    def acknowledge(self) -> None:
        """All that came."""
        waiting, self.waiting = self.waiting, []
        for done in waiting:
            done(0)


TOPIC_OF: dict[Acknowledged, str] = {"telemetry": "t", "update": "u", "result": "r"}


def reporter(
    one: Spool, wire: Wire, boot: str, *, online: bool = False, **options: Any
) -> Reporter:
    """A reporter that is stepped by hand."""
    defaults: dict[str, Any] = {"clock": SystemClock(), "stop": threading.Event()}
    made = Reporter(
        one,
        Recorder(lambda: 0),
        lambda: {"x": 1.0},
        wire.publish,
        topics=TOPIC_OF,
        boot=boot,
        every_s=1.0,
        **(defaults | options),
    )
    if online:
        made.link_changed(True)
    return made


def test_ten_thousand_offline_samples_arrive_each_once_over_two_kills(tmp_path: Path) -> None:
    """Spooled offline in three boots; sent with losses of acknowledgements; counted once."""
    wire = Wire()
    total = 0
    for boot, count in (("b1", 4000), ("b2", 3000), ("b3", 3000)):
        one = Spool(tmp_path / "spool.db", 1 << 26, 1e6, lambda: 1.0)
        there = reporter(one, wire, boot)
        for _ in range(count):
            there.sample()
        total += count
        one.close()  # as a kill leaves it: nothing is flushed by us
    for attempt in range(3):  # the agent dies twice while it sends
        one = Spool(tmp_path / "spool.db", 1 << 26, 1e6, lambda: 1.0)
        there = reporter(one, wire, f"s{attempt}", online=True)
        rounds = 60 if attempt < 2 else 10_000
        for _ in range(rounds):
            there.pump()
            if not wire.waiting:
                break
            wire.acknowledge()
        wire.waiting.clear()
        one.close()
    keys = {(t.boot, t.seq) for t in wire.sent}
    assert len(keys) == total == 10_000
    for boot, count in (("b1", 4000), ("b2", 3000), ("b3", 3000)):
        assert {s for b, s in keys if b == boot} == set(range(count))
    assert len(wire.sent) <= total + 2 * 64, "more was sent twice than was on the way"
    assert wire.most <= 32


def test_what_was_sent_from_memory_is_not_sent_again_out_of_the_file(tmp_path: Path) -> None:
    """The file's messages, then those of memory; each once, and none forgotten too early."""
    wire = Wire()
    first = spool(tmp_path)
    earlier = reporter(first, wire, "b0")
    for _ in range(2):
        earlier.sample()
    first.close()
    one = filled(tmp_path)
    there = reporter(one, wire, "b1")
    for _ in range(3):
        there.sample()
    there.link_changed(True)
    there.pump()
    assert [(t.boot, t.seq) for t in wire.sent] == [("b1", 0), ("b1", 1), ("b1", 2)]
    wire.waiting.pop(0)(0)
    there.sample()
    there.settle()
    assert one.depth == 6, "a kill now would lose what is on its way"
    there.pump()
    assert [(t.boot, t.seq) for t in wire.sent[3:]] == [("b0", 0), ("b0", 1), ("b1", 3)]
    assert one.depth == 5
    wire.acknowledge()
    there.pump()
    assert (one.depth, len(wire.sent)) == (0, 6)


def test_a_spool_in_memory_tries_its_file_once_a_minute(tmp_path: Path) -> None:
    """And once more at the end."""
    clock, stop, tries = FakeClock(), threading.Event(), []
    one = filled(tmp_path)
    end = clock.now + 200

    def settle() -> None:
        tries.append(end - clock.now)

    one.settle = settle  # type: ignore[method-assign]
    there = reporter(one, Wire(), "b", clock=clock, stop=stop)
    there._beat = lambda: stop.set() if clock.now >= end else None
    there.run()
    assert tries == pytest.approx([140, 80, 20, 0], abs=1.5)


@pytest.fixture
def online(tmp_path: Path) -> tuple[Spool, Wire, Reporter]:
    """A reporter with a connection."""
    one, wire = spool(tmp_path), Wire()
    return one, wire, reporter(one, wire, "b", online=True)


def test_each_message_is_sent_when_it_is_there(online: tuple[Spool, Wire, Reporter]) -> None:
    """One behind what was sent is enough; what arrived is forgotten in the next turn."""
    one, wire, there = online
    for number in range(1, 4):
        there.sample()
        there.pump()
        assert len(wire.sent) == number
    wire.acknowledge()
    there.pump()
    assert (one.depth, len(wire.sent)) == (0, 3)


def test_half_a_window_that_arrived_wakes_the_reporter(
    online: tuple[Spool, Wire, Reporter],
) -> None:
    """So that more can be on the way; a few that arrived wait for its next turn."""
    _, wire, there = online
    for _ in range(60):
        there.sample()
    there.pump()
    assert len(wire.sent) == 32
    there._wake.clear()
    for number, done in enumerate(wire.waiting[:16], start=1):
        done(0)
        assert there._wake.is_set() == (number == 16)
    there.pump()
    assert len(wire.sent) == 48


def test_a_batch_never_exceeds_the_cap_of_a_message(tmp_path: Path) -> None:
    """Thousands of long labels: split, and if need be without label counts."""
    one = spool(tmp_path, max_bytes=1 << 24)
    there = reporter(one, Wire(), "b")
    for slot in range(4):
        for label in range(4096):
            there._recorder.answered(f"s{slot}", REF, 1.0, label=f"{label:0250d}")
    there.sample()
    rows = one.after(0, 100)
    assert max(len(r.payload) for r in rows) <= limits.MAX_MESSAGE_BYTES
    told = [codec.decode(r.payload, Telemetry, what="telemetry").drops for r in rows]
    assert [drops for drops in told if drops] == [{"label-counts": 4 * 4096}]


def test_prometheus_reads_what_is_served() -> None:
    """The official parser takes it, with odd labels; other paths are 404."""
    recorder = Recorder(lambda: 0)
    for value in (100.0, 200.0, 400.0):
        recorder.answered("classify", REF, value, label='quo"te\\and\nline')
    recorder.failed("classify", "busy")
    server = MetricsServer(0, lambda: render(recorder.totals, {"rss_bytes": 5e7}))
    try:
        url = f"http://127.0.0.1:{server.port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read().decode()
        families = {f.name: f for f in text_string_to_metric_families(text)}
        assert families["shoal_requests"].samples[0].value == 3
        assert families["shoal_busy"].samples[0].value == 1
        assert families["shoal_labels"].samples[0].labels["label"] == 'quo"te\\and\nline'
        counts = [s.value for s in families["shoal_latency_seconds"].samples if "le" in s.labels]
        assert counts == sorted(counts)
        assert counts[-1] == 3
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url + "x", timeout=5)
    finally:
        server.close()


# Home Assistant: the documented schema of a device discovery payload, and its abbreviations. --


class HaDevice(msgspec.Struct, forbid_unknown_fields=True):
    """``device`` (``dev``)."""

    ids: list[str]
    name: str
    mf: str
    mdl: str
    sw: str


class HaOrigin(msgspec.Struct, forbid_unknown_fields=True):
    """``origin`` (``o``)."""

    name: str
    sw: str


class HaAvailability(msgspec.Struct, forbid_unknown_fields=True):
    """One of ``availability``."""

    topic: str
    value_template: str
    payload_available: str
    payload_not_available: str


class HaSensor(msgspec.Struct, tag="sensor", tag_field="p", forbid_unknown_fields=True):
    """MQTT sensor: the keys that we use of those that are documented."""

    name: str
    unique_id: str
    state_topic: str
    value_template: str
    state_class: Literal["measurement", "total", "total_increasing"] | None = None
    entity_category: Literal["config", "diagnostic"] | None = None
    device_class: Literal["data_size", "temperature", "duration"] | None = None
    unit_of_measurement: Literal["B", "°C"] | None = None


class HaUpdate(msgspec.Struct, tag="update", tag_field="p", forbid_unknown_fields=True):
    """MQTT update."""

    name: str
    unique_id: str
    state_topic: str
    value_template: str
    entity_category: Literal["config", "diagnostic"] | None = None


class HaDocument(msgspec.Struct, forbid_unknown_fields=True):
    """The payload of ``homeassistant/device/{object_id}/config``."""

    dev: HaDevice
    o: HaOrigin
    availability: list[HaAvailability]
    cmps: dict[Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]+$")], HaSensor | HaUpdate]
    qos: Literal[0, 1, 2]


def test_home_assistant_discovery_is_what_its_documentation_says() -> None:
    """Keys, ids, topics; and every template renders our real messages."""
    topics = Topics("home.fleet")
    raw = codec.encode(homeassistant.document(topics, "pi.kitchen", "A board", ["classify"]))
    found = msgspec.json.decode(raw, type=HaDocument)
    assert home_assistant_discovery("home.fleet", "pi.kitchen") == (
        "homeassistant/device/shoal-home_fleet-pi_kitchen-8bc938d4/config"
    )
    assert len({part.unique_id for part in found.cmps.values()}) == len(found.cmps)

    def shown(part: str, message: object) -> str:
        template = jinja2.Environment(autoescape=False).from_string(found.cmps[part].value_template)
        return template.render(value_json=json.loads(codec.encode(message)))

    sample = Sample(1.0, 1.0, gauges={"rss_bytes": 5.0, "queue": 2.0})
    telemetry = Telemetry("b", 0, [Sample(1.0, 1.0, "classify"), sample])
    assert shown("rss", telemetry) == "5.0"
    assert shown("queue", telemetry) == "2.0"
    assert shown("temperature", telemetry) == "None"
    new = BundleRef("m", "2.0.0", "0" * 64)
    event = UpdateEvent("b", 1, 2, "classify", new, "downloading", 1.0)
    reported = Reported(
        "d", "b", "0", "x", "litert", 1.0, slots={"classify": SlotReport(REF)}, last_update=event
    )
    assert json.loads(shown("update_classify", reported)) == {
        "installed_version": "1.0.0",
        "latest_version": "2.0.0",
        "in_progress": True,
    }
    empty = Reported("d", "b", "0", "x", "litert", 1.0)
    assert json.loads(shown("update_classify", empty))["in_progress"] is False
    status = jinja2.Environment(autoescape=False).from_string(found.availability[0].value_template)
    assert status.render(value_json={"state": "online"}) == "online"


def test_the_memory_that_is_available_is_psutil_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read off the kernel's file; asked of psutil where there is no such line."""
    memory = tmp_path / "meminfo"
    monkeypatch.setattr(gauges, "_MEMORY", memory)
    memory.write_text("MemTotal:  9 kB\nMemAvailable:     7 kB\n")
    assert gauges.available_memory() == 7 * 1024
    memory.write_text("MemTotal:  9 kB\n")
    assert gauges.available_memory() > 1 << 20
