"""Prompt to token ids and back, as a generative bundle's manifest says."""

from __future__ import annotations

import re
from bisect import bisect_left
from functools import cached_property
from typing import Any, Final

import msgspec

from agent.runtime.front_end import check_text
from contracts import chances
from contracts.bundle import Bundle
from contracts.chat.call_forms import CallForm, form_of
from contracts.chat.template import ChatTemplate
from contracts.errors import InputError
from contracts.manifest import GeneratorFacts, TokenizerFrontEnd
from contracts.memory import give_back
from contracts.requests import ChatMessage, GenerateRequest, Tool
from contracts.tokenizer import load, probe, told

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_BYTE_PIECE: Final = re.compile("<0x([0-9A-F]{2})>")


def _letters() -> dict[str, int]:
    """What byte-level vocabularies write for each byte: itself where it is seen (GPT-2)."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in seen]
    return {chr(b): b for b in seen} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTES: Final = _letters()


class Prompts:
    """The text side of a generative bundle.

    The tokenizer and the chat template are loaded at their first use: parsing a vocabulary of
    tens of thousands of words takes longer than opening the model.

    Args:
        bundle: a generate bundle.
        facts: its generator's facts.

    Attributes:
        facts: those that count now: an adapter may have other texts around a prompt.

    Raises:
        InputError: ``bad-manifest``; at first use also ``bad-tokenizer``, ``bad-template``.
    """

    def __init__(self, bundle: Bundle, facts: GeneratorFacts) -> None:
        front = bundle.manifest.front_end
        if not isinstance(front, TokenizerFrontEnd):
            raise InputError("bad-manifest", "a generate bundle needs a tokenizer")
        ids = [*front.eos_ids, *([] if front.bos_id is None else [front.bos_id])]
        if any(not 0 <= i < facts.vocabulary for i in ids):
            raise InputError("bad-manifest", "a special token is outside the vocabulary")
        chances.check(facts.calibration)
        self._bundle = bundle
        self.facts = facts
        self._front = front
        self.eos_ids = front.eos_ids

    def load(self) -> None:
        """Loads the tokenizer and the chat template, so that no request pays for it.

        Raises:
            InputError: ``bad-tokenizer``, ``bad-template``, ``bundle-corrupt``.
        """
        _ = self._tokenizer, self._template

    def probe(self) -> None:
        """As :func:`contracts.tokenizer.probe`."""
        probe(self._tokenizer, self._front.file)

    def tokenizer_json(self) -> str:
        """Text of ``tokenizer.json``, read again: it is megabytes and seldom needed."""
        return self._bundle.read(self._front.file).decode("utf-8", "replace")

    @cached_property
    def _tokenizer(self) -> Any:
        loaded = load(self._bundle.read(self._front.file), self._front.file)
        give_back()  # parsing leaves more freed memory behind than the vocabulary takes
        return loaded

    @cached_property
    def _template(self) -> ChatTemplate | None:
        front = self._front
        if front.chat_template is None:
            return None
        bos, eos = (self.token_text(i) for i in (front.bos_id, next(iter(front.eos_ids), None)))
        return ChatTemplate(front.chat_template, bos, eos)

    def token_text(self, token: int | None) -> str:
        """A token as the vocabulary has it; empty for None."""
        text = None if token is None else self._tokenizer.id_to_token(token)
        return text or ""

    def shown(self, token: int, *, first: bool = False) -> str:
        r"""A token as log-probabilities tell it.

        With the blank before it, which only the first of a text may lose. What is no text by
        itself, since it ends within a character, is told as OpenAI does: ``bytes:\xf0\x9f``.
        """
        text = self.decode([token])
        if not first:
            text = self.decode([token, token])[len(text) :]
        if _REPLACEMENT not in text:
            return text
        piece = self.token_text(token)
        byte = _BYTE_PIECE.fullmatch(piece)
        data = [int(byte[1], 16)] if byte else [_BYTES.get(letter) for letter in piece]
        if None in data:
            return text
        return "bytes:" + "".join(f"\\x{value:02x}" for value in data)

    def decode(self, ids: list[int]) -> str:
        """Text of tokens, without special ones."""
        with told("the tokenizer"):
            text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def encode(self, prompt: str) -> list[int]:
        """Ids of a prompt as it is.

        Raises:
            InputError: ``empty-prompt``, ``too-large``, ``bad-text``.
        """
        check_text(prompt)
        if not prompt:
            raise InputError("empty-prompt", "the prompt is empty: there is nothing to go on")
        return self._ids(self.facts.prompt_prefix + prompt + self.facts.prompt_suffix)

    def render_chat(
        self,
        messages: list[ChatMessage],
        tools: list[Tool],
        arguments: dict[str, Any] | None = None,
    ) -> str:
        """The prompt of a chat whose model may call tools; `arguments` are the template's.

        Raises:
            InputError: ``bad-messages``, ``too-large``, ``bad-text``; also where the template
                knows no tools, or none is there.
        """
        for message in messages:
            check_text(message.content)
        if self._template is None:
            raise InputError("bad-messages", "the model has no chat template, so it has no tools")
        return self._template.render(messages, tools, arguments)

    @cached_property
    def call_form(self) -> CallForm | None:
        """How the model calls tools; None: in no form that is known, or that could be seen."""
        form = form_of(self._front.chat_template or "")
        if form is None or self.decode_seeing(self._encoded(form.tag), form.tag) != form.tag:
            return None
        return form

    def decode_seeing(self, ids: list[int], tag: str) -> str:
        """As :meth:`decode`, with `tag` where it is a special token."""
        token = self._tokenizer.token_to_id(tag)
        if token not in ids:
            return self.decode(ids)
        at = ids.index(token)
        seen = self.decode([token]) or tag
        return self.decode(ids[:at]) + seen + self.decode_seeing(ids[at + 1 :], tag)

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of a prompt that is whole already."""
        return self._ids(text)

    def encode_chat(
        self, messages: list[ChatMessage], arguments: dict[str, Any] | None = None
    ) -> list[int]:
        """Ids of a chat, through the bundle's template, which `arguments` are for.

        Without a template the last message is the prompt, which suits models trained on pairs.

        Raises:
            InputError: ``bad-messages``, ``too-large``, ``bad-text``.
        """
        for message in messages:
            check_text(message.content)
        if self._template is None:
            if not messages or messages[-1].role != "user":
                raise InputError("bad-messages", "expected a last message of the user")
            if arguments:
                raise InputError(
                    "bad-messages", "the model has no chat template, so it takes no arguments"
                )
            return self.encode(messages[-1].content)
        return self._ids(self._template.render(messages, (), arguments))

    def remembering(self, request: GenerateRequest, capacity: int) -> GenerateRequest:
        """A chat's request without its oldest turns, as few as leave room for an answer.

        System messages before the first turn stay, and the chat goes on from a turn of the user:
        the last one at least, whether it fits or not.

        Args:
            request: with messages.
            capacity: tokens that the largest context holds.

        Raises:
            InputError: ``bad-message``; it has a prompt; and as of messages.
        """
        messages = request.messages
        if messages is None:
            raise InputError("bad-message", "when_full: forget needs messages")
        room = capacity - min(request.max_tokens, capacity // 4)
        tools = [] if request.tool_choice == "none" else request.tools
        given = request.chat_template_kwargs
        head = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
        turns = [i for i in range(head + 1, len(messages)) if messages[i].role == "user"]

        def fits(start: int) -> bool:
            kept = [*messages[:head], *messages[start:]]
            if tools:
                return len(self.encode_rendered(self.render_chat(kept, tools, given))) <= room
            return len(self.encode_chat(kept, given)) <= room

        starts = [head, *turns]
        start = starts[min(bisect_left(starts, True, key=fits), len(starts) - 1)]
        return msgspec.structs.replace(request, messages=[*messages[:head], *messages[start:]])

    def _encoded(self, text: str) -> list[int]:
        with told("the tokenizer"):
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _ids(self, text: str) -> list[int]:
        # The prompt has its special tokens already; the tokenizer must not add more.
        ids = self._encoded(text)
        if any(i >= self.facts.vocabulary for i in ids):
            raise InputError("bad-manifest", "the tokenizer gives ids outside the vocabulary")
        bos = self._front.bos_id
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]
