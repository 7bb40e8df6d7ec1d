"""``/v1/responses`` in its simple form: texts in, one message out, nothing kept.

Source: OpenAI API reference, responses.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import count
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter
from pydantic import Field

from contracts import limits, requests
from contracts.answers import Answer, Generated
from contracts.errors import ShoalError, UnavailableError
from contracts.requests import GenerateRequest
from fleet.api.auth import QUESTION, Operator, TheController
from fleet.api.openai import beside, request_of, result, with_adapter
from fleet.api.openai_bodies import Body, JsonSchema, Strict, temperature
from fleet.api.openai_devices import answers_of
from fleet.api.stream import Stream

ROUTER = APIRouter(prefix="/v1", tags=["openai"])

_Text = Annotated[str, Field(max_length=limits.MAX_TEXT_BYTES)]


class Part(Strict):
    """A part of a message; `annotations` and `logprobs` are those of an earlier answer."""

    type: Literal["input_text", "output_text"]
    text: _Text
    annotations: Annotated[tuple[Any, ...], Field(max_length=0)] = ()
    logprobs: Annotated[tuple[Any, ...], Field(max_length=0)] | None = None


class Item(Strict):
    """A message; `id` and `status` are those of an earlier answer."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: _Text | list[Part]
    id: Annotated[str, Field(max_length=100)] | None = None
    status: Literal["completed", "incomplete"] | None = None
    phase: None = None

    def message(self) -> requests.ChatMessage:
        """The message on the wire."""
        text = self.content
        if not isinstance(text, str):
            text = "".join(part.text for part in text)
        role: Any = "system" if self.role == "developer" else self.role
        return requests.ChatMessage(role, text)


class PlainFormat(Strict):
    """Text, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(JsonSchema):
    """JSON by a schema."""

    type: Literal["json_schema"]


class TextOptions(Strict):
    """How the text must look."""

    format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: None = None


class Obfuscation(Strict):
    """Nothing is padded."""

    include_obfuscation: Literal[False] | None = None


class Responses(Body):
    """The body of ``/v1/responses``."""

    input: _Text | Annotated[list[Item], Field(min_length=1, max_length=256)]
    instructions: _Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=limits.MAX_GENERATE_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    text: TextOptions | None = None
    stream: bool | None = None
    stream_options: Obfuscation | None = None
    background: Literal[False] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    min_confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    tools: Annotated[tuple[Any, ...], Field(max_length=0)] = ()
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None

    def fields(self) -> dict[str, Any]:
        """The wire's fields of what was given."""
        turns = [requests.ChatMessage("system", self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            turns.append(requests.ChatMessage("user", self.input))
        else:
            turns += [item.message() for item in self.input]
        found: dict[str, Any] = {
            "messages": turns,
            "temperature": temperature(self.temperature, self.top_p),
            "stream": bool(self.stream),
        }
        if self.max_output_tokens is not None:
            found["max_tokens"] = self.max_output_tokens
        for name in ("top_p", "min_confidence"):
            if getattr(self, name) is not None:
                found[name] = getattr(self, name)
        if self.truncation == "auto":
            found["when_full"] = "forget"
        wanted = None if self.text is None else self.text.format
        if isinstance(wanted, SchemaFormat):
            found["json_schema"] = wanted.schema_
        elif wanted is not None and wanted.type == "json_object":
            found["json_schema"] = {"type": "object"}
        return found


class _Shape:
    """Documents of one response."""

    def __init__(self, body: Responses) -> None:
        self._body = body
        self._id = f"resp_{secrets.token_hex(12)}"
        self._created = int(time.time())
        self.message_id = f"msg_{secrets.token_hex(12)}"

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
            "parallel_tool_calls": True,
            "store": False,
            "temperature": temperature(body.temperature, body.top_p),
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "usage": None if made is None else _usage(made),
        }

    def message(self, status: str, content: list[Any], **more: Any) -> dict[str, Any]:
        """The message in it."""
        return {
            "type": "message",
            "id": self.message_id,
            "status": status,
            "role": "assistant",
            "content": content,
            **more,
        }


def _usage(made: Generated) -> dict[str, Any]:
    return {
        "input_tokens": made.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": made.tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": made.prompt_tokens + made.tokens,
    }


def _status(made: Generated) -> str:
    return "completed" if made.finish_reason in ("stop", "cancelled") else "incomplete"


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


async def _events(
    first: Answer, answers: AsyncGenerator[Answer, None], request: GenerateRequest, shape: _Shape
) -> AsyncGenerator[bytes, None]:
    """Server-sent events; the first answer was awaited before the status line was sent."""
    numbers = count()

    def event(kind: str, **fields: Any) -> bytes:
        document = {"type": kind, "sequence_number": next(numbers), **fields}
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode(document))

    item = {"output_index": 0}
    place = {"item_id": shape.message_id, "content_index": 0, **item}
    begun = shape.response("in_progress", [])
    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    yield event("response.output_item.added", item=shape.message("in_progress", []), **item)
    yield event("response.content_part.added", part=_part(""), **place)
    made: Generated | None = None
    try:
        async with aclosing(answers):
            answer: Answer | None = first
            while answer is not None:
                if answer.chunk:
                    yield event(
                        "response.output_text.delta", delta=answer.chunk, logprobs=[], **place
                    )
                made = answer.generated or made
                answer = await anext(answers, None)
        if made is None:
            raise UnavailableError("no-answer", "the device ended its answer without a result")
        sure = beside(request, made)
    except ShoalError as error:  # the status line is gone
        yield event("response.failed", response=shape.response("failed", [], error=error))
        return
    status, part = _status(made), _part(made.text)
    message = shape.message(status, [part], **sure)
    yield event("response.output_text.done", text=made.text, logprobs=[], **place)
    yield event("response.content_part.done", part=part, **place)
    yield event("response.output_item.done", item=message, **item)
    yield event(f"response.{status}", response=shape.response(status, [message], made))


@ROUTER.post("/responses", dependencies=[QUESTION], response_model=None)
async def create_response(controller: TheController, token: Operator, body: Responses) -> Any:
    """A message, from one of the devices that `model` (a selector) means."""
    request = request_of(with_adapter(body.fields(), body.model), token.name)
    shape = _Shape(body)
    if body.stream:
        answers = answers_of(controller, body.model, request)
        first = await anext(answers)  # an error before any token still has its HTTP status
        return Stream(_events(first, answers, request, shape), "text/event-stream")
    made = await result(controller, body.model, request)
    message = shape.message(_status(made), [_part(made.text)], **beside(request, made))
    return shape.response(_status(made), [message], made)
