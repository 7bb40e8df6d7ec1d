"""Bodies of chats and completions in OpenAI's form, and what of them goes to a device.

Source: OpenAI API reference, chat completions and completions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, Tag, model_validator

from contracts import limits, requests
from contracts.errors import InputError
from fleet.api import openai_tools
from fleet.api.openai_strict import TEXT_OR_LIST, TEXTS, Body, Strict
from fleet.api.openai_tools import Call, CallId, ChosenTool, GivenTool, Mode

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_CHOICES: Final = 4
MAX_PROMPTS: Final = 16


class Part(Strict):
    """A part of a message's content; only text is understood."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=limits.MAX_TEXT_BYTES)]


_Text = Annotated[str, Field(max_length=limits.MAX_TEXT_BYTES), Tag("text")]
_Content = Annotated[_Text | Annotated[list[Part], Tag("list")], TEXT_OR_LIST]


class Turn(Strict):
    """A message of a chat, which may be one that was answered here earlier.

    A name is who says it, as AutoGen sends with each: chat templates know none.
    """

    says_nothing = ("name",)
    asks_nothing: ClassVar[dict[str, tuple[Any, ...]]] = {"annotations": ([],), "tool_calls": ([],)}

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: _Content | None = None
    tool_calls: Annotated[list[Call], Field(min_length=1, max_length=16)] | None = None
    tool_call_id: CallId | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.content is None and not self.tool_calls:
            raise ValueError("content is null, and there are no tool_calls")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls are of the role assistant")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("a message of the role tool, and no other, has a tool_call_id")
        return self

    def message(self) -> requests.ChatMessage:
        """The message on the wire."""
        text = self.content or ""
        if not isinstance(text, str):
            text = "".join(part.text for part in text)
        role: Any = "system" if self.role == "developer" else self.role
        calls = [
            requests.ToolCall(call.id, call.function.name, call.function.arguments)
            for call in self.tool_calls or []
        ]
        return requests.ChatMessage(role, text, calls, self.tool_call_id or "")


class JsonSchema(Strict):
    """The inside of ``response_format``. Output is always held to the schema (``strict``)."""

    name: Annotated[str, Field(max_length=256)] = ""
    description: Annotated[str, Field(max_length=4096)] | None = None
    strict: bool | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class ResponseFormat(Strict):
    """How the output must look."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class StreamOptions(Strict):
    """What a stream ends with."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Stop = Annotated[str, Field(min_length=1, max_length=256), Tag("text")]
_Stops = Annotated[list[_Stop], Field(max_length=16), Tag("list")]


def temperature(given: float | None, *chosen_among: object) -> float:
    """What a device is told: 0 unless something is said of how to choose among tokens.

    OpenAI's default is 1. Small models wander at it, and one that was trained for a task errs.
    """
    if given is not None:
        return given
    return 1.0 if any(value is not None for value in chosen_among) else 0.0


class Sampling(Body):
    """Fields of both kinds of completion. Those of the last group are not OpenAI's."""

    max_tokens: Annotated[int, Field(ge=1, le=limits.MAX_GENERATE_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, Field(pattern=r"^[0-9]{1,7}$")],
                Annotated[float, Field(ge=-100, le=100)],
            ],
            Field(max_length=requests.MAX_LOGIT_BIASES),
        ]
        | None
    ) = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    stop: Annotated[_Stop | _Stops, TEXT_OR_LIST] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    response_format: ResponseFormat | None = None

    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    min_confidence: Annotated[float, Field(ge=0, le=1)] | None = None

    @property
    def alternatives(self) -> int | None:
        """Tokens whose log-probabilities are asked for besides that of the one taken."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream")
        return self

    def fields(self) -> dict[str, Any]:
        """The wire's fields of what was given."""
        several = self.n if self.n != 1 else None
        found: dict[str, Any] = {
            "temperature": temperature(
                self.temperature, self.top_p, self.top_k, self.min_p, self.seed, several
            ),
            # With log-probabilities a text comes in one piece: devices tell them at the end.
            "stream": bool(self.stream) and self.alternatives is None,
        }
        for name in (
            "max_tokens", "top_p", "frequency_penalty", "presence_penalty", "logit_bias", "seed",
            "top_k", "min_p", "repetition_penalty", "min_confidence",
        ):  # fmt: skip
            if getattr(self, name) is not None:
                found[name] = getattr(self, name)
        if self.alternatives is not None:
            found["logprobs"] = max(1, self.alternatives)
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
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[tuple[GivenTool, ...], Field(max_length=openai_tools.MAX_TOOLS)] = ()
    tool_choice: Mode | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    chat_template_kwargs: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")], Any],
            Field(max_length=requests.MAX_TEMPLATE_ARGUMENTS),
        ]
        | None
    ) = None

    @property
    def alternatives(self) -> int | None:
        """See :class:`Sampling`."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @model_validator(mode="after")
    def _asks_once(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens exclude each other")
        openai_tools.mode(self._functions, self.tool_choice)
        return self

    def fields(self) -> dict[str, Any]:
        """See :class:`Sampling`."""
        found = {**super().fields(), "messages": [turn.message() for turn in self.messages]}
        if self.max_completion_tokens is not None:
            found["max_tokens"] = self.max_completion_tokens
        found |= openai_tools.fields(self._functions, self.tool_choice, self.parallel_tool_calls)
        if found.get("tool_choice") == "required":  # there is no text to have a format
            found.pop("json_schema", None)
        if self.truncation == "auto":
            found["when_full"] = "forget"
        if self.chat_template_kwargs:
            found["chat_template_kwargs"] = self.chat_template_kwargs
        return found

    @property
    def _functions(self) -> list[openai_tools.Function]:
        return [tool.function for tool in self.tools]


_Prompts = Annotated[list[_Text], Field(min_length=1, max_length=MAX_PROMPTS), Tag("list")]


class Completion(Sampling):
    """The body of ``/v1/completions``."""

    prompt: Annotated[_Text | _Prompts, TEXT_OR_LIST, TEXTS]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def alternatives(self) -> int | None:
        """See :class:`Sampling`."""
        return self.logprobs

    @model_validator(mode="after")
    def _answers_only(self) -> Self:
        if self.echo and self.logprobs is not None:
            raise ValueError("logprobs of a prompt are not supported: leave out echo or logprobs")
        return self

    @property
    def prompts(self) -> list[str]:
        """All of them."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt
