"""From a request as it came to a job on the worker, or an error answer at once."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
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
from contracts.answers import Answer
from contracts.errors import InputError, ShoalError, UnavailableError
from contracts.requests import Request
from contracts.topics import Topics, check_name, parse

log = logger(__name__)

MAX_UNACKNOWLEDGED: Final = 16
"""Requests that are acknowledged after their answer, so that a crash does not lose them.

Below the number of messages in flight that brokers allow a client by default (mosquitto: 20),
so that a ``cancel`` or a desired document is never stuck behind waiting requests. Beyond it a
request is acknowledged when it is queued.
"""

_MAX_TOPIC: Final = 300
"""Characters of an answer's topic, as of `reply_to`."""


class _Reference(msgspec.Struct):
    """What can be read of a request that is otherwise wrong."""

    id: Any = None
    reply_to: Any = None


class _To(msgspec.Struct, frozen=True):
    """Where an answer goes, and what goes with it."""

    topic: str
    correlation: bytes | None


class _Running(msgspec.Struct):
    """A request that waits or runs: what a copy of it looks like, and what to acknowledge."""

    to: _To
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
        send: publishes an answer, with correlation data where the request had some; raises
            ``UnavailableError`` when it cannot.
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
        send: Callable[[str, bytes, bytes | None], None],
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
            group: it was sent to a group: a response topic of one device is refused.
        """
        request_id = ""
        slot = ""
        to: _To | None = None
        try:
            request_id, wanted = self._reference(inbound)
            to = _To(self._topics.response(self._device, request_id), inbound.correlation)
            to = _To(self._reply_topic(wanted, to.topic, group=group), inbound.correlation)
            operation = self._registry.get(op)
            request = codec.decode(inbound.payload, operation.request, what=f"a {op} request")
            slot = getattr(request, "slot", "")
            request = operation.meant(request)
            slot = getattr(request, "slot", "")
            if not self._limiter.allow(request.requester, self._monotonic()):
                raise UnavailableError(
                    "rate-limited", f"too many requests from {request.requester or 'you'}"
                )
            if inbound.again and self._mark is not None and self._mark.died_with == request_id:
                self._mark.died_with = ""
                raise UnavailableError(
                    "agent-died", "the agent died while it worked on this request: not tried again"
                )
            self._start(operation.handler, operation.queued, op, request, request_id, to, inbound)
        except ShoalError as error:
            self._refused(slot, error.code)
            if to is None:
                log.warning("request without an id", code=error.code)
            else:
                answer = Answer(id=request_id, device=self._device, error=error.info)
                self._try_send(to, answer)
            inbound.ack()

    def _reference(self, inbound: Inbound) -> tuple[str, str | None]:
        """The id of a request and where its answer is wanted, however wrong the rest of it is.

        The id is the field, the correlation data, or made: of correlation data that is no name,
        or anew where only a response topic says whom to answer.

        Raises:
            InputError: ``no-id``; there is none of these, so nobody can be answered.
        """
        try:
            found = codec.decode(inbound.payload, _Reference, what="a request")
        except InputError:
            found = _Reference()
        wanted = found.reply_to if isinstance(found.reply_to, str) else inbound.response_topic
        if _is_name(found.id):
            return found.id, wanted
        if inbound.correlation is not None:
            with contextlib.suppress(UnicodeDecodeError):
                if _is_name(text := inbound.correlation.decode()):
                    return text, wanted
            return f"c-{hashlib.sha256(inbound.correlation).hexdigest()[:32]}", wanted
        if wanted is not None:
            return f"r-{secrets.token_hex(12)}", wanted
        raise InputError(
            "no-id", "a request needs an id: the field, correlation data, or a response topic"
        )

    def _reply_topic(self, wanted: str | None, default: str, *, group: bool) -> str:
        """Where the answer goes: this device's own ``res``, or what an application may read.

        A requester who could choose any topic would write with this device's rights.

        Raises:
            InputError: ``bad-reply-topic``.
        """
        if wanted is None or wanted == default:
            return default
        if len(wanted) <= _MAX_TOPIC and self._topics.is_application(wanted):
            return wanted
        address = None
        with contextlib.suppress(InputError):
            address = parse(wanted)
        mine = (self._device, self._topics.fleet)
        if (
            address is not None
            and not group
            and (address.kind, address.target, address.fleet) == ("response", *mine)
        ):
            return wanted
        mine_or_not = "" if group else f"{self._topics.response(self._device, 'ID')} and "
        raise InputError(
            "bad-reply-topic",
            f"this device answers below {mine_or_not}{self._topics.prefix}/a/APPLICATION alone",
        )

    def _start(
        self,
        handler: Callable[[Any, Reply], None],
        queued: bool,
        op: str,
        request: Request,
        request_id: str,
        to: _To,
        inbound: Inbound,
    ) -> None:
        key = (op, request_id)
        with self._lock:
            known = self._running.get(key)
            if known is not None and (known.to, known.payload) == (to, inbound.payload):
                known.acks.append(inbound.ack)  # sent again after a reconnect; it is in work
                return
            if known is not None:
                raise InputError(
                    "id-in-use", f"another {op} request with the id {request_id} is in work"
                )
            acks = [inbound.ack]
            self._running[key] = _Running(to, inbound.payload, acks)
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
            lambda answer: self._send(to.topic, _encoded(answer), to.correlation),
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

    def _try_send(self, to: _To, answer: Answer) -> None:
        try:
            self._send(to.topic, _encoded(answer), to.correlation)
        except ShoalError as error:
            log.warning("answer not sent", code=error.code)


def _is_name(value: Any) -> bool:
    try:
        check_name(value, "request id")
    except InputError:
        return False
    return True


def _encoded(answer: Answer) -> bytes:
    data = codec.encode(answer)
    if len(data) <= limits.MAX_MESSAGE_BYTES:
        return data
    error = InputError(
        "too-large", f"the answer has {len(data)} bytes, over {limits.MAX_MESSAGE_BYTES}"
    )
    return codec.encode(Answer(id=answer.id, device=answer.device, error=error.info))
