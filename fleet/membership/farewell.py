"""What is said at the broker when a device leaves: a last word, the end of its sessions, no rest.

A connection of its own for each visit: the command line has no other, and a broker that takes a
message badly then ends nothing that is needed.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from contracts import codec
from contracts.config import MqttConfig
from contracts.errors import ShoalError, UnavailableError
from contracts.messages import Leave, Status
from contracts.topics import LEAVE, DeviceKind, Topics
from fleet.broker import sessions
from fleet.mqtt.link import Link
from fleet.ownership.glance import Glance
from fleet.store import Store

if TYPE_CHECKING:
    from typing_extensions import Self

_LOG: Final = structlog.get_logger("farewell")
_CONNECT_S: Final = 5.0
_ACK_S: Final = 5.0
_ANSWER_S: Final = 3.0
READ_S: Final = 5.0
"""Seconds that a device which is connected gets to read the last word: what it has not read is
lost when its connection is ended. The broker keeps it no longer."""

_STATUS_S: Final = 1.0
"""Seconds for the broker to say whether a device is connected; of one that never was it does
not."""

_RETAINED: Final[tuple[DeviceKind, ...]] = ("desired", "reported", "status", "offered")


class Visit:
    """One visit at the broker; a context manager.

    Args:
        topics: of the fleet.
        mqtt: the broker, with the controller's certificate.
        store: the database, which must be the one that has the fleet.
        device: who is told something.

    Raises:
        UnavailableError: ``broker-unreachable``, ``not-owner``, when it is entered.
    """

    def __init__(
        self, topics: Topics, mqtt: MqttConfig, store: Store, device: str | None = None
    ) -> None:
        self._store = store
        self._glance = Glance(topics)
        self._topics = topics
        self._where = mqtt.host, mqtt.port
        self._tls = mqtt.tls is not None
        self._answers: list[bytes] = []
        self._answered = threading.Event()
        self._id = secrets.token_hex(8)
        self._has_read = False
        self._settled = threading.Event()  # it has read the last word, or is not connected
        self._settled.set()
        self._heard = threading.Event()  # whether it is connected
        filters = dict(self._glance.filters)
        if self._tls:
            filters[sessions.RESPONSE] = self._on_answer
        if device is not None:
            filters[topics.of_device(device, "status")] = self._on_status
            filters[topics.response(device, self._id)] = self._on_read
        client_id = f"shoal-{topics.fleet}-farewell-{secrets.token_hex(16)}"
        self._link = Link(mqtt, client_id, filters=filters)

    def __enter__(self) -> Self:
        away = UnavailableError("broker-unreachable", "the MQTT broker cannot be reached now")
        try:
            # Nobody listens: that is known at once, without the patience of a connection.
            socket.create_connection(self._where, _CONNECT_S).close()
        except OSError:
            raise away from None
        self._link.start()
        if not self._link.connected.wait(_CONNECT_S):
            self._link.stop()
            raise away
        try:
            self._glance.check(self._store)
        except BaseException:
            self._link.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._link.stop()

    def _on_answer(self, _topic: str, payload: bytes) -> None:
        self._answers.append(payload)
        self._answered.set()

    def _on_status(self, _topic: str, payload: bytes) -> None:
        try:
            status = codec.decode(payload, Status, what="a status") if payload else None
        except ShoalError:
            return
        if status is None or status.state == "offline":
            self._settled.set()
        elif not self._has_read:
            self._settled.clear()
        self._heard.set()

    def _on_read(self, _topic: str, _payload: bytes) -> None:
        self._has_read = True
        self._settled.set()

    def say(self, device: str, leave: Leave) -> bool:
        """Tells a device why it is not of the fleet any more; whether the broker took it.

        One that is away is not told: who connects next by its name may be its successor. Returns
        when a device that is connected has read it, or had :data:`READ_S` for that.
        """
        if self._heard.wait(_STATUS_S) and self._settled.is_set():
            return False
        topic = self._topics.request(device, LEAVE)
        leave = msgspec.structs.replace(leave, id=self._id)
        sent = self._sent([(topic, codec.encode(leave), False)], expiry_s=READ_S)
        return sent and self._read(device)

    def _read(self, device: str) -> bool:
        if not self._settled.wait(READ_S):
            _LOG.warning("a device that is connected has not read that it leaves", device=device)
        return True

    def clear(self, device: str) -> bool:
        """Removes the documents that the broker retains of a device; whether it did."""
        kinds = [(self._topics.of_device(device, kind), b"", True) for kind in _RETAINED]
        return self._sent(kinds)

    def _sent(
        self, messages: Sequence[tuple[str, bytes, bool]], expiry_s: float | None = None
    ) -> bool:
        try:
            flying = [
                self._link.publish(topic, payload, retain=retain, expiry_s=expiry_s)
                for topic, payload, retain in messages
            ]
        except ShoalError:
            return False
        deadline = time.monotonic() + _ACK_S
        for info in flying:
            try:
                info.wait_for_publish(max(0.0, deadline - time.monotonic()))
            except (RuntimeError, ValueError):
                return False
        return all(info.is_published() for info in flying)

    def end(self, devices: Sequence[str]) -> bool:
        """Ends the open connections of devices; False where the broker has no plugin for it."""
        if not self._tls:
            return False
        for start in range(0, len(devices), sessions.MAX_DEVICES):
            if not self._end(devices[start : start + sessions.MAX_DEVICES]):
                return False
        return True

    def _end(self, devices: Sequence[str]) -> bool:
        self._answered.clear()
        self._answers.clear()
        try:
            self._link.publish(sessions.CONTROL, sessions.request(devices))
            if not self._answered.wait(_ANSWER_S):
                return False
            refusals = sessions.refusals(self._answers[0])
        except ShoalError as error:
            _LOG.warning("sessions not ended", reason=str(error)[:300])
            return False
        if refusals:
            _LOG.warning("sessions not ended", reasons=refusals[:5])
        return not refusals
