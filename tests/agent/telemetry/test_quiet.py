"""What an idle device leaves out, and what it never does."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from agent.telemetry.memory import MemorySpool
from agent.telemetry.quiet import GAUGES_S, WATCHED_S, is_news
from agent.telemetry.recorder import Recorder
from agent.telemetry.reporter import Reporter
from contracts import codec, drops
from contracts.messages import Acknowledged, BundleRef, Telemetry
from tests.support.engine import FakeClock

TOPICS: dict[Acknowledged, str] = {"telemetry": "t", "update": "u", "result": "r"}
BUNDLE = BundleRef("b", "1.0.0", "0" * 64)
EVERY_S, IDLE_S = 10.0, 900.0
DAY_S = 24 * 3600.0


class Quiet:
    """A device whose reporter gets its turns from the test, a second apart."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.gauges = {"rss_bytes": 5e7, "memory_available_bytes": 1e9, "temperature_c": 50.0,
                       "cpu_ratio": 0.01, "spool_messages": 0.0, "connections": 1.0}  # fmt: skip
        self.spool = MemorySpool()
        self.recorder = Recorder(lambda: 0)
        defaults: dict[str, Any] = {"idle_s": IDLE_S, "chance": random.Random(1)}
        self.reporter = Reporter(
            self.spool,
            self.recorder,
            lambda: dict(self.gauges),
            lambda topic, payload, done: None,
            topics=TOPICS,
            boot="boot",
            every_s=EVERY_S,
            clock=self.clock,
            stop=threading.Event(),
            **(defaults | options),
        )
        self._taken = 0

    def passes(self, seconds: float) -> list[Telemetry]:
        """What is spooled while time passes."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += 1.0
            self.reporter.turn()
        return list(self.fresh())

    def fresh(self) -> Iterator[Telemetry]:
        """What was spooled since this was asked last."""
        rows = self.spool.after(self._taken, 1 << 20)
        for row in rows:
            self._taken = row.id
            yield codec.decode(row.payload, Telemetry, what="telemetry")


@pytest.fixture
def device() -> Quiet:
    """One that was started a while ago, has told all of that, and is idle."""
    made = Quiet()
    made.passes(WATCHED_S + IDLE_S)
    return made


def test_an_idle_device_tells_of_a_day_in_a_hundred_samples(device: Quiet) -> None:
    """Each says for how long nothing happened, and together they say it of the whole day."""
    began = device.reporter._window_began
    found = device.passes(DAY_S)
    assert 90 <= len(found) <= 97
    windows = [sample.window_s for batch in found for sample in batch.samples]
    assert max(windows) <= IDLE_S + EVERY_S
    assert began + sum(windows) == device.reporter._window_began


def test_what_is_counted_is_told_as_soon_as_without_idling(device: Quiet) -> None:
    """By the next look, with its own window of time, and beside it how the device is."""
    device.passes(IDLE_S / 2)
    device.recorder.answered("classify", BUNDLE, 900.0, label="x")
    found = device.passes(EVERY_S)
    assert len(found) == 1
    counted, whole = found[0].samples
    assert (counted.slot, counted.requests, counted.window_s) == ("classify", 1, EVERY_S)
    assert whole.window_s > EVERY_S
    assert whole.gauges == device.gauges


def test_no_request_of_a_day_is_missed_or_counted_twice() -> None:
    """At odd moments; sums of what was spooled are what was answered."""
    device = Quiet()
    chance, asked, told = random.Random(7), 0, 0
    for _ in range(60):
        batches = device.passes(chance.choice((1, 3, 10, 400, 2000)))
        told += sum(sample.requests for batch in batches for sample in batch.samples)
        asked += 1
        device.recorder.answered("classify", BUNDLE, 900.0, label="x")
    device.reporter.end()
    told += sum(sample.requests for batch in device.fresh() for sample in batch.samples)
    assert told == asked == 60


def test_what_was_dropped_is_told_at_once(device: Quiet) -> None:
    """It waits for no request and no heartbeat."""
    device.spool.count_dropped(drops.LINE, 3)
    found = device.passes(EVERY_S)
    assert [batch.drops for batch in found] == [{drops.LINE: 3}]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rss_bytes", 8e7),
        ("memory_available_bytes", 4e8),
        ("temperature_c", 56.0),
        ("cpu_ratio", 0.9),
        ("connections", 2.0),
        ("throttled", 1.0),
    ],
)
def test_a_gauge_that_moved_far_is_told(device: Quiet, name: str, value: float) -> None:
    """Within a minute of the sample before; then it is quiet again."""
    device.passes(GAUGES_S)
    device.gauges[name] = value
    found = device.passes(EVERY_S)
    assert [batch.samples[-1].gauges.get(name) for batch in found] == [value]
    assert len(device.passes(IDLE_S / 2)) == 0


def test_gauges_that_move_a_little_or_mean_nothing_are_not_told(device: Quiet) -> None:
    """What moves all the time on an idle board."""
    before = dict(device.gauges)
    after = before | {"rss_bytes": 5.2e7, "temperature_c": 53.0, "cpu_ratio": 0.2,
                      "spool_messages": 1.0, "memory_available_bytes": 8e8}  # fmt: skip
    assert not is_news(before, after)
    assert is_news(before, before | {"temperature_c": 55.0})
    assert is_news({}, before)


def test_a_gauge_that_jumps_all_the_time_is_told_once_a_minute(device: Quiet) -> None:
    """A broken sensor costs no more than that."""
    number = 0
    for _ in range(360):
        device.gauges["temperature_c"] = 90.0 - device.gauges["temperature_c"]
        number += len(device.passes(EVERY_S))
    assert number <= 3600 / GAUGES_S + 1


def test_after_a_start_or_a_wish_everything_is_told_for_a_while(device: Quiet) -> None:
    """Gates of a rollout judge what a device measures then, also one that nobody asks."""
    device.reporter.stir()
    assert len(device.passes(WATCHED_S)) >= WATCHED_S / EVERY_S - 1
    device.passes(IDLE_S)
    assert len(device.passes(IDLE_S)) <= 2
    assert len(Quiet().passes(WATCHED_S)) >= WATCHED_S / EVERY_S - 1


def test_devices_that_started_together_do_not_speak_together() -> None:
    """A whole fleet after a power cut: their samples are spread over the interval."""
    seconds = set()
    for number in range(20):
        device = Quiet(chance=random.Random(number))
        device.passes(WATCHED_S + EVERY_S)
        while not device.passes(EVERY_S):
            pass
        seconds.add(device.clock.now)
    assert len(seconds) >= 10


def test_without_idling_every_window_ends_on_time() -> None:
    """`idle_s: 0` is as it was before there was idling."""
    device = Quiet(idle_s=0.0)
    device.passes(WATCHED_S)
    assert len(device.passes(600.0)) == 60
