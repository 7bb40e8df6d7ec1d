"""The reporter: a thread that samples when there is something to tell, and sends the spool."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from agent.system.clock import Clock
from agent.system.log import logger
from agent.telemetry.delivery import WINDOW, Delivery
from agent.telemetry.held import Key, Spooling
from agent.telemetry.quiet import Quiet
from agent.telemetry.recorder import Recorder
from contracts import codec, drops, limits
from contracts.errors import ShoalError
from contracts.messages import Ack, Acknowledged, Sample, Telemetry

log = logger(__name__)

SETTLE_S: Final = 60.0
"""Seconds between two tries to move a spool that is in memory to its file."""

Publish = Callable[[str, bytes, Callable[[int], None]], None]


class Reporter:
    """Ends a window of time every `every_s` seconds, and sends from the spool while connected.

    A window in which nothing was counted goes on until there is news, or for `idle_s`.

    Args:
        spool: where messages wait.
        recorder: counts of the slots.
        gauges: facts of the process and the board.
        publish: ``publish(topic, payload, done)``; ``done(code)`` gives the reason code of the
            broker's acknowledgement, from another thread.
        topics: of each kind of message that is acknowledged.
        boot: the boot id.
        every_s: seconds between samples while something happens.
        clock: the time.
        stop: set when the agent stops.
        beat: called in every turn, for the watchdog and the status file.
        first_s: seconds before the first sample; None: `every_s`.
        wake: set when there is something to send; None: of its own.
        chance: spreads the devices of a fleet over the pauses; None: of its own.
        idle_s: seconds between samples while nothing happens; 0: the same.
    """

    def __init__(
        self,
        spool: Spooling,
        recorder: Recorder,
        gauges: Callable[[], dict[str, float]],
        publish: Publish,
        *,
        topics: Mapping[Acknowledged, str],
        boot: str,
        every_s: float,
        clock: Clock,
        stop: threading.Event,
        beat: Callable[[], None] = lambda: None,
        first_s: float | None = None,
        wake: threading.Event | None = None,
        chance: random.Random | None = None,
        idle_s: float = 0.0,
    ) -> None:
        self._spool = spool
        self._recorder = recorder
        self._gauges = gauges
        self._publish = publish
        self._topic = topics["telemetry"]
        self._boot = boot
        self._every_s = every_s
        self._clock = clock
        self._stop = stop
        self._beat = beat
        self._seq = 0
        self._landed = 0
        self._wake = wake or threading.Event()
        self._window_began = self._looked = clock.monotonic()
        self.due = self._window_began + (every_s if first_s is None else first_s)
        self._settle_due = self._window_began + SETTLE_S
        chance = chance or random.Random()
        self.delivery = Delivery(spool, topics, self._window_began, chance)
        self._quiet = Quiet(idle_s, self._window_began, chance)

    # From other threads. --------------------------------------------------------------------

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    def stir(self) -> None:
        """Something has begun of which everything is to be told, for a while."""
        self._quiet.stir(self._clock.monotonic())

    def link_changed(self, connected: bool) -> None:
        """There is a connection now, or none."""
        if connected:
            self.delivery.connected()
        else:
            self.delivery.disconnected()
        self._wake.set()

    def heard(self, ack: Ack) -> None:
        """The controller acknowledged."""
        self.delivery.heard(ack)
        self._wake.set()

    # The thread. ----------------------------------------------------------------------------

    def run(self) -> None:
        """Works until the agent stops; then samples once more."""
        self.due = self._clock.monotonic() + self._every_s
        while not self._stop.is_set():
            pause = self.turn()
            self._clock.wait(self._wake, min(1.0, pause))
            self._wake.clear()
        self.end()

    def turn(self) -> float:
        """Does what is due; returns the seconds until the next sample."""
        self._beat()
        if self._clock.monotonic() >= self.due:
            self._look()
            self.due = max(self.due + self._every_s, self._clock.monotonic())
        if self._spool.in_memory and self._clock.monotonic() >= self._settle_due:
            self._settle_due = self._clock.monotonic() + SETTLE_S
            self.settle()
        self.pump()
        return max(0.0, self.due - self._clock.monotonic())

    def end(self) -> None:
        """Samples once more, and sends."""
        self.sample()
        self.settle()
        self.pump()

    def settle(self) -> None:
        """Lets a spool that is in memory move to its file, and goes on from the file's start.

        What is on its way is not sent again: it has another id from now on.
        """
        moved = self._spool.settle()
        if moved is not None:
            self.delivery.moved(moved)

    def sample(self) -> None:
        """Ends the window of time and spools its telemetry."""
        self._sample(self._gauges())

    def _look(self) -> None:
        """Samples, unless there is nothing to tell: then the window goes on."""
        gauges, now = self._gauges(), self._clock.monotonic()
        if self._recorder.counted or self._spool.untold or self._quiet.has_news(gauges, now):
            self._sample(gauges)
        else:
            self._looked = now

    def _sample(self, gauges: dict[str, float]) -> None:
        now = self._clock.monotonic()
        at = self._clock.time()
        # What was counted was not yet at the last look; for the device the whole window counts.
        samples = self._recorder.take(at, now - self._looked)
        samples.append(Sample(at, now - self._window_began, gauges=gauges))
        self._window_began = self._looked = now
        for batch in self._batches(samples):
            self._spool_batch(batch)
        self._quiet.told(gauges, now)

    def _spool_batch(self, batch: list[Sample]) -> None:
        seq = self._seq

        def message(told: dict[str, int]) -> bytes:
            return codec.encode(Telemetry(self._boot, seq, batch, drops=told))

        kept = self._spool.tell(self._topic, message, boot=self._boot, seq=seq, items=len(batch))
        self._seq += kept

    def _batches(self, samples: list[Sample]) -> list[list[Sample]]:
        """In messages within the cap of bytes; a sample that is over it loses its label counts."""
        batches: list[list[Sample]] = []
        size = limits.MAX_MESSAGE_BYTES
        for sample in samples:
            length = len(codec.encode(sample)) + 256
            if length > limits.MAX_MESSAGE_BYTES // 2:
                self._spool.count_dropped(drops.LABELS, sum(sample.labels.values()))
                sample = msgspec.structs.replace(
                    sample,
                    labels={},
                    drift=None,
                    judged=sample.judged.totals() if sample.judged else None,
                )
                length = len(codec.encode(sample)) + 256
            full = not batches or len(batches[-1]) >= limits.MAX_TELEMETRY_SAMPLES
            if full or size + length > limits.MAX_MESSAGE_BYTES:
                batches.append([])
                size = 0
            batches[-1].append(sample)
            size += length
        return batches

    def pump(self) -> None:
        """Sends what is to be sent, a window at a time."""
        while found := self.delivery.take(self._clock.monotonic()):
            for index, message in enumerate(found):
                try:
                    self._publish(message.topic, message.payload, self._done(message.key))
                except ShoalError:
                    for left in found[index:]:
                        self.delivery.failed(left.key)
                    return

    def _done(self, key: Key) -> Callable[[int], None]:
        def done(code: int) -> None:
            self.delivery.landed(key, code)
            self._landed += 1
            if self._landed >= WINDOW // 2:  # few are looked at in the next turn
                self._landed = 0
                self._wake.set()

        return done
