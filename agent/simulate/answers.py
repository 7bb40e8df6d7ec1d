"""Answers of a simulated device to requests, with the agent's own reply object."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from agent.serving.reply import Reply
from agent.simulate.host import Running, Script
from contracts import codec
from contracts.errors import InputError, ShoalError, UnavailableError
from contracts.messages import (
    Answer,
    CancelRequest,
    Classified,
    ClassifyRequest,
    Generated,
    GenerateRequest,
    Name,
    Request,
    Selftested,
    SelftestRequest,
    StatusRequest,
)

if TYPE_CHECKING:
    from agent.simulate.device import Device
    from agent.simulate.model import FakeModel

_TEXT = "a simulated device says one word after the other until it has said enough"
_WORDS = tuple(_TEXT.split())
_GOLDEN = 16


class Answers:
    """The requests of one device.

    Args:
        device: who answers.
    """

    __slots__ = ("_device", "_running")

    def __init__(self, device: Device) -> None:
        self._device = device
        self._running: dict[str, Reply] | None = None

    def request(self, op: str, payload: bytes, properties: dict[str, Any]) -> None:
        """Answers one request. `properties`: ``id``, ``reply_to``, ``deadline_ms``, if given."""
        known: dict[str, tuple[type[Request], Callable[[Any, Reply], None]]] = {
            "classify": (ClassifyRequest, self._classify),
            "generate": (GenerateRequest, self._generate),
            "cancel": (CancelRequest, self._cancel),
            "selftest": (SelftestRequest, self._selftest),
            "status": (StatusRequest, self._status),
        }
        kind, handle = known.get(op, (Request, None))
        try:
            request = codec.decode(payload, kind, what=f"a {op} request")
        except InputError as error:
            wrong = _id_of(payload) or properties.get("id")
            if wrong is not None:
                self._reply(wrong, None, properties).fail(error)
            return
        request_id = request.id or properties.get("id")
        if request_id is None:
            return
        reply = self._reply(request_id, request.deadline_ms, properties)
        try:
            if handle is None:
                raise InputError("unknown-operation", f"this device has no operation {op[:64]!r}")
            handle(request, reply)
        except ShoalError as error:
            reply.fail(error)

    def _reply(self, request_id: str, deadline_ms: int | None, properties: dict[str, Any]) -> Reply:
        device = self._device
        topic = device.names.response(device.name, request_id)
        deadline_ms = deadline_ms or properties.get("deadline_ms")

        def send(answer: Answer) -> None:
            device.counters.answers += answer.done
            device.publish(topic, codec.encode(answer))

        return Reply(
            request_id,
            device.name,
            send,
            monotonic=device.host.monotonic,
            deadline=device.host.monotonic() + deadline_ms / 1000 if deadline_ms else None,
        )

    def _model(self, slot: str) -> FakeModel:
        found = self._device.slots.get(slot)
        if found is None or found.active is None:
            raise UnavailableError("no-model", f"nothing is active in slot {slot}")
        return found.active

    def _classify(self, request: ClassifyRequest, reply: Reply) -> None:
        model = self._model(request.slot)
        latency_us = model.latency_us * self._device.chance.lognormvariate(0, 0.2)

        def answer() -> None:
            top = model.classify(request.text, request.top_k)
            try:
                reply.check()
            except ShoalError as error:
                reply.fail(error)
                return
            best = top[0]
            reply.finish(
                classified=Classified(
                    best.label, best.confidence, top, model.ref, round(latency_us, 1)
                )
            )

        self._device.host.later(latency_us / 1e6, answer)

    def _generate(self, request: GenerateRequest, reply: Reply) -> None:
        model = self._model(request.slot)
        if (request.prompt is None) == (request.messages is None):
            raise InputError("bad-request", "a generate request has either prompt or messages")
        Running(self._device.host, self._tokens(request, reply, model))

    def _tokens(self, request: GenerateRequest, reply: Reply, model: FakeModel) -> Script:
        device = self._device
        if self._running is None:
            self._running = {}
        self._running[reply.id] = reply
        pause = model.slowness / device.fates.scenario.traffic.tokens_per_s
        began, finish = device.host.monotonic(), "length"
        words: list[str] = []
        length = min(request.max_tokens, 12 + device.chance.randrange(20))
        try:
            for index in range(length):
                yield pause
                if reply.cancelled.is_set():
                    finish = "cancelled"
                    break
                if reply.expired():
                    finish = "time"
                    break
                word = _WORDS[(device.index + index) % len(_WORDS)]
                words.append(word if not words else f" {word}")
                if request.stream:
                    reply.chunk(words[-1])
            else:
                finish = "length" if length == request.max_tokens else "stop"
            seconds = max(device.host.monotonic() - began, 1e-9)
            reply.finish(
                generated=Generated(
                    text="".join(words),
                    finish_reason=finish,  # type: ignore[arg-type]
                    prompt_tokens=len((request.prompt or "").split()),
                    tokens=len(words),
                    bundle=model.ref,
                    first_token_ms=round(pause * 1000, 2),
                    tokens_per_s=round(len(words) / seconds, 1),
                )
            )
        finally:
            self._running.pop(reply.id, None)

    def _cancel(self, request: CancelRequest, reply: Reply) -> None:
        running = (self._running or {}).get(request.cancel)
        if running is not None:
            running.cancelled.set()
        reply.finish(cancelled=running is not None)

    def _selftest(self, request: SelftestRequest, reply: Reply) -> None:
        model = self._model(request.slot)
        passed = round(_GOLDEN * model.behaviour.golden_accuracy)
        reply.finish(selftested=Selftested(model.ref, _GOLDEN, passed, 0, "simulated"))

    def _status(self, _request: StatusRequest, reply: Reply) -> None:
        reply.finish(reported=self._device.reported())


class _OnlyId(msgspec.Struct):
    """The one field of a request that is wrong which an answer needs."""

    id: Name | None = None


def _id_of(payload: bytes) -> str | None:
    try:
        return codec.decode(payload, _OnlyId, what="a request").id
    except InputError:
        return None
