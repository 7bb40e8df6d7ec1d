"""Asks devices over MQTT and yields their answers as they come, within a time limit."""

from __future__ import annotations

import asyncio
import collections
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final

import msgspec
import structlog

from contracts import codec
from contracts.answers import Answer
from contracts.config import MqttConfig
from contracts.errors import ErrorInfo, InputError, ShoalError, UnavailableError
from contracts.log_errors import reason_of
from contracts.requests import CancelRequest, Request
from contracts.topics import Topics, parse
from fleet.mqtt.link import Link

_LOG: Final = structlog.get_logger("query")
MAX_PENDING: Final = 256
"""Queries under way at once in one controller."""

MAX_ANSWER_BYTES: Final = 256 * 1024
_PREFIX: Final = "q-"
_BURST: Final = 200


class _Query:
    """One query under way: who has not finished, and where answers go."""

    def __init__(self, devices: Sequence[str], loop: asyncio.AbstractEventLoop) -> None:
        self.waiting = set(devices)
        self.loop = loop
        self.queue: asyncio.Queue[Answer] = asyncio.Queue()


class Asker:
    """Sends requests and hears the answers of all devices on one connection.

    Args:
        topics: of the fleet.
        mqtt: the broker.
        name: of the connection.
    """

    def __init__(self, topics: Topics, mqtt: MqttConfig, name: str) -> None:
        self._topics = topics
        self._pending: dict[str, _Query] = {}
        self.asked = 0
        self.answered = 0
        self._lock = threading.Lock()
        self._retained: collections.Counter[str] = collections.Counter()
        self.link = Link(
            mqtt,
            name,
            filters={topics.every_response(): self._on_answer},
            on_retained=self._on_retained,
        )

    def start(self) -> None:
        """Connects in the background."""
        self.link.start()

    def pause(self) -> None:
        """Asks nobody until it is started again."""
        self.link.stop()

    def stop(self) -> None:
        """Disconnects; queries under way run into their time limits."""
        self.link.stop()

    async def ask(
        self,
        devices: Sequence[str],
        op: str,
        request: Request,
        timeout_s: float,
        *,
        offline: Callable[[str], bool] = lambda device: False,
    ) -> AsyncGenerator[Answer, None]:
        """Asks devices and yields their answers.

        Args:
            devices: whom; each answers for itself.
            op: ``classify``, ``generate``, ``selftest``, ``status``.
            request: without id and deadline, which are set here.
            timeout_s: after which a device that has not finished gets an error answer.
            offline: devices that need not be asked: their answer is an error at once.

        Yields:
            Answers in the order of arrival; of a stream, its chunks. The last answer of every
            device has `done` true.

        Raises:
            InputError: ``too-large``.
            UnavailableError: ``broker-unreachable``, ``busy``.
        """
        if len(self._pending) >= MAX_PENDING:
            raise UnavailableError("busy", f"{MAX_PENDING} queries are under way: try again")
        query_id = _PREFIX + secrets.token_hex(12)
        query = _Query(devices, asyncio.get_running_loop())
        deadline = time.monotonic() + timeout_s
        self._pending[query_id] = query
        try:
            # Capped: a packet that the broker refuses would be sent again at every connection.
            payload = codec.encode_given(
                msgspec.structs.replace(
                    request, id=query_id, deadline_ms=max(1, int(timeout_s * 1000))
                ),
                what="the request",
            )
            for index, device in enumerate(devices):
                if offline(device):
                    query.queue.put_nowait(
                        _failed(query_id, device, "device-offline", "is offline")
                    )
                    continue
                self.link.publish(
                    self._topics.request(device, op),
                    payload,
                    expiry_s=timeout_s,
                    correlation=query_id,
                )
                self.asked += 1
                if index % _BURST == _BURST - 1:
                    await asyncio.sleep(0)
            while query.waiting:
                left = deadline - time.monotonic()
                try:
                    answer = await asyncio.wait_for(query.queue.get(), max(left, 0.001))
                except (TimeoutError, asyncio.TimeoutError):  # one class from 3.11 on
                    break
                if answer.done:
                    if answer.device not in query.waiting:
                        continue
                    query.waiting.discard(answer.device)
                yield answer
            for device in sorted(query.waiting):
                yield _failed(
                    query_id, device, "no-answer", f"did not answer within {timeout_s:g} s"
                )
            if op != "generate":
                query.waiting.clear()
        finally:
            del self._pending[query_id]
            if op == "generate":
                self._cancel(query_id, query)

    def _cancel(self, query_id: str, query: _Query) -> None:
        """Nobody listens any more: devices should not go on generating."""
        for device in query.waiting:
            try:
                payload = codec.encode(CancelRequest(id=query_id + "-x", cancel=query_id))
                self.link.publish(self._topics.request(device, "cancel"), payload, expiry_s=60)
            except ShoalError:
                return

    def take_retained(self) -> dict[str, int]:
        """Devices that had answers retained since the last call, and how many; they are removed."""
        with self._lock:
            found, self._retained = self._retained, collections.Counter()
        return dict(found)

    def _on_retained(self, topic: str) -> None:
        """On the network thread."""
        try:
            device = parse(topic).target
        except InputError:
            return  # a topic that no device of ours would make up
        with self._lock:
            self._retained[device] += 1

    def _on_answer(self, topic: str, payload: bytes) -> None:
        """On the network thread."""
        query_id = topic.rsplit("/", 1)[-1]
        query = self._pending.get(query_id)
        if query is None:
            return
        try:
            device = parse(topic).target
            answer = codec.decode(payload, Answer, what=f"answer of {device}", cap=MAX_ANSWER_BYTES)
        except InputError as error:
            _LOG.warning("answer refused", topic=topic[:200], reason=reason_of(error))
            return
        if device not in query.waiting or answer.device != device or answer.id != query_id:
            return
        self.answered += 1
        query.loop.call_soon_threadsafe(query.queue.put_nowait, answer)


def _failed(query_id: str, device: str, code: str, why: str) -> Answer:
    return Answer(id=query_id, device=device, error=ErrorInfo(code, f"{device} {why}"))


def votes(answers: Sequence[Answer]) -> dict[str, Any] | None:
    """What the devices say together: votes by label, the winner, and how sure they are.

    Returns:
        None when no device classified.
    """
    found = [answer.classified for answer in answers if answer.classified is not None]
    if not found:
        return None
    by_label: dict[str, list[float]] = {}
    for one in found:
        # Of several labels all together are the vote: half of them is another answer.
        by_label.setdefault(one.whole, []).append(one.confidence)
    # Ties go to the surer label, then to the first by name.
    winner = max(sorted(by_label), key=lambda label: (len(by_label[label]), sum(by_label[label])))
    return {
        "label": winner,
        "agreement": len(by_label[winner]) / len(found),
        "confidence": sum(by_label[winner]) / len(by_label[winner]),
        "votes": {label: len(by_label[label]) for label in sorted(by_label)},
        "answered": len(found),
    }
