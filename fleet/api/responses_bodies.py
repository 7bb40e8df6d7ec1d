"""The body of ``/v1/responses``, and what of it goes to a device.

Source: OpenAI API reference, responses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from contracts import limits, requests
from fleet.api import openai_tools
from fleet.api.openai_bodies import JsonSchema, temperature
from fleet.api.openai_strict import TEXT_OR_LIST, Body, Strict
from fleet.api.openai_tools import CalledFunction, CallId, FlatChoice, FlatTool, Mode

if TYPE_CHECKING:
    from typing_extensions import Self

_Text = Annotated[str, Field(max_length=limits.MAX_TEXT_BYTES), Tag("text")]
_Id = Annotated[str, Field(max_length=100)]


class Part(Strict):
    """A part of a message; `annotations` and `logprobs` are those of an earlier answer."""

    says_nothing = ("logprobs",)
    asks_nothing: ClassVar[dict[str, tuple[Any, ...]]] = {"annotations": ([],)}
    type: Literal["input_text", "output_text"]
    text: _Text


_Content = Annotated[_Text | Annotated[list[Part], Tag("list")], TEXT_OR_LIST]


def _joined(content: str | list[Part]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


class Item(Strict):
    """What all items may have: `id` and `status` are those of an earlier answer."""

    id: _Id | None = None
    status: Literal["completed", "incomplete"] | None = None


class Message(Item):
    """A message, which may be one that was answered here, with what it says of itself."""

    says_nothing = ("best", "calibrated", "confidence", "forgotten", "unknown")
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: _Content

    def message(self) -> requests.ChatMessage:
        """The message on the wire."""
        role: Any = "system" if self.role == "developer" else self.role
        return requests.ChatMessage(role, _joined(self.content))


class FunctionCall(Item, CalledFunction):
    """A call that an earlier answer asked for."""

    type: Literal["function_call"]
    call_id: CallId

    def call(self) -> requests.ToolCall:
        """The call on the wire."""
        return requests.ToolCall(self.call_id, self.name, self.arguments)


class FunctionOutput(Item):
    """What a call gave."""

    says_nothing = ("name",)
    type: Literal["function_call_output"]
    call_id: CallId
    output: _Content

    def message(self) -> requests.ChatMessage:
        """The message on the wire."""
        return requests.ChatMessage("tool", _joined(self.output), tool_call_id=self.call_id)


def _kind(item: Any) -> Any:
    kind = item.get("type") if isinstance(item, dict) else None
    return "message" if kind is None else kind


_Items = Annotated[
    Annotated[Message, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionOutput, Tag("function_call_output")],
    Discriminator(
        _kind,
        custom_error_type="item",
        custom_error_message="expected a message, a function_call or a function_call_output",
    ),
]


def _turns(items: list[_Items]) -> list[requests.ChatMessage]:
    """Items as messages: calls belong to the turn of the assistant that asked for them."""
    turns: list[requests.ChatMessage] = []
    for item in items:
        if not isinstance(item, FunctionCall):
            turns.append(item.message())
            continue
        asks = turns[-1] if turns else None
        if asks is None or asks.role != "assistant":
            turns.append(requests.ChatMessage("assistant", "", [item.call()]))
        else:
            calls = [*asks.tool_calls, item.call()]
            turns[-1] = requests.ChatMessage("assistant", asks.content, calls)
    return turns


class PlainFormat(Strict):
    """Text, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(JsonSchema):
    """JSON by a schema."""

    type: Literal["json_schema"]


class TextOptions(Strict):
    """How the text must look."""

    asks_nothing: ClassVar[dict[str, tuple[Any, ...]]] = {"verbosity": ("medium",)}
    format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None


class Obfuscation(Strict):
    """Nothing is padded."""

    include_obfuscation: Literal[False] | None = None


class Responses(Body):
    """The body of ``/v1/responses``."""

    says_nothing = ("user", "safety_identifier", "prompt_cache_key")
    asks_nothing: ClassVar[dict[str, tuple[Any, ...]]] = {
        **Body.asks_nothing,
        "reasoning": ({}, {"effort": "none"}),
    }

    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = None
    input: Annotated[
        _Text | Annotated[list[_Items], Field(min_length=1, max_length=256), Tag("list")],
        TEXT_OR_LIST,
    ]
    instructions: _Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=limits.MAX_GENERATE_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    text: TextOptions | None = None
    stream: bool | None = None
    stream_options: Obfuscation | None = None
    background: Literal[False] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: Annotated[
        tuple[Literal["message.output_text.logprobs"], ...], Field(max_length=1)
    ] = ()
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    min_confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    tools: Annotated[tuple[FlatTool, ...], Field(max_length=openai_tools.MAX_TOOLS)] = ()
    tool_choice: Mode | FlatChoice | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        openai_tools.mode(self.tools, self.tool_choice)
        if self.top_logprobs is not None and not self.include:
            raise ValueError("top_logprobs needs include: message.output_text.logprobs")
        return self

    @property
    def alternatives(self) -> int | None:
        """As of a chat."""
        return (self.top_logprobs or 0) if self.include else None

    @property
    def format(self) -> PlainFormat | SchemaFormat:
        """How the text must look."""
        return (self.text and self.text.format) or PlainFormat(type="text")

    @property
    def constraint(self) -> dict[str, Any] | None:
        """The schema that the text must keep."""
        if isinstance(self.format, SchemaFormat):
            return self.format.schema_
        return {"type": "object"} if self.format.type == "json_object" else None

    def fields(self) -> dict[str, Any]:
        """The wire's fields of what was given."""
        turns = [requests.ChatMessage("system", self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            turns.append(requests.ChatMessage("user", self.input))
        else:
            turns += _turns(self.input)
        found: dict[str, Any] = {
            "messages": turns,
            "temperature": temperature(self.temperature, self.top_p),
            "stream": bool(self.stream) and self.alternatives is None,
        }
        if self.alternatives is not None:
            found["logprobs"] = max(1, self.alternatives)
        if self.max_output_tokens is not None:
            found["max_tokens"] = self.max_output_tokens
        for name in ("top_p", "min_confidence"):
            if getattr(self, name) is not None:
                found[name] = getattr(self, name)
        if self.truncation == "auto":
            found["when_full"] = "forget"
        tools = openai_tools.fields(self.tools, self.tool_choice, self.parallel_tool_calls)
        # Where a tool must be called there is no text to have a format.
        if self.constraint is not None and tools.get("tool_choice") != "required":
            found["json_schema"] = self.constraint
        return found | tools
