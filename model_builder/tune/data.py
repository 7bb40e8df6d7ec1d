"""Pairs and chats to learn from: CSV and JSONL with prompt and completion, chats as JSONL.

Chats come in OpenAI's form (``{"messages": [{"role": "user", "content": ...}]}``) and in
ShareGPT's (``{"conversations": [{"from": "human", "value": ...}]}``). Each answer of the
assistant is learnt, after all that was said before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from contracts import limits
from contracts.errors import InputError
from contracts.messages import ChatMessage
from model_builder.generate.answers import as_answer
from model_builder.generate.home_commands import sample_commands
from model_builder.generate.pairs import MAX_PAIRS, Pair, Split, read_pairs, split_pairs
from model_builder.recipes.tune import TuneRecipe

Role = Literal["system", "user", "assistant"]
_ROLES: Final[dict[str, Role]] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_HISTORY: Final = "\x1e"


def history_of(prompt: str) -> list[ChatMessage] | None:
    """The messages of a prompt that is a chat; None: it is one message of a user."""
    if not prompt.startswith(_HISTORY):
        return None
    return msgspec.json.decode(prompt[1:], type=list[ChatMessage])


def load(recipe: TuneRecipe, folder: Path) -> Split:
    """What a recipe trains and measures with.

    Raises:
        InputError: ``no-such-file``; ``bad-data``, with the row.
    """
    d = recipe.data
    if d.kind == "home-commands":
        return sample_commands(d.language, d.sentences, d.test, d.seed, d.rephrased)
    path = folder / d.path
    chats = read_chats(path) if _is_chat(path) else None
    return split_pairs(read_answered(recipe, path) if chats is None else chats, d.seed)


def read_answered(recipe: TuneRecipe, path: Path) -> list[Pair]:
    """Pairs of a file, each with a completion."""

    def checked(pair: Pair) -> Pair:
        if not pair.completion:
            raise InputError("bad-data", "no completion: there is nothing to learn; write one")
        if pair.prompt.startswith(_HISTORY):
            raise InputError("bad-data", "the prompt begins with a control character")
        return as_answer(pair) if recipe.constrain == "prompt-values" else pair

    return list(dict.fromkeys(read_pairs(path, checked)))


def _is_chat(path: Path) -> bool:
    """Whether a file's first row is a chat."""
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    try:
        with path.open(encoding="utf-8-sig") as stream:
            first = next((line for line in stream if line.strip()), "{}")
        row = json.loads(first)
    except (OSError, UnicodeError, ValueError, RecursionError):
        return False  # reading it as pairs says what is wrong
    return isinstance(row, dict) and ("messages" in row or "conversations" in row)


def read_chats(path: Path) -> list[Pair]:
    """The answers of a file's chats, one pair each; those of a chat are one group.

    Raises:
        InputError: ``bad-data`` with the row, from 1.
    """
    pairs: list[Pair] = []
    seen: dict[str, tuple[int, str]] = {}
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                for pair in _answers(_messages(json.loads(line)), number):
                    before, answer = seen.setdefault(pair.prompt, (number, pair.completion))
                    if answer != pair.completion:
                        raise InputError(
                            "bad-data",
                            f"what was said in row {before} with another answer; keep one of them",
                        )
                    pairs.append(pair)
                if len(pairs) > MAX_PAIRS:
                    raise InputError("too-large", f"more than {MAX_PAIRS} answers")
    except InputError as error:
        raise InputError(error.code, f"{path}, row {number}: {error}") from None
    except (OSError, UnicodeError, ValueError, RecursionError) as error:
        raise InputError(
            "bad-data", f"{path}, at or after row {number + 1}: broken: {error}"
        ) from None
    return list(dict.fromkeys(pairs))


def _messages(row: Any) -> list[ChatMessage]:
    turns = row.get("messages", row.get("conversations")) if isinstance(row, dict) else None
    if not isinstance(turns, list) or not turns:
        raise InputError("bad-data", "expected messages, or conversations, with at least one turn")
    found = []
    for turn in turns:
        if not isinstance(turn, dict):
            raise InputError("bad-data", "a turn is no object with a role and a content")
        role = _ROLES.get(str(turn.get("role", turn.get("from"))))
        content = turn.get("content", turn.get("value"))
        if role is None or not isinstance(content, str) or turn.get("tool_calls"):
            raise InputError(
                "bad-data",
                f"a turn of {str(turn.get('role', turn.get('from')))[:40]!r}: expected the text "
                "of a system, user or assistant",
            )
        try:
            size = len(content.encode())
        except UnicodeEncodeError as error:
            raise InputError("bad-data", f"a content is no text: {error}") from None
        if size > limits.MAX_TEXT_BYTES:
            raise InputError("bad-data", f"a content is over {limits.MAX_TEXT_BYTES} bytes")
        found.append(ChatMessage(role, content))
    return found


def _answers(messages: list[ChatMessage], row: int) -> Iterable[Pair]:
    some = False
    for at, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before = messages[:at]
        if not before or before[-1].role != "user" or not message.content:
            raise InputError("bad-data", "an answer is empty, or follows no message of a user")
        some = True
        alone = len(before) == 1 and not before[0].content.startswith(_HISTORY)
        prompt = before[0].content if alone else _HISTORY + msgspec.json.encode(before).decode()
        if not prompt:
            raise InputError("bad-data", "a message of the user is empty")
        yield Pair(prompt, message.content, f"chat {row}")
    if not some:
        raise InputError("bad-data", "no answer of the assistant: there is nothing to learn")
