"""An OpenAI-compatible endpoint: ``/v1/chat/completions``, ``/v1/completions``, ``/v1/models``.

The model of a request is a selector: a device's name, ``group=kitchen``, or ``all``. Of the
devices that it means, one answers: online, with a generator, and the least busy. A device that
is busy or silent before its first token is replaced by the next. After a colon stands the adapter
that is to answer: ``group=kitchen:home``.
Source: OpenAI API reference, chat completions and completions.
"""

from __future__ import annotations

import codecs
import re
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Any, Final, Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from contracts import codec, wording
from contracts.answers import Answer, CallPiece, Generated
from contracts.errors import InputError, ShoalError, UnavailableError
from contracts.requests import GenerateRequest, ToolCall
from fleet.api.auth import QUESTION, Operator, TheController, Viewer
from fleet.api.openai_bodies import ChatCompletion, Completion, Sampling
from fleet.api.openai_devices import SLOT, able_to, answers_of, split
from fleet.api.stream import Stream
from fleet.api.waiting import while_connected
from fleet.controller import Controller
from fleet.store import devices, selection

ROUTER = APIRouter(prefix="/v1", tags=["openai"])

_PART: Final = re.compile(r"bytes:(\\x[0-9a-f]{2})+")
_REASONS: Final = {"stop": "stop", "length": "length", "time": "length", "cancelled": "stop"}


def request_of(fields: dict[str, Any], requester: str) -> GenerateRequest:
    """What is sent to a device.

    Raises:
        InputError: ``bad-message``, ``bad-text``, ``too-large``.
    """
    fields = {**fields, "requester": requester[:64]}
    codec.encode_given(fields, what="the request")
    try:
        return codec.convert(fields, GenerateRequest, from_attributes=True)
    except msgspec.ValidationError as error:
        raise InputError(
            "bad-message", f"the request is not valid: {wording.of(error, GenerateRequest)}"
        ) from None


class _Shape:
    """Documents of one completion."""

    def __init__(self, kind: Literal["chat", "text"], body: Sampling) -> None:
        self.chat = kind == "chat"
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{secrets.token_hex(12)}"
        self.model = body.model
        self.alternatives = body.alternatives
        self.counts = body.stream_options is not None and body.stream_options.include_usage
        self.created = int(time.time())

    def _document(self, name: str, choices: list[Any], usage: Any = None) -> dict[str, Any]:
        made = {"id": self.id, "object": name, "created": self.created, "model": self.model}
        # A stream that ends with the usage says in each event that it is not there yet.
        counted = {"usage": usage} if usage or self.counts else {}
        return {**made, "choices": choices, **counted}

    def whole(self, asked: list[_Asked], results: list[Generated]) -> dict[str, Any]:
        """The document of answers that are not streamed."""
        name = "chat.completion" if self.chat else "text_completion"
        choices = [self._choice(a, r) for a, r in zip(asked, results, strict=True)]
        bundle = results[0].bundle
        return {
            **self._document(name, choices, usage(asked, results)),
            "system_fingerprint": f"{bundle.name} {bundle.version}",
        }

    def _choice(self, asked: _Asked, result: Generated) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": asked.index,
            "finish_reason": _reason(result),
            "logprobs": self.logprobs(result),
            **beside(asked.request, result),
        }
        if self.chat:
            message: dict[str, Any] = {"role": "assistant", "content": result.text, "refusal": None}
            if result.tool_calls:
                message["content"] = result.text or None
                message["tool_calls"] = [_call(call) for call in result.tool_calls]
            return {**choice, "message": message}
        return {**choice, "text": asked.echo + result.text}

    def logprobs(self, result: Generated) -> dict[str, Any] | None:
        """Of the tokens of a whole text; None where nobody asks for them, or there is none."""
        tokens = logprobs_of(result, self.alternatives)
        if tokens is None or (result.tool_calls and not result.text):
            return None
        if self.chat:
            return {"content": tokens, "refusal": None}
        tops = [row[: self.alternatives] for row in result.logprobs]
        characters = codecs.getincrementaldecoder("utf-8")("replace")
        shown = [(token["bytes"], token["token"]) for token in tokens]
        ends = list(accumulate(len(characters.decode(bytes(b or t.encode()))) for b, t in shown))
        return {
            "tokens": [text for text, _ in result.chosen],
            "token_logprobs": [value for _, value in result.chosen],
            # Two parts of characters have one text: the likelier counts.
            "top_logprobs": [dict(reversed(top)) for top in tops],
            "text_offset": [0, *ends[:-1]][: len(ends)],
        }

    def piece(
        self,
        asked: _Asked,
        text: str,
        end: Generated | None = None,
        *,
        first: bool = False,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """One event of a stream; `end`: the last of a choice."""
        choice: dict[str, Any] = {"index": asked.index, "finish_reason": None, "logprobs": logprobs}
        if end is not None:
            choice |= {"finish_reason": _reason(end), **beside(asked.request, end)}
        if not self.chat:
            return self._document("text_completion", [{**choice, "text": text}])
        delta = {"content": text} if text else {}
        if first:
            delta = {"role": "assistant", "content": text}
        return self._document("chat.completion.chunk", [{**choice, "delta": delta}])

    def call(self, asked: _Asked, piece: CallPiece) -> dict[str, Any]:
        """An event of a stream with a piece of a call: first its id and name, then arguments."""
        row: dict[str, Any] = {"index": piece.index, "function": {"arguments": piece.arguments}}
        if piece.name:
            function = {"name": piece.name, "arguments": piece.arguments}
            row |= {"id": piece.id, "type": "function", "function": function}
        choice = {"index": asked.index, "finish_reason": None, "logprobs": None}
        return self._document("chat.completion.chunk", [{**choice, "delta": {"tool_calls": [row]}}])

    def totals(self, asked: list[_Asked], results: list[Generated]) -> dict[str, Any]:
        """The last event of a stream, when its reader asked for the usage."""
        name = "chat.completion.chunk" if self.chat else "text_completion"
        return self._document(name, [], usage(asked, results))


def _reason(result: Generated) -> str:
    reason = _REASONS[result.finish_reason]
    return "tool_calls" if result.tool_calls and reason == "stop" else reason


def beside(request: GenerateRequest, result: Generated) -> dict[str, Any]:
    """What a choice says of confidence and of what was forgotten. OpenAI has no such fields."""
    forgotten = {"forgotten": result.forgotten} if result.forgotten else {}
    return {**_sureness(request, result), **forgotten}


def _sureness(request: GenerateRequest, result: Generated) -> dict[str, Any]:
    if request.min_confidence is None:
        return {}
    if result.confidence is None:
        raise UnavailableError(
            "no-confidence", "the device does not say how sure it was: update its agent"
        )
    found: dict[str, Any] = {"confidence": result.confidence, "unknown": result.unknown}
    if result.calibrated:
        found["calibrated"] = True
    return {**found, "best": result.best} if result.unknown else found


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def logprobs_of(result: Generated, alternatives: int | None) -> list[dict[str, Any]] | None:
    """Of each token of a text: its own, and those of so many others; None: nobody asks for them.

    Raises:
        UnavailableError: ``no-logprobs``; an agent of an earlier release.
    """
    if alternatives is None or result.unknown:
        return None
    if (result.text and not result.chosen) or len(result.chosen) != len(result.logprobs):
        raise UnavailableError(
            "no-logprobs", "the device does not say which tokens it took: update its agent"
        )
    return [
        {**_token(*taken), "top_logprobs": [_token(*other) for other in top[:alternatives]]}
        for taken, top in zip(result.chosen, result.logprobs, strict=True)
    ]


def _token(text: str, logprob: float) -> dict[str, Any]:
    data: list[int] | None = list(text.encode())
    if _PART.fullmatch(text):  # of a character, which its bytes alone tell
        data = list(bytes.fromhex(text.removeprefix("bytes:").replace("\\x", "")))
    elif "\N{REPLACEMENT CHARACTER}" in text:
        data = None
    return {"token": text, "logprob": logprob, "bytes": data}


def usage(asked: list[_Asked], results: list[Generated]) -> dict[str, int]:
    """Tokens as OpenAI counts them: a prompt once, however many choices it has."""
    rows = list(zip(asked, results, strict=True))
    prompts = sum(result.prompt_tokens for one, result in rows if one.first)
    tokens = sum(result.tokens for result in results)
    return {
        "prompt_tokens": prompts,
        "completion_tokens": tokens,
        "total_tokens": prompts + tokens,
    }


def _event(document: Any) -> bytes:
    return b"data: " + msgspec.json.encode(document) + b"\n\n"


@dataclass(frozen=True)
class _Asked:
    """One choice: what is sent for it, its place, and the text that it begins with."""

    request: GenerateRequest
    index: int = 0
    first: bool = True
    echo: str = ""


def with_adapter(fields: dict[str, Any], model: str) -> dict[str, Any]:
    """The fields of a request, with the adapter that its model's name asks for."""
    adapter = split(model)[1]
    return fields if adapter is None else {**fields, "adapter": adapter}


def _asked(body: Sampling, fields: dict[str, Any], requester: str) -> list[_Asked]:
    """The choices of a request, prompt by prompt; with a seed each has one of its own."""
    fields = with_adapter(fields, body.model)
    prompts = body.prompts if isinstance(body, Completion) else [None]
    choices = []
    for index, (prompt, number) in enumerate(product(prompts, range(body.n or 1))):
        own = dict(fields)
        if prompt is not None:
            own["prompt"] = prompt
        if body.seed is not None:
            own["seed"] = (body.seed + number) % 2**63
        echo = prompt if isinstance(body, Completion) and body.echo and prompt else ""
        choices.append(_Asked(request_of(own, requester), index, number == 0, echo))
    return choices


async def _events(
    first: Answer,
    answers: AsyncGenerator[Answer, None],
    controller: Controller,
    asked: list[_Asked],
    shape: _Shape,
) -> AsyncGenerator[bytes, None]:
    """Server-sent events, one choice after the other.

    The first answer was awaited before the status line was sent.
    """
    results = []
    try:
        for one in asked:
            if one.index:
                answers = answers_of(controller, shape.model, one.request)
            async with aclosing(answers):
                if shape.chat:
                    yield _event(shape.piece(one, "", first=True))
                elif one.echo:
                    yield _event(shape.piece(one, one.echo))
                answer = first if not one.index else await anext(answers, None)
                told = set()
                while answer is not None:
                    if answer.chunk:
                        yield _event(shape.piece(one, answer.chunk))
                    if answer.call is not None:
                        told.add(answer.call.index)
                        yield _event(shape.call(one, answer.call))
                    if answer.generated is not None:
                        results.append(answer.generated)
                        if (logprobs := shape.logprobs(answer.generated)) is not None:
                            text = answer.generated.text
                            yield _event(shape.piece(one, text, logprobs=logprobs))
                        # Agents of earlier releases give their calls at the end alone.
                        for index, call in enumerate(answer.generated.tool_calls):
                            if index not in told:
                                whole = CallPiece(index, call.id, call.name, call.arguments)
                                yield _event(shape.call(one, whole))
                        yield _event(shape.piece(one, "", answer.generated))
                    answer = await anext(answers, None)
                if len(results) <= one.index:
                    raise no_answer()
        if shape.counts:
            yield _event(shape.totals(asked, results))
    except ShoalError as error:
        yield _event(error.body())  # the status line is gone
    yield b"data: [DONE]\n\n"


async def _complete(
    http: Request, controller: Controller, body: Sampling, asked: list[_Asked], shape: _Shape
) -> Any:
    if body.stream:
        answers = answers_of(controller, body.model, asked[0].request)
        # An error before any token still has its HTTP status.
        first = await while_connected(http, anext(answers))
        events = _events(first, answers, controller, asked, shape)
        return Stream(events, "text/event-stream")

    async def results() -> list[Generated]:
        return [await result(controller, body.model, one.request) for one in asked]

    return shape.whole(asked, await while_connected(http, results()))


async def result(controller: Controller, model: str, request: GenerateRequest) -> Generated:
    """What one of the devices that `model` means generates.

    Raises:
        ShoalError: as :func:`answers_of`; ``no-answer``.
    """
    async with aclosing(answers_of(controller, model, request)) as answers:
        async for answer in answers:
            if answer.generated is not None:
                return answer.generated
    raise no_answer()


def no_answer() -> UnavailableError:
    """The device said that it is done, and nothing else."""
    return UnavailableError("no-answer", "the device ended its answer without a result")


@ROUTER.post("/chat/completions", dependencies=[QUESTION], response_model=None)
async def create_chat_completion(
    http: Request, controller: TheController, token: Operator, body: ChatCompletion
) -> Any:
    """A chat's next turn, from one of the devices that `model` (a selector) means."""
    asked = _asked(body, body.fields(), token.name)
    return await _complete(http, controller, body, asked, _Shape("chat", body))


@ROUTER.post("/completions", dependencies=[QUESTION], response_model=None)
async def create_completion(
    http: Request, controller: TheController, token: Operator, body: Completion
) -> Any:
    """A prompt's continuation, from one of the devices that `model` (a selector) means."""
    asked = _asked(body, body.fields(), token.name)
    return await _complete(http, controller, body, asked, _Shape("text", body))


@ROUTER.get("/models", response_model=None)
async def list_models(controller: TheController, token: Viewer) -> dict[str, Any]:
    """What `model` may be: each device with a generator, their groups, and ``all``."""
    del token
    names = await run_in_threadpool(_names, controller)
    return {"object": "list", "data": [_model(name) for name in names]}


@ROUTER.get("/models/{model}", response_model=None)
async def get_model(controller: TheController, token: Viewer, model: str) -> dict[str, Any]:
    """One of them."""
    del token
    if model not in await run_in_threadpool(_names, controller):
        raise InputError("no-such-model", f"{model[:100]!r} is none of those that /v1/models lists")
    return _model(model)


def _names(controller: Controller) -> list[str]:
    with controller.store.read() as connection:
        able = devices.ids(connection, *able_to(SLOT))
        groups = selection.values(connection, "group", *able_to(SLOT))
    return [*(["all"] if able else []), *(f"group={group}" for group in groups), *able]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "fleet"}
