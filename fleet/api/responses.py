"""``/v1/responses`` in its simple form: texts in, one message out, nothing kept.

Source: OpenAI API reference, responses.
"""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import Field

from contracts import limits, requests
from fleet.api.auth import QUESTION, Operator, TheController
from fleet.api.openai import beside, request_of, result
from fleet.api.openai_bodies import Body, JsonSchema, Strict

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


class Responses(Body):
    """The body of ``/v1/responses``."""

    input: _Text | Annotated[list[Item], Field(min_length=1, max_length=256)]
    instructions: _Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=limits.MAX_GENERATE_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    text: TextOptions | None = None
    stream: Literal[False] | None = None
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
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "stream": False,
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


@ROUTER.post("/responses", dependencies=[QUESTION], response_model=None)
async def create_response(
    controller: TheController, token: Operator, body: Responses
) -> dict[str, Any]:
    """A message, from one of the devices that `model` (a selector) means."""
    created = int(time.time())
    request = request_of(body.fields(), token.name)
    made = await result(controller, body.model, request)
    whole = made.finish_reason in ("stop", "cancelled")
    status = "completed" if whole else "incomplete"
    part = {"type": "output_text", "text": made.text, "annotations": []}
    message = {
        "type": "message",
        "id": f"msg_{secrets.token_hex(12)}",
        "status": status,
        "role": "assistant",
        "content": [part],
        **beside(request, made),
    }
    return {
        "id": f"resp_{secrets.token_hex(12)}",
        "object": "response",
        "created_at": created,
        "status": status,
        "error": None,
        "incomplete_details": None if whole else {"reason": "max_output_tokens"},
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": body.model,
        "output": [message],
        "parallel_tool_calls": True,
        "store": False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "usage": {
            "input_tokens": made.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": made.tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": made.prompt_tokens + made.tokens,
        },
    }
