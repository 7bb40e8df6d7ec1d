"""From a request as it came to a job on the worker, or an error answer at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import msgspec

from agent.connection import Inbound
from agent.serving.inflight import RunningMark
from agent.serving.limiter import RateLimiter
from agent.serving.registry import Registry
from agent.serving.reply import Reply
from agent.serving.worker import Job, Worker
from agent.system.log import logger
from contracts import codec, limits
from contracts.errors import InputError, ShoalError, UnavailableError
from contracts.messages import Answer, Name, Request
from contracts.topics import Topics, parse

log = logger(__name__)

MAX_UNACKNOWLEDGED: Final = 16
"""Requests that are acknowledged after their answer, so that a crash does not lose them.

Below the number of messages in flight that brokers allow a client by default (mosquitto: 20),
so that a ``cancel`` or a desired document is never stuck behind waiting requests. Beyond it a
request is acknowledged when it is queued.
"""


class _Reference(msgspec.Struct):
    """What can be read of a request that is otherwise wrong."""

    id: Name | None = None


class _Running(msgspec.Struct):
    """A request that waits or runs: what a copy of it looks like, and what to acknowledge."""

    topic: str
    payload: bytes
    acks: list[Callable[[], None]]


class Dispatcher:
    """Turns requests into answers.

    Args:
        registry: the operations.
        worker: where queued operations run.
        limiter: of each requester.
        topics: of the fleet.
        device: who answers.
        send: publishes an answer; raises ``UnavailableError`` when it cannot.
        monotonic: seconds that only grow.
        mark: the request that runs; None: no mark is kept.
        refused: told slot and code of a request that did not get to its handler.
    """

    def __init__(
        self,
        registry: Registry,
        worker: Worker,
        limiter: RateLimiter,
        *,
        topics: Topics,
        device: str,
        send: Callable[[str, bytes], None],
        monotonic: Callable[[], float],
        mark: RunningMark | None = None,
        refused: Callable[[str, str], None] = lambda slot, code: None,
    ) -> None:
        self._registry = registry
        self._worker = worker
        self._limiter = limiter
        self._topics = topics
        self._device = device
        self._send = send
        self._monotonic = monotonic
        self._mark = mark
        self._refused = refused
        self._lock = threading.Lock()
        self._running: dict[tuple[str, str], _Running] = {}
        self._unacknowledged = 0

    def handle(self, op: str, inbound: Inbound, *, group: bool = False) -> None:
        """Handles one request; never raises for what a requester sent.

        Args:
            op: the operation.
            inbound: the message. It is acknowledged here, sooner or later.
            group: it was sent to a group: every device answers on its own topic.
        """
        request_id = ""
        slot = ""
        topic: str | None = None
        try:
            request_id = self._request_id(inbound)
            topic = self._topics.response(self._device, request_id)
            operation = self._registry.get(op)
            request = codec.decode(inbound.payload, operation.request, what=f"a {op} request")
            slot = getattr(request, "slot", "")
            topic = self._reply_topic(request, inbound, topic, group=group)
            if not self._limiter.allow(request.requester, self._monotonic()):
                raise UnavailableError(
                    "rate-limited", f"too many requests from {request.requester or 'you'}"
                )
            if inbound.again and self._mark is not None and self._mark.died_with == request_id:
                self._mark.died_with = ""
                raise UnavailableError(
                    "agent-died", "the agent died while it worked on this request: not tried again"
                )
            self._start(
                operation.handler, operation.queued, op, request, request_id, topic, inbound
            )
        except ShoalError as error:
            self._refused(slot, error.code)
            if topic is None:
                log.warning("request without an id", code=error.code)
            else:
                answer = Answer(id=request_id, device=self._device, error=error.info)
                self._try_send(topic, answer)
            inbound.ack()

    def _request_id(self, inbound: Inbound) -> str:
        """The id from the payload's field, or the correlation data.

        Raises:
            InputError: ``no-id``; there is neither, so nobody can be answered.
        """
        try:
            found = codec.decode(inbound.payload, _Reference, what="a request").id
        except InputError:
            found = None
        if found is None and inbound.correlation is not None:
            try:
                found = codec.convert(inbound.correlation.decode(), Name)
            except (UnicodeDecodeError, msgspec.ValidationError):
                found = None
        if found is None:
            raise InputError(
                "no-id", "a request needs an id: the field, or correlation data that is a name"
            )
        return found

    def _reply_topic(self, request: Request, inbound: Inbound, default: str, *, group: bool) -> str:
        """Where the answer goes: this device's own ``res`` alone.

        A requester who could choose any topic would write with this device's rights.

        Raises:
            InputError: ``bad-reply-topic``.
        """
        wanted = request.reply_to or inbound.response_topic
        if wanted is None or wanted == default or group:
            return default
        try:
            address = parse(wanted)
        except InputError:
            address = None
        if (
            address is None
            or address.kind != "response"
            or address.target != self._device
            or address.fleet != self._topics.fleet
        ):
            raise InputError(
                "bad-reply-topic",
                f"this device answers below {self._topics.response(self._device, 'ID')} alone",
            )
        return wanted

    def _start(
        self,
        handler: Callable[[Any, Reply], None],
        queued: bool,
        op: str,
        request: Request,
        request_id: str,
        topic: str,
        inbound: Inbound,
    ) -> None:
        key = (op, request_id)
        with self._lock:
            known = self._running.get(key)
            if known is not None and (known.topic, known.payload) == (topic, inbound.payload):
                known.acks.append(inbound.ack)  # sent again after a reconnect; it is in work
                return
            if known is not None:
                raise InputError(
                    "id-in-use", f"another {op} request with the id {request_id} is in work"
                )
            acks = [inbound.ack]
            self._running[key] = _Running(topic, inbound.payload, acks)
            if self._unacknowledged >= MAX_UNACKNOWLEDGED or not queued:
                acks.clear()
                inbound.ack()
            else:
                self._unacknowledged += 1
            late = not acks

        def done() -> None:
            with self._lock:
                ended = self._running.pop(key, None)
                if not late:
                    self._unacknowledged -= 1
            for ack in ended.acks if ended is not None else ():
                ack()

        deadline = self._deadline(request, inbound)
        reply = Reply(
            request_id,
            self._device,
            lambda answer: self._send(topic, _encoded(answer)),
            monotonic=self._monotonic,
            deadline=deadline,
            done=done,
        )
        if not queued:
            try:
                self._answer_now(handler, request, reply)
            finally:  # what stays would make every copy of the request wait for ever
                done()
            return
        slot = getattr(request, "slot", "")
        job = Job(lambda: self._run(handler, request, reply), reply, request.priority, slot)
        try:
            self._worker.submit(job)
        except ShoalError as error:
            reply.fail(error)
            self._refused(slot, error.code)

    def _answer_now(
        self, handler: Callable[[Any, Reply], None], request: Request, reply: Reply
    ) -> None:
        failure: ShoalError
        try:
            handler(request, reply)
            return
        except ShoalError as error:
            failure = error
        except Exception as error:  # whoever asked is told, as by the worker
            log.exception("request failed", request=reply.id)
            failure = UnavailableError("internal", f"the request failed: {type(error).__name__}")
        try:
            reply.fail(failure)
        except ShoalError:
            log.warning("answer not sent", request=reply.id)

    def _run(self, handler: Callable[[Any, Reply], None], request: Request, reply: Reply) -> None:
        if self._mark is not None:
            self._mark.set(reply.id)
        try:
            handler(request, reply)
        finally:
            if self._mark is not None:
                self._mark.clear()

    def _deadline(self, request: Request, inbound: Inbound) -> float | None:
        if request.deadline_ms is not None:
            return self._monotonic() + request.deadline_ms / 1000
        if inbound.expiry_s is not None:
            return self._monotonic() + min(inbound.expiry_s, limits.MAX_DEADLINE_MS / 1000)
        return None

    def _try_send(self, topic: str, answer: Answer) -> None:
        try:
            self._send(topic, _encoded(answer))
        except ShoalError as error:
            log.warning("answer not sent", code=error.code)


def _encoded(answer: Answer) -> bytes:
    data = codec.encode(answer)
    if len(data) <= limits.MAX_MESSAGE_BYTES:
        return data
    error = InputError(
        "too-large", f"the answer has {len(data)} bytes, over {limits.MAX_MESSAGE_BYTES}"
    )
    return codec.encode(Answer(id=answer.id, device=answer.device, error=error.info))
