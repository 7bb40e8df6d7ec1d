"""Pairs and chats to learn from: CSV, JSONL and JSON with prompt and completion; chats as JSON.

Chats come in OpenAI's form (``{"messages": [{"role": "user", "content": ...}]}``) and in
ShareGPT's (``{"conversations": [{"from": "human", "value": ...}]}``). Each answer of the
assistant is learnt, after all that was said before it. A chat may have ``tools`` that the assistant
calls (``tool_calls``; in ShareGPT's form turns from ``function_call`` and ``observation``). Chats
of Vertex AI (``contents``) and TRL (``prompt`` and ``completion`` that are turns) are read as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from contracts.errors import InputError
from contracts.requests import ChatMessage, Tool
from model_builder.generate.answers import as_answer
from model_builder.generate.forms import as_chat
from model_builder.generate.home_commands import sample_commands
from model_builder.generate.inventor import NONE_RESPELT, Respelt
from model_builder.generate.pairs import (
    MAX_PAIRS,
    Answers,
    Pair,
    Split,
    json_rows,
    read_pairs,
    split_pairs,
)
from model_builder.recipes.tune import TuneRecipe
from model_builder.teachers.base import Progress, silent
from model_builder.tune.chat_rows import Row, chat_row
from model_builder.tune.written import written
from model_builder.writing.pairs import WrittenPairs

_MARK: Final = "\x1e"
_REMEDY: Final = "keep one of them, or take the first of each with data.repeated: first"


class Chat(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model is asked: the messages so far, and the tools that it may call."""

    messages: list[ChatMessage]
    tools: list[Tool] = []


def chat_of(prompt: str) -> Chat | None:
    """A prompt that is a chat; None: it is one message of a user."""
    return msgspec.json.decode(prompt[1:], type=Chat) if prompt.startswith(_MARK) else None


def prompt_of(chat: Chat) -> str:
    """The prompt that a chat is; :func:`chat_of` gives the chat back."""
    return _MARK + msgspec.json.encode(chat).decode()


def calls_of(completion: str) -> ChatMessage | None:
    """A completion that calls tools; None: it is text."""
    if not completion.startswith(_MARK):
        return None
    return msgspec.json.decode(completion[1:], type=ChatMessage)


def load(
    recipe: TuneRecipe,
    folder: Path,
    cache: Path | None = None,
    progress: Progress = silent,
    apart: Callable[[], Sequence[str]] = tuple,
) -> tuple[Split, WrittenPairs | None]:
    """What a recipe trains and measures with, and what was written for it.

    Args:
        recipe: names the data.
        folder: of the recipe.
        cache: folder for the answers of who writes.
        progress: told of them.
        apart: gives the words that the base spells in two ways, where the recipe asks for them.

    Raises:
        InputError: ``no-such-file``; ``bad-data``, with the row.
    """
    d = recipe.data
    if d.kind == "home-commands":
        options = (d.rephrased, d.spoken, d.invented)
        new = Respelt(d.respelt, apart()) if d.respelt else NONE_RESPELT
        split = sample_commands(d.language, d.sentences, d.test, d.seed, *options, new, unseen=True)
        return split, None
    path = folder / d.path
    pairs: list[Pair] = []
    if d.path:
        if _is_chat(path):
            pairs = read_chats(path, first=d.repeated == "first")
        else:
            pairs = read_answered(recipe, path, some=d.written is not None)
    if d.written is None:
        return split_pairs(pairs, d.seed), None
    made = written(recipe, folder, pairs, cache or folder / "cache", progress)
    return split_pairs(made.pairs, d.seed), made.written


def read_answered(recipe: TuneRecipe, path: Path, some: bool = False) -> list[Pair]:
    """Pairs of a file, each with a completion; or `some` of them, the others are answered."""

    def checked(pair: Pair) -> Pair:
        if not pair.completion and some:
            return pair
        if not pair.completion:
            raise InputError("bad-data", "no completion: there is nothing to learn; write one")
        if _MARK in (pair.prompt[:1], pair.completion[:1]):
            raise InputError("bad-data", "a text begins with a control character")
        return as_answer(pair) if recipe.constrain == "prompt-values" else pair

    first = recipe.data.repeated == "first"
    return list(dict.fromkeys(read_pairs(path, checked, first=first, remedy=_REMEDY)))


def _is_chat(path: Path) -> bool:
    """Whether a file's first row is a chat."""
    if path.suffix not in (".jsonl", ".json") or not path.is_file():
        return False
    try:
        with path.open(encoding="utf-8-sig") as stream:
            row = next((row for row in json_rows(path, stream) if row is not None), None)
    except (OSError, UnicodeError, ValueError, RecursionError):
        return False  # reading it as pairs says what is wrong
    try:
        return as_chat(row) is not None
    except InputError:
        return True  # reading it as a chat says what is wrong


def read_chats(path: Path, *, first: bool = False) -> list[Pair]:
    """The answers of a file's chats, one pair each; those of a chat are one group.

    Args:
        path: of the file, ``.jsonl`` or ``.json``.
        first: of several answers to the same, the first is used; else they are an error.

    Raises:
        InputError: ``bad-data`` with the row, from 1.
    """
    pairs: list[Pair] = []
    answers = Answers(first)
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, row in enumerate(json_rows(path, stream), 1):
                if row is None:
                    continue
                found = _answers(chat_row(row), number)
                pairs += [pair for pair in found if answers.takes(number, pair)]
                if len(pairs) > MAX_PAIRS:
                    raise InputError("too-large", f"more than {MAX_PAIRS} answers")
    except InputError as error:
        raise InputError(error.code, f"{path}, row {number}: {error}") from None
    except (OSError, UnicodeError, ValueError, RecursionError) as error:
        raise InputError(
            "bad-data", f"{path}, at or after row {number + 1}: broken: {error}"
        ) from None
    answers.check(path, _REMEDY)
    return list(dict.fromkeys(pairs))


def _answers(row: Row, number: int) -> Iterable[Pair]:
    some = False
    for at, message in enumerate(row.messages):
        if message.role != "assistant":
            continue
        before = row.messages[:at]
        said = message.content or message.tool_calls
        if not before or before[-1].role not in ("user", "tool") or not said:
            raise InputError("bad-data", "an answer is empty, or follows no message of a user")
        some = True
        if at in row.left_out:
            continue
        alone = len(before) == 1 and not row.tools and before[0].content[:1] != _MARK
        chat = Chat(before, row.tools)
        prompt = before[0].content if alone else prompt_of(chat)
        if not prompt:
            raise InputError("bad-data", "a message of the user is empty")
        answer = message.content
        if message.tool_calls:
            answer = _MARK + msgspec.json.encode(message).decode()
        elif answer[0] == _MARK:
            raise InputError("bad-data", "an answer begins with a control character")
        yield Pair(prompt, answer, f"chat {number}")
    if not some:
        raise InputError("bad-data", "no answer of the assistant: there is nothing to learn")
