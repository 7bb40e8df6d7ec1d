"""An OpenAI-compatible endpoint: ``/v1/chat/completions``, ``/v1/completions``, ``/v1/models``.

The model of a request is a selector: a device's name, ``group=kitchen``, or ``all``. Of the
devices that it means, one answers: online, with a generator, and the least busy. A device that
is busy or silent before its first token is replaced by the next.
Source: OpenAI API reference, chat completions and completions.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from contracts import codec, limits, messages
from contracts.errors import InputError, ShoalError, UnavailableError, from_info
from contracts.messages import Answer, GenerateRequest
from fleet.api.auth import QUESTION, Operator, TheController, Viewer
from fleet.api.stream import Stream
from fleet.controller import Controller
from fleet.rollout import selector
from fleet.store import devices, selection
from fleet.store.schema import DEVICE

ROUTER = APIRouter(prefix="/v1", tags=["openai"])
SLOT: Final = "generate"
TIMEOUT_S: Final = 120.0
"""Seconds that one completion may take."""

_RETRY: Final = frozenset({"busy", "device-offline", "no-answer", "no-model", "shutting-down"})
_TRIES: Final = 3
_REASONS: Final = {"stop": "stop", "length": "length", "time": "length", "cancelled": "stop"}


class Loose(BaseModel):
    """Clients send fields that mean nothing here (``user``, ``store``): they are ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class Part(Loose):
    """A part of a message's content; only text is understood."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=limits.MAX_TEXT_BYTES)]


class Turn(Loose):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=limits.MAX_TEXT_BYTES)] | list[Part]

    def message(self) -> messages.ChatMessage:
        """The message on the wire."""
        text = self.content
        if not isinstance(text, str):
            text = "".join(part.text for part in text)
        role: Any = "system" if self.role == "developer" else self.role
        return messages.ChatMessage(role, text)


class JsonSchema(Loose):
    """The inside of ``response_format``."""

    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class ResponseFormat(Loose):
    """How the output must look."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class StreamOptions(Loose):
    """What a stream ends with."""

    include_usage: bool = False


class Sampling(Loose):
    """Fields of both kinds of completion."""

    model: Annotated[str, Field(min_length=1, max_length=4000, description="a selector")]
    max_tokens: Annotated[int, Field(ge=1, le=limits.MAX_GENERATE_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    stop: (
        Annotated[str, Field(min_length=1, max_length=256)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=16)]
        | None
    ) = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    response_format: ResponseFormat | None = None

    def fields(self) -> dict[str, Any]:
        """The wire's fields of what was given."""
        found: dict[str, Any] = {
            "temperature": 1.0 if self.temperature is None else self.temperature
        }
        for name in ("max_tokens", "top_p", "seed"):
            if getattr(self, name) is not None:
                found[name] = getattr(self, name)
        if self.stop is not None:
            found["stop"] = [self.stop] if isinstance(self.stop, str) else self.stop
        wanted = self.response_format
        if wanted is not None and wanted.type == "json_schema":
            if wanted.json_schema is None:
                raise InputError("bad-message", "response_format needs json_schema.schema")
            found["json_schema"] = wanted.json_schema.schema_
        elif wanted is not None and wanted.type == "json_object":
            found["json_schema"] = {"type": "object"}
        return found


class ChatCompletion(Sampling):
    """The body of ``/v1/chat/completions``."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=256)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=limits.MAX_GENERATE_TOKENS)] | None = None


class Completion(Sampling):
    """The body of ``/v1/completions``."""

    prompt: Annotated[str, Field(max_length=limits.MAX_TEXT_BYTES)]


class _Load:
    """Completions under way by device, so that a group shares the work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self._turn = 0

    def order(self, names: list[str]) -> list[str]:
        """The least busy first; equals take turns."""
        with self._lock:
            self._turn += 1
            turn = self._turn % len(names)
            return sorted(names[turn:] + names[:turn], key=lambda name: self._running[name])

    def change(self, name: str, by: int) -> None:
        """One more, or one fewer."""
        with self._lock:
            self._running[name] += by
            if not self._running[name]:
                del self._running[name]


_LOAD = _Load()

# A slot that it was given: a device that merely says it has one is not sent anybody's text.
_GENERATES = (
    DEVICE.c.revoked_at.is_(None),
    selection.has("task", SLOT),
    selection.has(f"{selector.OWN}task", SLOT),
)


def _candidates(controller: Controller, model: str) -> list[str]:
    """Devices that may answer, the least busy first.

    Raises:
        InputError: ``no-such-model``; the selector means no device with a generator.
        UnavailableError: ``device-offline``; none of them is online.
    """
    wanted = selector.parse(model)
    with controller.store.read() as connection:
        able = devices.contacts(connection, selection.means(wanted), *_GENERATES)
        hint = "" if able else selection.hint(connection, wanted)
    if not able:
        raise InputError("no-such-model", f"{model[:100]!r} means no device with a generator{hint}")
    online = [device for device, up in able.items() if up]
    if not online:
        raise UnavailableError("device-offline", f"no device of {model[:100]!r} is online")
    return _LOAD.order(online)


async def _answers(
    controller: Controller, model: str, request: GenerateRequest
) -> AsyncGenerator[Answer, None]:
    """Answers of one device; another is asked when it fails before its first token.

    Raises:
        ShoalError: what the last device said.
    """
    names = await run_in_threadpool(_candidates, controller, model)
    for index, name in enumerate(names[:_TRIES]):
        last = index + 1 == min(len(names), _TRIES)
        started = False
        _LOAD.change(name, +1)
        try:
            asked = controller.asker.ask([name], "generate", request, TIMEOUT_S)
            async with aclosing(asked):
                async for answer in asked:
                    if answer.error is not None:
                        if not started and not last and answer.error.code in _RETRY:
                            break
                        raise from_info(answer.error)
                    started = True
                    yield answer
        finally:
            _LOAD.change(name, -1)
        if started:
            return


def _request(fields: dict[str, Any], requester: str) -> GenerateRequest:
    fields = {**fields, "requester": requester[:64]}
    codec.encode_given(fields, what="the request")
    try:
        return codec.convert(fields, GenerateRequest, from_attributes=True)
    except msgspec.ValidationError as error:
        raise InputError("bad-message", f"the request is not valid: {error}") from None


class _Shape:
    """Documents of one completion."""

    def __init__(self, kind: Literal["chat", "text"], model: str) -> None:
        self.chat = kind == "chat"
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{secrets.token_hex(12)}"
        self.model = model
        self.created = int(time.time())

    def _document(self, name: str, choices: list[Any], usage: Any = None) -> dict[str, Any]:
        made = {"id": self.id, "object": name, "created": self.created, "model": self.model}
        return {**made, "choices": choices, **({"usage": usage} if usage else {})}

    def whole(self, result: messages.Generated) -> dict[str, Any]:
        """The document of an answer that is not streamed."""
        reason = _REASONS[result.finish_reason]
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": result.text}
            return self._document("chat.completion", [choice], usage(result))
        choice["text"] = result.text
        return self._document("text_completion", [choice], usage(result))

    def piece(self, text: str, reason: str | None = None, *, first: bool = False) -> dict[str, Any]:
        """One event of a stream."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        if not self.chat:
            return self._document("text_completion", [{**choice, "text": text}])
        delta = {"content": text} if text else {}
        if first:
            delta = {"role": "assistant", "content": text}
        return self._document("chat.completion.chunk", [{**choice, "delta": delta}])

    def totals(self, result: messages.Generated) -> dict[str, Any]:
        """The last event of a stream, when its reader asked for the usage."""
        name = "chat.completion.chunk" if self.chat else "text_completion"
        return self._document(name, [], usage(result))


def usage(result: messages.Generated) -> dict[str, int]:
    """Tokens as OpenAI counts them."""
    return {
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.tokens,
        "total_tokens": result.prompt_tokens + result.tokens,
    }


def _event(document: Any) -> bytes:
    return b"data: " + msgspec.json.encode(document) + b"\n\n"


async def _events(
    first: Answer, answers: AsyncGenerator[Answer, None], shape: _Shape, options: StreamOptions
) -> AsyncGenerator[bytes, None]:
    """Server-sent events. The first answer was awaited before the status line was sent."""
    async with aclosing(answers):
        if shape.chat:
            yield _event(shape.piece("", first=True))
        try:
            answer: Answer | None = first
            while answer is not None:
                if answer.chunk:
                    yield _event(shape.piece(answer.chunk))
                if answer.generated is not None:
                    yield _event(shape.piece("", _REASONS[answer.generated.finish_reason]))
                    if options.include_usage:
                        yield _event(shape.totals(answer.generated))
                answer = await anext(answers, None)
        except ShoalError as error:
            yield _event(error.body())  # the status line is gone
        yield b"data: [DONE]\n\n"


async def _complete(
    controller: Controller, body: Sampling, request: GenerateRequest, shape: _Shape
) -> Any:
    answers = _answers(controller, body.model, request)
    if body.stream:
        first = await anext(answers)  # an error before any token still has its HTTP status
        events = _events(first, answers, shape, body.stream_options or StreamOptions())
        return Stream(events, "text/event-stream")
    async with aclosing(answers):
        async for answer in answers:
            if answer.generated is not None:
                return shape.whole(answer.generated)
    raise UnavailableError("no-answer", "the device ended its answer without a result")


@ROUTER.post("/chat/completions", dependencies=[QUESTION], response_model=None)
async def create_chat_completion(
    controller: TheController, token: Operator, body: ChatCompletion
) -> Any:
    """A chat's next turn, from one of the devices that `model` (a selector) means."""
    fields = body.fields()
    if body.max_completion_tokens is not None:
        fields["max_tokens"] = body.max_completion_tokens
    fields["messages"] = [turn.message() for turn in body.messages]
    fields["stream"] = body.stream
    request = _request(fields, token.name)
    return await _complete(controller, body, request, _Shape("chat", body.model))


@ROUTER.post("/completions", dependencies=[QUESTION], response_model=None)
async def create_completion(controller: TheController, token: Operator, body: Completion) -> Any:
    """A prompt's continuation, from one of the devices that `model` (a selector) means."""
    fields = {**body.fields(), "prompt": body.prompt, "stream": body.stream}
    request = _request(fields, token.name)
    return await _complete(controller, body, request, _Shape("text", body.model))


@ROUTER.get("/models", response_model=None)
async def list_models(controller: TheController, token: Viewer) -> dict[str, Any]:
    """What `model` may be: each device with a generator, their groups, and ``all``."""
    del token

    def read() -> tuple[list[str], list[str]]:
        with controller.store.read() as connection:
            able = devices.ids(connection, *_GENERATES)
            return able, selection.values(connection, "group", *_GENERATES)

    able, groups = await run_in_threadpool(read)
    names = ["all"] if able else []
    names += [f"group={group}" for group in groups] + able
    rows = [{"id": n, "object": "model", "created": 0, "owned_by": "fleet"} for n in names]
    return {"object": "list", "data": rows}
