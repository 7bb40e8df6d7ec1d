"""Calls of tools: text, and then calls that validate against the tools' own schemas.

A call has the form that the model's chat template teaches (:mod:`contracts.chat.call_forms`): a
tag, and JSON with a name and arguments. The tag is the model's own decision, or is put into the
prompt where a call is required. Then the name is one of the tools', and the arguments are held to
its schema. Where the answer has a format (`json_schema`, `regex`), it is that or a call, as the
model decides at the first token that is of one alone. Each part is an answer of its own on a
longer prompt, of which the cache holds all but the last few tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from agent.generate.confidence import Confidence
from agent.generate.constraint import ConstraintFactory, is_constrained
from agent.generate.prompts import Prompts
from agent.generate.stop import Stop
from agent.generate.text_stream import TextStream
from contracts import limits
from contracts.answers import CallPiece, Generated
from contracts.chat.call_forms import CallForm
from contracts.errors import InputError, RefusedError
from contracts.manifest import GeneratorFacts
from contracts.requests import GenerateRequest, Tool, ToolCall

_TOKENS_TO_GO_ON: Final = 6
"""Within these after a call, another one begins or none does."""


class Answers(Protocol):
    """What answers a prompt: the model."""

    prompts: Prompts
    facts: GeneratorFacts

    @property
    def constraints(self) -> ConstraintFactory:
        """What holds an answer to a form."""
        ...

    def answer(
        self,
        request: GenerateRequest,
        ids: list[int],
        stream: TextStream,
        emit: Callable[[str], None],
        confidence: Confidence,
        checkpoint: Callable[[], None],
        form: CallForm | None = None,
    ) -> Generated:
        """What follows `ids`, or a call of `form` in place of the format that is asked for."""
        ...


@dataclass
class Calling:
    """One answer that may call tools.

    Args:
        model: that answers.
        request: with tools and messages.
        checkpoint: as in :meth:`agent.generate.model.GenerativeModel.generate`.
        clock: seconds, monotonic.
        confidence: counts the tokens of text and calls, and takes both as they become certain.
    """

    model: Answers
    request: GenerateRequest
    checkpoint: Callable[[], None]
    clock: Callable[[], float]
    confidence: Confidence
    _parts: list[Generated] = field(default_factory=list)
    _chosen: list[tuple[str, float]] = field(default_factory=list)
    _logprobs: list[list[tuple[str, float]]] = field(default_factory=list)
    _started: float = 0.0

    def answer(self) -> Generated:
        """The text, streamed, and the calls after it; not judged yet.

        Raises:
            InputError, RefusedError: as the model's; ``bad-messages`` where it has no tools.
        """
        self._started = self.clock()
        prompt, form = self._prompt()
        text, name, calls = "", "", list[ToolCall]()
        calling = self.request.tool_choice == "required"
        try:
            if not calling:
                text, begun = self._text(prompt, form)
                name = begun.removeprefix(form.tag).removesuffix(form.arguments)
                calling = bool(begun)
                prompt += text
            prompt += form.tag
            while calling:
                call, prompt = self._call(prompt, form, len(calls), name)
                calls.append(call)
                name = ""
                calling, prompt = self._goes_on(prompt, form, len(calls))
        except Stop:
            pass  # what was whole by then is the answer
        except (InputError, RefusedError) as error:
            if not calls or error.code not in ("budget-ended", "prompt-too-long"):
                raise
            return msgspec.structs.replace(self._whole(text, calls), finish_reason="length")
        return self._whole(text, calls)

    def _prompt(self) -> tuple[str, CallForm]:
        r, prompts, facts = self.request, self.model.prompts, self.model.facts
        is_constrained(r, facts)
        if r.messages is None or r.prompt is not None:
            raise InputError("bad-message", "tools need messages")
        if facts.grammar is not None or facts.prompt_prefix or facts.prompt_suffix:
            raise InputError("bad-messages", "the model answers in a form of its own, not in calls")
        names = [tool.name for tool in r.tools]
        if len(set(names)) < len(names):
            raise InputError("bad-message", "two tools have one name")
        for tool in r.tools:  # of which any may be called, when a stream has long begun
            self._check(tool)
        prompt = prompts.render_chat(r.messages, r.tools, r.chat_template_kwargs)
        form = prompts.call_form
        if form is None:
            raise InputError(
                "bad-messages", "the model's template teaches no form of calls that is known here"
            )
        return prompt, form

    def _check(self, tool: Tool) -> None:
        schema = _schema(tool)
        try:
            self.model.constraints.json_schema(schema)
        except InputError as error:
            raise InputError(
                error.code, f"the parameters of {tool.name}: {error.info.message}"
            ) from None

    def _text(self, prompt: str, form: CallForm) -> tuple[str, str]:
        """What the model says before a call, and how it begins one; empty: it begins none.

        Where the text has a format, a call stands in its place.
        """
        r = self.request
        instead = form if r.json_schema is not None or r.regex is not None else None
        begin = [form.tag] if instead is None else form.begin([tool.name for tool in r.tools])
        part, by = self._part(
            prompt, form, self.confidence.push, self.confidence,
            begin=begin, instead=instead, stop=r.stop, logprobs=r.logprobs,
            json_schema=r.json_schema, regex=r.regex,
        )  # fmt: skip
        self._chosen, self._logprobs = part.chosen, part.logprobs
        return part.text, by if by in begin else ""

    def _part(
        self,
        prompt: str,
        form: CallForm,
        emit: Callable[[str], None],
        confidence: Confidence,
        *,
        begin: Sequence[str] = (),
        instead: CallForm | None = None,
        **changes: Any,
    ) -> tuple[Generated, str]:
        """One answer within what is left of tokens and time; and the string that ended it.

        Args:
            prompt: that it goes on.
            form: of calls.
            emit: takes its text.
            confidence: counts its tokens.
            begin: strings that end it and begin a call. Where a call is all of an answer they
                are at its beginning: JSON within a text is none.
            instead: as in :meth:`Answers.answer`.
            changes: of the request, which by itself has no stops and no format.
        """
        left = self._left()
        changes["max_tokens"] = min(changes.get("max_tokens", left), max(left, 1))
        if self.request.max_time_ms is not None:
            spent = int((self.clock() - self._started) * 1000)
            changes["max_time_ms"] = max(self.request.max_time_ms - spent, 1)
        plain = {"stop": [], "logprobs": 0, "json_schema": None, "regex": None}
        request = msgspec.structs.replace(self.request, **{**plain, **changes})
        prompts = self.model.prompts
        stream = TextStream(
            lambda ids: prompts.decode_seeing(ids, form.tag),
            [*request.stop, *(() if form.alone else begin)],
            begin if form.alone else (),
        )
        ids = prompts.encode_rendered(prompt)
        part = self.model.answer(request, ids, stream, emit, confidence, self.checkpoint, instead)
        self._parts.append(part)
        return part, stream.stopped_by

    def _part_of_call(
        self, prompt: str, form: CallForm, confidence: Confidence, **more: Any
    ) -> tuple[Generated, str]:
        """As :meth:`_part`; of a call nothing can be used when it is cancelled."""
        emit = more.pop("emit", lambda piece: None)
        part, by = self._part(prompt, form, emit, confidence, **more)
        if part.finish_reason == "cancelled":
            raise Stop("cancelled")
        return part, by

    def _call(self, prompt: str, form: CallForm, index: int, name: str) -> tuple[ToolCall, str]:
        """A call, and the prompt with it; `name`: of the tool, where that is known already."""
        tools = {tool.name: tool for tool in self.request.tools}
        prompt += form.name if not index or not form.between else form.between
        if len(tools) == 1:
            name = next(iter(tools))
        elif not name:
            names = "|".join(re.escape(name) for name in tools)
            part, _ = self._part_of_call(prompt, form, self.confidence, regex=f'({names})"')
            name = part.text.removesuffix('"')
        schema, call_id = _schema(tools[name]), form.new_id()
        self.confidence.tell(CallPiece(index, call_id, name))
        prompt += name + form.arguments
        part, _ = self._part_of_call(
            prompt, form, self.confidence, json_schema=schema,
            emit=lambda piece: self.confidence.tell(CallPiece(index, arguments=piece)),
        )  # fmt: skip
        return ToolCall(call_id, name, part.text), prompt + part.text + form.close

    def _goes_on(self, prompt: str, form: CallForm, calls: int) -> tuple[bool, str]:
        """Whether another call follows, and the prompt up to where its name begins."""
        one = form.alone or not self.request.parallel_tool_calls
        if one or calls >= limits.MAX_TOOL_CALLS or self._left() < 1:
            return False, prompt
        uncounted = Confidence(msgspec.structs.replace(self.request, min_confidence=None))
        if form.between:
            part, _ = self._part_of_call(prompt, form, uncounted, regex=re.escape(form.end) + "|, ")
            return part.text != form.end, prompt
        part, tag = self._part_of_call(
            prompt, form, uncounted, begin=[form.tag], max_tokens=_TOKENS_TO_GO_ON
        )
        return tag == form.tag and not part.text.strip(), prompt + form.tag

    def _left(self) -> int:
        return self.request.max_tokens - sum(part.tokens for part in self._parts)

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
            chosen=self._chosen,
            logprobs=self._logprobs,
        )


def _schema(tool: Tool) -> dict[str, Any]:
    schema = tool.parameters or {"properties": {}, "additionalProperties": False}
    kind = schema.get("type", "object")
    if kind != "object":
        raise InputError(
            "bad-constraint", f"the parameters of {tool.name} are no object, but {str(kind)[:40]}"
        )
    return {**schema, "type": "object"}
