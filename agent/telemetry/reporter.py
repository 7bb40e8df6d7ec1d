"""The reporter: a thread that samples on time and moves the spool to the broker in order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import msgspec

from agent.system.clock import Clock
from agent.system.log import logger
from agent.telemetry.recorder import Recorder
from agent.telemetry.spool import Spool
from contracts import codec, limits
from contracts.errors import ShoalError
from contracts.messages import Sample, Telemetry

log = logger(__name__)

WINDOW: Final = 32
"""Spooled messages on the way to the broker at once."""

SETTLE_S: Final = 60.0
"""Seconds between two tries to move a spool that is in memory to its file."""

Publish = Callable[[str, bytes, Callable[[bool], None]], None]


class Reporter:
    """Samples every `every_s` seconds, and drains the spool whenever there is a connection.

    Args:
        spool: where messages wait.
        recorder: counts of the slots.
        gauges: facts of the process and the board.
        publish: ``publish(topic, payload, done)``; ``done(taken)`` comes from another thread.
        connected: set while the broker can be reached.
        topic: of telemetry.
        boot: the boot id.
        every_s: seconds between samples.
        clock: the time.
        stop: set when the agent stops.
        beat: called in every turn, for the watchdog and the status file.
    """

    def __init__(
        self,
        spool: Spool,
        recorder: Recorder,
        gauges: Callable[[], dict[str, float]],
        publish: Publish,
        *,
        connected: threading.Event,
        topic: str,
        boot: str,
        every_s: float,
        clock: Clock,
        stop: threading.Event,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._spool = spool
        self._recorder = recorder
        self._gauges = gauges
        self._publish = publish
        self._connected = connected
        self._topic = topic
        self._boot = boot
        self._every_s = every_s
        self._clock = clock
        self._stop = stop
        self._beat = beat
        self._seq = 0
        self._sent_id = 0
        self._flying: set[int] = set()
        self._landed: list[int] = []
        self._moved: dict[int, int] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._window_began = clock.monotonic()
        self._settle_due = self._window_began + SETTLE_S

    def wake(self) -> None:
        """There is something to send, or a connection to send it by."""
        self._wake.set()

    def run(self) -> None:
        """Works until the agent stops; then samples once more."""
        due = self._clock.monotonic() + self._every_s
        while not self._stop.is_set():
            self._beat()
            if self._clock.monotonic() >= due:
                self.sample()
                due = max(due + self._every_s, self._clock.monotonic())
            if self._spool.in_memory and self._clock.monotonic() >= self._settle_due:
                self._settle_due = self._clock.monotonic() + SETTLE_S
                self.settle()
            self.pump()
            self._clock.wait(self._wake, min(1.0, max(0.0, due - self._clock.monotonic())))
            self._wake.clear()
        self.sample()
        self.settle()
        self.pump()

    def settle(self) -> None:
        """Lets a spool that is in memory move to its file, and goes on from the file's start.

        What is on its way to the broker is not sent again: it has another id from now on.
        """
        moved = self._spool.settle()
        if moved is None:
            return
        self._sent_id = 0
        with self._lock:
            self._moved = {old: moved[old] for old in self._flying if old in moved}
            self._flying = {moved.get(old, old) for old in self._flying}

    def sample(self) -> None:
        """Ends the window of time and spools its telemetry."""
        now = self._clock.monotonic()
        window = now - self._window_began
        self._window_began = now
        at = self._clock.time()
        samples = self._recorder.take(at, window)
        samples.append(Sample(at, window, gauges=self._gauges()))
        for batch in _batches(samples):
            message = Telemetry(self._boot, self._seq, batch, self._spool.take_dropped())
            if self._spool.put(self._topic, codec.encode(message)):
                self._seq += 1
            else:
                self._spool.count_dropped(message.dropped)

    def pump(self) -> None:
        """Forgets what arrived; sends what waits, in order, a window at a time."""
        while True:
            with self._lock:
                landed = [self._moved.pop(number, number) for number in self._landed]
                self._landed = []
                self._flying.difference_update(landed)
            self._spool.remove(landed)
            if not self._connected.is_set():
                return
            room = WINDOW - len(self._flying)
            waits = room > 0 and self._spool.newest > self._sent_id
            rows = self._spool.after(self._sent_id, room) if waits else []
            for row in rows:
                if row.id in self._flying:  # sent from memory, before it moved to the file
                    self._sent_id = row.id
                    continue
                with self._lock:
                    self._flying.add(row.id)
                try:
                    self._publish(row.topic, row.payload, self._done(row.id))
                except ShoalError:
                    with self._lock:
                        self._flying.discard(row.id)
                    return
                self._sent_id = row.id
            if not rows:
                return

    def _done(self, row_id: int) -> Callable[[bool], None]:
        def done(taken: bool) -> None:
            if not taken:
                log.warning("the broker refused a spooled message: dropped", id=row_id)
            with self._lock:
                self._landed.append(row_id)
                full = len(self._landed) >= WINDOW // 2
            if full:  # few are forgotten in the next turn
                self._wake.set()

        return done


def _batches(samples: list[Sample]) -> list[list[Sample]]:
    """Samples in messages within the cap of bytes; one that is over it loses its label counts."""
    batches: list[list[Sample]] = []
    size = limits.MAX_MESSAGE_BYTES
    for sample in samples:
        length = len(codec.encode(sample)) + 256
        if length > limits.MAX_MESSAGE_BYTES // 2:
            sample = msgspec.structs.replace(sample, labels={}, drift=None)
            length = len(codec.encode(sample)) + 256
        full = not batches or len(batches[-1]) >= limits.MAX_TELEMETRY_SAMPLES
        if full or size + length > limits.MAX_MESSAGE_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(sample)
        size += length
    return batches
