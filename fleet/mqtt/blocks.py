"""Answers ``blob/get``: ranges of repository files over MQTT, for devices without HTTP."""

from __future__ import annotations

import queue
import threading
from typing import Final

import structlog

from contracts import blocks, codec
from contracts.config import MqttConfig
from contracts.errors import InputError, ShoalError
from contracts.messages import BlobGet
from contracts.topics import Topics, parse
from fleet.mqtt.link import Link
from fleet.repository import Repository

_LOG: Final = structlog.get_logger("blocks")
_MAX_WAITING: Final = 4096
"""Requests that may wait; a device asks again for what is dropped."""


class BlockServer:
    """Serves blocks; with `shared`, several controllers share the load.

    Their share group has the fleet's `secret` in its name: a device that knew it could take a
    share of the requests, whatever the broker then lets it read.
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
    ) -> None:
        self._repository = repository
        self._topics = topics
        self._queue: queue.Queue[tuple[str, bytes] | None] = queue.Queue(_MAX_WAITING)
        self.served = 0
        self.bytes = 0
        self.dropped = 0
        pattern = topics.every_blob_get()
        if shared:
            pattern = topics.shared("-".join(filter(None, ["blocks", secret])), pattern)
        self.link = Link(mqtt, name, filters={pattern: self._on_get})
        self._thread = threading.Thread(target=self._run, name="blocks", daemon=True)

    def start(self) -> None:
        """Starts serving."""
        self.link.start()
        self._thread.start()

    def stop(self) -> None:
        """Stops serving."""
        self._queue.put(None)
        self._thread.join(30)
        self.link.stop()

    def _on_get(self, topic: str, payload: bytes) -> None:
        try:
            self._queue.put_nowait((topic, payload))
        except queue.Full:
            self.dropped += 1

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._answer(*item)
            except ShoalError as error:
                _LOG.debug("block request refused", topic=item[0][:200], reason=str(error)[:300])
            except Exception:  # noqa: BLE001
                # One request must not end the thread that serves all devices.
                _LOG.exception("block request failed", topic=item[0][:200])

    def _answer(self, topic: str, payload: bytes) -> None:
        device = parse(topic).target
        request = codec.decode(payload, BlobGet, what=f"block request of {device}", cap=4096)
        reply = self._topics.blob(device, request.id)
        try:
            block = self._repository.read(request.path, request.offset, request.length)
            answer = blocks.pack(request.id, block)
            self.bytes += len(block.data)
        except (InputError, OSError) as error:
            known = error if isinstance(error, ShoalError) else InputError("no-such-path", "gone")
            answer = blocks.pack_error(request.id, known)
        self.link.publish(reply, answer, expiry_s=60)
        self.served += 1
