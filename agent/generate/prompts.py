"""Prompt to token ids and back, as a generative bundle's manifest says."""

from __future__ import annotations

from typing import Any

from agent.generate.chat import ChatTemplate
from agent.runtime.front_end import check_text
from contracts.bundle import Bundle
from contracts.errors import InputError
from contracts.manifest import GeneratorFacts, TokenizerFrontEnd
from contracts.messages import ChatMessage


class Prompts:
    """The text side of a generative bundle.

    Args:
        bundle: a generate bundle.
        facts: its generator's facts.

    Raises:
        InputError: ``bad-manifest``, ``bad-tokenizer``, ``bad-template``.
    """

    def __init__(self, bundle: Bundle, facts: GeneratorFacts) -> None:
        import tokenizers

        front = bundle.manifest.front_end
        if not isinstance(front, TokenizerFrontEnd):
            raise InputError("bad-manifest", "a generate bundle needs a tokenizer")
        self.tokenizer_json = bundle.read(front.file).decode("utf-8", "replace")
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(self.tokenizer_json)
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception
            raise InputError("bad-tokenizer", f"{front.file}: {str(error)[:300]}") from None
        self._facts = facts
        self._front = front
        ids = [*front.eos_ids, *([] if front.bos_id is None else [front.bos_id])]
        if any(not 0 <= i < facts.vocabulary for i in ids):
            raise InputError("bad-manifest", "a special token is outside the vocabulary")
        self.eos_ids = front.eos_ids
        self._template: ChatTemplate | None = None
        if front.chat_template is not None:
            bos, eos = (self.token_text(i) for i in (front.bos_id, next(iter(front.eos_ids), None)))
            self._template = ChatTemplate(front.chat_template, bos, eos)

    def token_text(self, token: int | None) -> str:
        """A token as the vocabulary has it; empty for None."""
        text = None if token is None else self._tokenizer.id_to_token(token)
        return text or ""

    def decode(self, ids: list[int]) -> str:
        """Text of tokens, without special ones."""
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
        return self._ids(self._facts.prompt_prefix + prompt + self._facts.prompt_suffix)

    def encode_chat(self, messages: list[ChatMessage]) -> list[int]:
        """Ids of a chat, through the bundle's template.

        Without a template the last message is the prompt, which suits models trained on pairs.

        Raises:
            InputError: ``bad-messages``, ``too-large``, ``bad-text``.
        """
        for message in messages:
            check_text(message.content)
        if self._template is None:
            if not messages or messages[-1].role != "user":
                raise InputError("bad-messages", "expected a last message of the user")
            return self.encode(messages[-1].content)
        return self._ids(self._template.render(messages))

    def _ids(self, text: str) -> list[int]:
        # The prompt has its special tokens already; the tokenizer must not add more.
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if any(i >= self._facts.vocabulary for i in ids):
            raise InputError("bad-manifest", "the tokenizer gives ids outside the vocabulary")
        bos = self._front.bos_id
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]
