"""``/v1/responses``: texts and results of calls in, a message and calls out, nothing kept.

Source: OpenAI API reference, responses.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from itertools import count
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from contracts import codec
from contracts.answers import Answer, CallPiece, Generated
from contracts.errors import ShoalError
from contracts.requests import GenerateRequest, ToolCall
from fleet.api.auth import QUESTION, Operator, TheController
from fleet.api.openai import beside, logprobs_of, no_answer, request_of, result, with_adapter
from fleet.api.openai_bodies import temperature
from fleet.api.openai_devices import answers_of
from fleet.api.responses_bodies import Responses
from fleet.api.stream import Stream
from fleet.api.waiting import while_connected

ROUTER = APIRouter(prefix="/v1", tags=["openai"])


class Shape:
    """Documents of one response.

    Raises:
        InputError: ``bad-text``, ``bad-message``, ``too-large``; of what is told again of `body`.
    """

    def __init__(self, body: Responses) -> None:
        self._body = body
        self._id = f"resp_{secrets.token_hex(12)}"
        self._created = int(time.time())
        self.message_id = f"msg_{secrets.token_hex(12)}"
        choice = body.tool_choice or "auto"
        self._given = {
            "metadata": body.metadata or {},
            "text": {"format": body.format.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
            "tools": [tool.model_dump() for tool in body.tools],
        }
        codec.encode_given({"response": self._given}, what="the request")

    def response(
        self,
        status: str,
        output: list[Any],
        made: Generated | None = None,
        error: ShoalError | None = None,
    ) -> dict[str, Any]:
        """The response, as far as it is."""
        body = self._body
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None if error is None else {"code": error.code, "message": error.info.message},
            "incomplete_details": (
                {"reason": "max_output_tokens"} if status == "incomplete" else None
            ),
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": body.model,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "store": False,
            "temperature": temperature(body.temperature, body.top_p),
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": body.truncation or "disabled",
            **self._given,
            "usage": None if made is None else _usage(made),
        }

    def message(self, made: Generated | None, **more: Any) -> dict[str, Any]:
        """The message in it; `made` is None until it is whole."""
        return {
            "type": "message",
            "id": self.message_id,
            "status": "in_progress" if made is None else _status(made),
            "role": "assistant",
            "content": [] if made is None else [_part(made.text, self.logprobs(made))],
            **more,
        }

    def logprobs(self, made: Generated) -> list[Any]:
        """Of the tokens of the message; none where nobody asks for them.

        Bytes are always a list here: it is empty for a part of a character.
        """
        found = logprobs_of(made, self._body.alternatives) or []
        for one in [*found, *(other for token in found for other in token["top_logprobs"])]:
            one["bytes"] = one["bytes"] or []
        return found


def _call(call: ToolCall | CallPiece, arguments: str, status: str) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": _call_id(call),
        "call_id": call.id,
        "name": call.name,
        "arguments": arguments,
        "status": status,
    }


def _call_id(call: ToolCall | CallPiece) -> str:
    return f"fc_{call.id.removeprefix('call_')}"


def _usage(made: Generated) -> dict[str, Any]:
    return {
        "input_tokens": made.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": made.tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": made.prompt_tokens + made.tokens,
    }


def _status(made: Generated) -> str:
    return "completed" if made.finish_reason in ("stop", "cancelled") else "incomplete"


def _part(text: str, logprobs: list[Any]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


class Told:
    """The events of a stream: each item has the place at which it was begun."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._numbers = count()
        self._message: int | None = None
        self._calls: dict[int, tuple[int, str]] = {}

    def event(self, kind: str, **fields: Any) -> bytes:
        """One event."""
        document = {"type": kind, "sequence_number": next(self._numbers), **fields}
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode(document))

    def _next(self) -> int:
        return len(self._calls) + (self._message is not None)

    def _place(self) -> dict[str, Any]:
        return {
            "item_id": self._shape.message_id,
            "content_index": 0,
            "output_index": self._message,
        }

    def text(self, delta: str, logprobs: Sequence[Any] = ()) -> Iterator[bytes]:
        """A piece of the message."""
        if self._message is None:
            self._message = self._next()
            message = self._shape.message(None)
            yield self.event("response.output_item.added", item=message, output_index=self._message)
            yield self.event("response.content_part.added", part=_part("", []), **self._place())
        if delta:
            yield self.event(
                "response.output_text.delta", delta=delta, logprobs=logprobs, **self._place()
            )

    def call(self, piece: CallPiece) -> Iterator[bytes]:
        """A piece of a call."""
        if piece.index not in self._calls:
            place = self._next()
            item = _call(piece, "", "in_progress")
            self._calls[piece.index] = (place, item["id"])
            yield self.event("response.output_item.added", item=item, output_index=place)
        place, item_id = self._calls[piece.index]
        if piece.arguments:
            yield self.event(
                "response.function_call_arguments.delta",
                delta=piece.arguments, item_id=item_id, output_index=place,
            )  # fmt: skip

    def end(self, made: Generated, sure: dict[str, Any]) -> Iterator[bytes]:
        """What is whole. A call that was begun, and is none, does not end."""
        logprobs = self._shape.logprobs(made)
        if made.text and self._message is None:  # with log-probabilities it comes in one piece
            yield from self.text(made.text, logprobs)
        for index, call in enumerate(made.tool_calls):
            if index not in self._calls:  # agents of earlier releases give them at the end alone
                yield from self.call(CallPiece(index, call.id, call.name, call.arguments))
        items: dict[int, dict[str, Any]] = {}
        if not self._calls:
            yield from self.text("")
        if self._message is not None:
            message, at = self._shape.message(made, **sure), self._place()
            items[self._message] = message
            text, part = made.text, _part(made.text, logprobs)
            yield self.event("response.output_text.done", text=text, logprobs=logprobs, **at)
            yield self.event("response.content_part.done", part=part, **at)
            yield self.event("response.output_item.done", item=message, output_index=self._message)
        for index, call in enumerate(made.tool_calls):
            place, item_id = self._calls[index]
            items[place] = item = _call(call, call.arguments, "completed")
            yield self.event(
                "response.function_call_arguments.done",
                arguments=call.arguments, name=call.name, item_id=item_id, output_index=place,
            )  # fmt: skip
            yield self.event("response.output_item.done", item=item, output_index=place)
        status, output = _status(made), [items[place] for place in sorted(items)]
        whole = self._shape.response(status, output, made)
        yield self.event(f"response.{status}", response=whole)


async def _events(
    first: Answer, answers: AsyncGenerator[Answer, None], request: GenerateRequest, shape: Shape
) -> AsyncGenerator[bytes, None]:
    """Server-sent events; the first answer was awaited before the status line was sent."""
    told = Told(shape)
    begun = shape.response("in_progress", [])
    yield told.event("response.created", response=begun)
    yield told.event("response.in_progress", response=begun)
    made: Generated | None = None
    try:
        async with aclosing(answers):
            answer: Answer | None = first
            while answer is not None:
                for event in told.text(answer.chunk) if answer.chunk else ():
                    yield event
                for event in told.call(answer.call) if answer.call is not None else ():
                    yield event
                made = answer.generated or made
                answer = await anext(answers, None)
        if made is None:
            raise no_answer()
        sure = beside(request, made)
    except ShoalError as error:  # the status line is gone
        yield told.event("response.failed", response=shape.response("failed", [], error=error))
        return
    for event in told.end(made, sure):
        yield event


@ROUTER.post("/responses", dependencies=[QUESTION], response_model=None)
async def create_response(
    http: Request, controller: TheController, token: Operator, body: Responses
) -> Any:
    """A message or calls, from one of the devices that `model` (a selector) means."""
    request = request_of(with_adapter(body.fields(), body.model), token.name)
    shape = Shape(body)
    if body.stream:
        answers = answers_of(controller, body.model, request)
        # An error before any token still has its HTTP status.
        first = await while_connected(http, anext(answers))
        return Stream(_events(first, answers, request, shape), "text/event-stream")
    made = await while_connected(http, result(controller, body.model, request))
    calls = [_call(call, call.arguments, "completed") for call in made.tool_calls]
    said = [shape.message(made, **beside(request, made))] if made.text or not calls else []
    whole = shape.response(_status(made), [*said, *calls], made)
    # FastAPI's own JSON fails at NaN, which a schema of the request may hold.
    return Response(msgspec.json.encode(whole), media_type="application/json")
