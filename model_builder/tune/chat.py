"""The text around a pair: the base's own chat template, as a device renders it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from contracts.chat.call_forms import CallForm, form_of
from contracts.chat.template import ChatTemplate
from contracts.errors import InputError
from contracts.requests import ChatMessage
from model_builder.generate.pairs import Pair
from model_builder.generate.source import Pretrained
from model_builder.tune.data import Chat, calls_of, chat_of
from model_builder.tune.packing import Coded

_MARK = "zqPROMPTqz"
_ANSWER = "zqANSWERqz"
_NEXT = "zqNEXTqz"


@dataclass(frozen=True)
class Frame:
    """What stands around a prompt, and what ends an answer.

    Attributes:
        prefix, suffix: of a prompt that is one message.
        template, system: for chats.
        end: id that ends a turn.
        bos: id that begins a text; None: nothing does.
        form: of calls of tools, as the template teaches it; None: of none.
        wrapped: a device puts `prefix` and `suffix` around a prompt. A bundle that calls tools has
            neither: its prompts are chats.
    """

    prefix: str
    suffix: str
    end: int
    bos: int | None
    template: ChatTemplate | None = None
    system: str = ""
    form: CallForm | None = None
    wrapped: bool = True

    def asked(self, prompt: str) -> str | dict[str, Any]:
        """What a device is sent: a prompt as it is, or a chat's messages and tools."""
        chat = chat_of(prompt)
        if chat is None and self.wrapped:
            return prompt
        chat = chat or Chat([ChatMessage("user", prompt)])
        return {"messages": self._messages(chat), "tools": chat.tools}

    def _messages(self, chat: Chat) -> list[ChatMessage]:
        if not self.system or chat.messages[0].role == "system":
            return chat.messages
        return [ChatMessage("system", self.system), *chat.messages]

    def ids(self, tokenizer: Tokenizer, prompt: str) -> list[int]:
        """Of a prompt, as the agent encodes it.

        Raises:
            InputError: ``bad-data``; a chat, and the base has no template. ``bad-messages``; its
                template refuses the chat, or knows no tools.
        """
        text = self.prefix + prompt + self.suffix
        chat = chat_of(prompt)
        if chat is not None:
            if self.template is None:
                raise InputError("bad-data", "a chat of several turns: the base has no template")
            text = self.template.render(self._messages(chat), chat.tools)
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids if self.bos is None or ids[:1] == [self.bos] else [self.bos, *ids]

    def answer(self, completion: str) -> str:
        """The text that the model is to write.

        Raises:
            InputError: ``bad-data``; it calls tools, and the base's template teaches no form of
                calls that a device knows, or not so many of them.
        """
        message = calls_of(completion)
        if message is None:
            return completion
        if self.form is None:
            raise InputError(
                "bad-data",
                "an answer calls tools, and the base's chat template teaches no form of calls that "
                "devices know; take a base that calls tools",
            )
        calls = [(call.name, call.arguments) for call in message.tool_calls]
        try:
            return self.form.answer(message.content, calls)
        except ValueError as error:
            raise InputError("bad-data", str(error)) from None

    def coded(self, tokenizer: Tokenizer, pairs: Sequence[Pair]) -> list[Coded]:
        """Pairs as tokens, an end after each answer."""
        texts = [self.answer(pair.completion) for pair in pairs]
        answers = tokenizer.encode_batch(texts, add_special_tokens=False)
        return [
            Coded(self.ids(tokenizer, pair.prompt), [*answer.ids, self.end])
            for pair, answer in zip(pairs, answers, strict=True)
        ]


def frame_of(pretrained: Pretrained, tokenizer: Tokenizer, system: str) -> Frame:
    """The frame that a base's template puts around a user's message.

    A base without a template gets a line end after the prompt.

    Raises:
        InputError: ``bad-template``; it cannot be used for prompts, or there is no token that
            ends an answer; ``bad-recipe``, a system message without a template.
    """
    ends = pretrained.eos_ids
    if not ends:
        raise InputError("bad-template", "the base has no token that ends an answer")
    if pretrained.chat_template is None:
        if system:
            raise InputError("bad-recipe", "system: the base has no chat template to put it in")
        return Frame("", "\n", ends[0], pretrained.bos_id)

    def named(token: int | None) -> str:
        return "" if token is None else tokenizer.id_to_token(token) or ""

    template = ChatTemplate(
        pretrained.chat_template, named(pretrained.bos_id), named(next(iter(ends), None))
    )
    first = [ChatMessage("system", system)] if system else []
    first.append(ChatMessage("user", _MARK))
    prefix, mark, suffix = template.render(first).partition(_MARK)
    if not mark or _MARK in suffix:
        raise InputError("bad-template", "the base's chat template changes or repeats the prompt")
    later = [*first, ChatMessage("assistant", _ANSWER), ChatMessage("user", _NEXT)]
    after = template.render(later).partition(_ANSWER)[2].partition(_NEXT)[0]
    following: list[Any] = tokenizer.encode(after, add_special_tokens=False).ids
    end = next((i for i in following if i in ends), ends[0])
    form = form_of(pretrained.chat_template)
    return Frame(prefix, suffix, end, pretrained.bos_id, template, system, form)
