"""Sends desired documents: what the database holds and the broker has not acknowledged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from contracts import codec
from contracts.config import MqttConfig
from contracts.desired import Desired
from contracts.errors import ShoalError
from contracts.topics import Topics
from fleet.mqtt.link import Link
from fleet.mqtt.worker import Worker
from fleet.store import Store, desired, ownership
from fleet.store.documents import load

_LOG: Final = structlog.get_logger("outbox")
_BATCH: Final = 500
_IDLE_S: Final = 5.0
_ACK_S: Final = 15.0
_SWEEP_S: Final = 60.0
_RETRY_S: Final = 1.0


class Outbox(Worker):
    """The sender of desired documents; when it stops, what is not sent stays in the database.

    A document is marked as sent after the broker's acknowledgement; a crash before the mark
    sends it again, which changes nothing, as revisions only grow. After each connect, and now
    and then, what devices have not reached is sent again: a broker may have lost its retained
    messages.

    Args:
        store: the database.
        topics: of the fleet.
        mqtt: the broker.
        name: of the connection.
        clock: seconds since the epoch.
        fence: with which documents are sent; 0: none may be.
    """

    def __init__(
        self,
        store: Store,
        topics: Topics,
        mqtt: MqttConfig,
        name: str,
        clock: Callable[[], float] = time.time,
        *,
        fence: Callable[[], int],
    ) -> None:
        super().__init__(Link(mqtt, name, on_up=self._on_up), "outbox")
        self._fence = fence
        self._store = store
        self._topics = topics
        self._clock = clock
        self._lost = threading.Event()
        self._swept = 0.0
        self.sent = 0

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    def _on_up(self) -> None:
        self._lost.set()
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(_IDLE_S)
            self._wake.clear()
            # Apart: when what devices have reached cannot be read, new documents go out still.
            fine = [self._tried(self._resend_unreached), self._tried(self._send_all)]
            if not all(fine):
                self._stopping.wait(_RETRY_S)

    def _tried(self, work: Callable[[], None]) -> bool:
        """Does `work` when there is a connection; False: it failed and must be tried again.

        Nothing may end the thread: documents would wait until the controller's next start,
        while its connection looks well.
        """
        try:
            if self.link.connected.is_set() and self._fence():
                work()
        except ShoalError as error:
            _LOG.warning("desired documents wait", reason=str(error))
            return False
        except Exception:  # noqa: BLE001
            _LOG.exception("desired documents wait")
            return False
        return True

    def _send_all(self) -> None:
        while not self._stopping.is_set() and self._send():
            pass

    def _resend_unreached(self) -> None:
        now = self._clock()
        if not self._lost.is_set() and now - self._swept < _SWEEP_S:
            return
        everything = self._lost.is_set()
        self._lost.clear()
        try:
            self._mark_unreached(now, everything=everything)
        except Exception:
            if everything:
                self._lost.set()
            raise
        self._swept = now

    def _mark_unreached(self, now: float, *, everything: bool) -> None:
        with self._store.read() as connection:
            behind = desired.unreached(connection, None if everything else now - _SWEEP_S)
        if behind:
            with self._store.write() as connection:
                desired.resend(connection, behind)

    def _send(self) -> bool:
        """Sends one batch; False when there was nothing, or nothing may be sent."""
        fence = self._fence()
        with self._store.read() as connection:
            newest = ownership.newest(connection)
            batch = desired.unsent(connection, _BATCH)
        if not batch or fence == 0:
            return False
        if fence != newest:
            # Another became the owner: what it has sent is newer than what we would send.
            _LOG.info("desired documents wait for the newest owner", fence=fence, newest=newest)
            return False
        flying = [
            (
                device,
                revision,
                self.link.publish(
                    self._topics.of_device(device, "desired"), _fenced(text, fence), retain=True
                ),
            )
            for device, revision, text in batch
        ]
        done: list[tuple[str, int]] = []
        deadline = time.monotonic() + _ACK_S
        for device, revision, info in flying:
            try:
                info.wait_for_publish(max(0.0, deadline - time.monotonic()))
            except (RuntimeError, ValueError):
                continue
            if info.is_published():
                done.append((device, revision))
        with self._store.write() as connection:
            desired.mark_sent(connection, done)
        self.sent += len(done)
        return len(done) == len(batch)


def _fenced(text: str, fence: int) -> bytes:
    """A stored document with the fence of who sends it."""
    return codec.encode(msgspec.structs.replace(load(text, Desired), fence=fence))
