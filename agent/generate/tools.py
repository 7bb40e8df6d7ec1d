"""Calls of tools: text, and then calls that validate against the tools' own schemas.

A call stands in ``<tool_call>`` ... ``</tool_call>`` as JSON with a name and arguments, as the
templates of Hermes, Qwen and others teach it. The tag is the model's own decision, or is put into
the prompt where a call is required. Then the name is one of the tools', and the arguments are
held to its schema. Each part is an answer of its own on a longer prompt, of which the cache
holds all but the last few tokens.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from agent.generate.prompts import Prompts
from agent.generate.stop import Stop
from agent.generate.text_stream import TextStream
from contracts.errors import InputError, RefusedError
from contracts.manifest import GeneratorFacts
from contracts.messages import Generated, GenerateRequest, Tool, ToolCall

MAX_CALLS: Final = 8
"""Calls in one answer."""

_OPEN: Final = "<tool_call>"
_NAME: Final = f'{_OPEN}\n{{"name": "'
_ARGUMENTS: Final = '", "arguments": '
_CLOSE: Final = "}\n</tool_call>"
_TOKENS_TO_GO_ON: Final = 6
"""Within these after a call, another one begins or none does."""


class Answers(Protocol):
    """What answers a prompt: the model."""

    prompts: Prompts
    facts: GeneratorFacts

    def answer(
        self,
        request: GenerateRequest,
        ids: list[int],
        stream: TextStream,
        emit: Callable[[str], None],
        checkpoint: Callable[[], None],
    ) -> Generated:
        """What follows `ids`."""
        ...


@dataclass
class Calling:
    """One answer that may call tools.

    Args:
        model: that answers.
        request: with tools and messages.
        checkpoint: as in :meth:`agent.generate.model.GenerativeModel.generate`.
        clock: seconds, monotonic.
    """

    model: Answers
    request: GenerateRequest
    checkpoint: Callable[[], None]
    clock: Callable[[], float]
    _parts: list[Generated] = field(default_factory=list)
    _started: float = 0.0

    def answer(self, emit: Callable[[str], None]) -> Generated:
        """The text, streamed, and the calls after it.

        Raises:
            InputError, RefusedError: as the model's; ``bad-messages`` where it has no tools.
        """
        self._started = self.clock()
        prompt = self._prompt()
        text, calls = "", list[ToolCall]()
        calling = self.request.tool_choice == "required"
        try:
            if not calling:
                part, tag = self._part(prompt, emit, stop=[_OPEN, *self.request.stop])
                text, calling = part.text, tag == _OPEN
                prompt += text
            while calling:
                call, prompt = self._call(prompt)
                calls.append(call)
                calling = self._goes_on(prompt, len(calls))
        except Stop:
            pass  # what was whole by then is the answer
        except (InputError, RefusedError) as error:
            if not calls or error.code not in ("budget-ended", "prompt-too-long"):
                raise
            return msgspec.structs.replace(self._whole(text, calls), finish_reason="length")
        return self._whole(text, calls)

    def _prompt(self) -> str:
        r, prompts, facts = self.request, self.model.prompts, self.model.facts
        for name, given in (("json_schema", r.json_schema), ("regex", r.regex)):
            if given is not None:
                raise InputError("bad-constraint", f"{name} and tools exclude each other")
        for name, asked in (
            ("logprobs", r.logprobs > 0),
            ("min_confidence", r.min_confidence is not None),
        ):
            if asked:
                raise InputError("bad-message", f"{name}: not supported with tools")
        if r.messages is None or r.prompt is not None:
            raise InputError("bad-message", "tools need messages")
        if facts.grammar is not None or facts.prompt_prefix or facts.prompt_suffix:
            raise InputError("bad-messages", "the model answers in a form of its own, not in calls")
        names = [tool.name for tool in r.tools]
        if len(set(names)) < len(names):
            raise InputError("bad-message", "two tools have one name")
        prompt = prompts.render_chat(r.messages, r.tools)
        if not prompts.calls_with(_OPEN):
            raise InputError(
                "bad-messages", f"the model's calls have another form than {_OPEN} with JSON"
            )
        return prompt

    def _part(
        self, prompt: str, emit: Callable[[str], None] = lambda piece: None, **changes: Any
    ) -> tuple[Generated, str]:
        """One answer within what is left of tokens and time; and the stop string that ended it."""
        left = self.request.max_tokens - sum(part.tokens for part in self._parts)
        changes["max_tokens"] = min(changes.get("max_tokens", left), max(left, 1))
        if self.request.max_time_ms is not None:
            spent = int((self.clock() - self._started) * 1000)
            changes["max_time_ms"] = max(self.request.max_time_ms - spent, 1)
        request = msgspec.structs.replace(self.request, **{"stop": [], **changes})
        stream = TextStream(self.model.prompts.decode, request.stop)
        ids = self.model.prompts.encode_rendered(prompt)
        part = self.model.answer(request, ids, stream, emit, self.checkpoint)
        self._parts.append(part)
        if part.finish_reason == "cancelled" and request.stop == []:
            raise Stop("cancelled")  # within a call, of which nothing can be used
        return part, stream.stopped_by

    def _call(self, prompt: str) -> tuple[ToolCall, str]:
        tools = {tool.name: tool for tool in self.request.tools}
        prompt += _NAME
        if len(tools) == 1:
            name = next(iter(tools))
        else:
            names = "|".join(re.escape(name) for name in tools)
            part, _ = self._part(prompt, regex=f'({names})"')
            name = part.text.removesuffix('"')
        prompt += name + _ARGUMENTS
        part, _ = self._part(prompt, json_schema=_schema(tools[name]))
        call = ToolCall(f"call_{secrets.token_hex(8)}", name, part.text)
        return call, prompt + part.text + _CLOSE

    def _goes_on(self, prompt: str, calls: int) -> bool:
        left = self.request.max_tokens - sum(part.tokens for part in self._parts)
        if not self.request.parallel_tool_calls or calls >= MAX_CALLS or left < 1:
            return False
        part, tag = self._part(prompt, stop=[_OPEN], max_tokens=_TOKENS_TO_GO_ON)
        return tag == _OPEN and not part.text.strip()

    def _whole(self, text: str, calls: list[ToolCall]) -> Generated:
        first, tokens = self._parts[0], sum(part.tokens for part in self._parts)
        reason = self._parts[-1].finish_reason
        if calls and reason != "cancelled":
            reason = "stop"
        spent = self.clock() - self._started - first.first_token_ms / 1000
        return msgspec.structs.replace(
            first,
            text=text,
            finish_reason=reason,
            tokens=tokens,
            tokens_per_s=round((tokens - 1) / spent, 3) if tokens > 1 and spent > 0 else 0.0,
            tool_calls=calls,
        )


def _schema(tool: Tool) -> dict[str, Any]:
    schema = tool.parameters or {"properties": {}, "additionalProperties": False}
    kind = schema.get("type", "object")
    if kind != "object":
        raise InputError(
            "bad-constraint", f"the parameters of {tool.name} are no object, but {str(kind)[:40]}"
        )
    return {**schema, "type": "object"}
