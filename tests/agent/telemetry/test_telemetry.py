"""Telemetry: windows, drift, gauges, news, and the reporter that sends it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from agent.telemetry import gauges
from agent.telemetry.gauges import Gauges
from agent.telemetry.news import MAX_REASONS, News
from agent.telemetry.recorder import Recorder, drift
from agent.telemetry.reporter import Reporter
from agent.telemetry.spool import Spool
from contracts import codec, limits
from contracts.bundle import Bundle
from contracts.errors import ErrorInfo
from contracts.histogram import Histogram
from contracts.manifest import Baseline
from contracts.messages import (
    BundleRef,
    Telemetry,
    UpdateEvent,
)
from tests.support.controller import TINY
from tests.support.engine import FakeClock
from tests.support.spools import Wire, filled, reporter, spool

REF = Bundle.open(TINY).ref
NEXT = BundleRef(REF.name, "1.1.0", "1" * 64)
SHADOW = BundleRef(REF.name, "2.0.0", "2" * 64)


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
