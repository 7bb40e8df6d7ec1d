"""Answers ``blob/get``: ranges of repository files over MQTT, for devices without HTTP.

A request has some hundred bytes and its answer up to 256 KiB, so what waits is bounded at both
ends: requests by device, and answers by the bytes that the broker has not acknowledged. Devices
are served in turn, so that one that asks for much has to wait for the others and not they for it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

import structlog
from paho.mqtt.enums import MQTTErrorCode

from contracts import blocks, codec, limits
from contracts.config import MqttConfig
from contracts.errors import InputError, ShoalError
from contracts.log_errors import reason_of
from contracts.requests import BlobGet
from contracts.topics import Topics, parse
from fleet.mqtt.link import Link
from fleet.mqtt.worker import Worker
from fleet.repository import Repository

_LOG: Final = structlog.get_logger("blocks")
MAX_WAITING: Final = 4096
"""Requests that may wait; a device asks again for what is dropped."""

MAX_OF_DEVICE: Final = 32
"""Requests of one device that may wait: twice what an agent has on the way."""

MAX_REQUEST_BYTES: Final = 4096

MAX_UNACKNOWLEDGED_BYTES: Final = 4 * 1024 * limits.KIB
"""Bytes of answers that the broker has not acknowledged: what the connection holds in memory."""

_LEAST_BYTES: Final = limits.KIB
"""What an answer counts at least: its packet takes memory, however little is in it."""


class Waiting:
    """Requests by device, taken in turn: one of each device, then the next of each."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, deque[bytes]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False
        self._count = 0
        self.dropped = 0

    def put(self, device: str, payload: bytes) -> None:
        """Adds a request; a device that has too many loses its oldest."""
        with self._changed:
            mine = self._of.get(device)
            if mine is not None and len(mine) >= MAX_OF_DEVICE:
                mine.popleft()
                mine.append(payload)
                self.dropped += 1
            elif self._count >= MAX_WAITING:
                self.dropped += 1
            else:
                if mine is None:
                    mine = self._of[device] = deque()
                mine.append(payload)
                self._count += 1
                self._changed.notify()

    def take(self) -> tuple[str, bytes] | None:
        """Waits for a request; None when it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._of or self._closed)
            if self._closed:
                return None
            device, mine = self._of.popitem(last=False)
            payload = mine.popleft()
            self._count -= 1
            if mine:
                self._of[device] = mine
            return device, payload

    def clear(self) -> None:
        """What waits is dropped."""
        with self._changed:
            self._of.clear()
            self._count = 0

    def close(self) -> None:
        """What waits is dropped, and nothing is taken any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Unacknowledged:
    """The bytes of messages that the client holds until the broker has acknowledged them.

    It holds them over a lost connection too, and sends them again: nothing is to be forgotten
    then.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._early: set[int] = set()
        self._changed = threading.Condition()
        self._closed = False
        self.bytes = 0

    def add(self, mid: int, size: int) -> None:
        """A message was handed over; its acknowledgement may have been faster."""
        with self._changed:
            if mid in self._early:
                self._early.remove(mid)
            else:
                self._sizes[mid] = size
                self.bytes += size

    def settle(self, mid: int) -> None:
        """A message was acknowledged."""
        with self._changed:
            size = self._sizes.pop(mid, None)
            if size is None:
                self._early.add(mid)
            else:
                self.bytes -= size
                self._changed.notify_all()

    def wait_for_room(self) -> bool:
        """Waits until more may be sent; False when it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self.bytes < MAX_UNACKNOWLEDGED_BYTES or self._closed)
            return not self._closed

    def clear(self) -> None:
        """Forgets all: the client that held them is gone."""
        with self._changed:
            self._sizes.clear()
            self._early.clear()
            self.bytes = 0
            self._changed.notify_all()

    def close(self) -> None:
        """Ends all waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class BlockServer(Worker):
    """Serves blocks; with `shared`, several controllers share the load.

    `admitted` says whether a device may be served. The share group has the fleet's `secret` in
    its name: a device that knew it could take a share of the requests, whatever the broker then
    lets it read. Answers tell the time by `clock`: devices see by it how far theirs is off.
    """

    def __init__(
        self,
        repository: Repository,
        topics: Topics,
        mqtt: MqttConfig,
        name: str,
        *,
        secret: str = "",
        shared: bool = False,
        admitted: Callable[[str], bool] = lambda device: True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._clock = clock
        self._admitted = admitted
        self._topics = topics
        self.waiting = Waiting()
        self.unacknowledged = Unacknowledged()
        self.served = 0
        self.refused = 0
        self.bytes = 0
        pattern = topics.every_blob_get()
        if shared:
            pattern = topics.shared("-".join(filter(None, ["blocks", secret])), pattern)
        link = Link(
            mqtt,
            name,
            filters={pattern: self._on_get},
            on_acknowledged=self.unacknowledged.settle,
        )
        super().__init__(link, "blocks")

    def pause(self) -> None:
        """Serves nobody until it is started again; devices ask again for what waits."""
        super().pause()
        self.waiting.clear()
        self.unacknowledged.clear()

    def _end(self) -> None:
        self.waiting.close()
        self.unacknowledged.close()

    @property
    def dropped(self) -> int:
        """Requests that were too many."""
        return self.waiting.dropped

    def _on_get(self, topic: str, payload: bytes) -> None:
        try:
            device = parse(topic).target
            if len(payload) > MAX_REQUEST_BYTES:
                raise InputError("too-large", f"a block request has {len(payload)} bytes")
        except InputError as error:
            _LOG.debug("block request refused", topic=topic[:200], reason=reason_of(error))
            return
        self.waiting.put(device, payload)

    def _run(self) -> None:
        while self.unacknowledged.wait_for_room() and (item := self.waiting.take()) is not None:
            try:
                self._answer(*item)
            except ShoalError as error:
                _LOG.debug("block request refused", device=item[0], reason=reason_of(error))
            except Exception:  # noqa: BLE001
                # One request must not end the thread that serves all devices.
                _LOG.exception("block request failed", device=item[0])

    def _answer(self, device: str, payload: bytes) -> None:
        if not self._admitted(device):
            # Not answered: its connection may be open still, and it is nobody of the fleet.
            self.refused += 1
            return
        what = f"block request of {device}"
        request = codec.decode(payload, BlobGet, what=what, cap=MAX_REQUEST_BYTES)
        reply = self._topics.blob(device, request.id)
        try:
            block = self._repository.read(request.path, request.offset, request.length)
            answer = blocks.pack(request.id, block)
            self.bytes += len(block.data)
        except (InputError, OSError) as error:
            known = error if isinstance(error, ShoalError) else InputError("no-such-path", "gone")
            answer = blocks.pack_error(request.id, known)
        sent = self.link.publish(reply, answer, expiry_s=60, at=self._clock())
        if sent.rc != MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            self.unacknowledged.add(sent.mid, max(_LEAST_BYTES, len(answer)))
        self.served += 1
