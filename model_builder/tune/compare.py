"""The base, the base with examples, other bundles and the tuned model, on the same pairs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from contracts.answers import Generated
from contracts.requests import ChatMessage, ToolCall
from model_builder.generate.evaluate import f1, is_json, run_generator
from model_builder.generate.pairs import Pair
from model_builder.teachers.base import Progress, silent
from model_builder.tune.data import Chat, calls_of, chat_of, prompt_of
from model_builder.tune.shift import last_said

FALLS = 0.1
"""Exact match that other words may cost before the report warns."""


_ALONE = (["user"], ["system", "user"])


class Score(msgspec.Struct, frozen=True):
    """How good a way's answers are.

    Attributes:
        pairs: that were measured.
        exact_match: share of answers that are the expected text.
        token_f1: mean F1 of words and punctuation.
        field_f1: F1 of the fields of all answers that are JSON; None: none is to be.
        valid_json: share of answers that parse as JSON; None: none is to be.
        tokens: mean length of an answer.
        token_ms: mean time of a token on this machine.
    """

    pairs: int
    exact_match: float
    token_f1: float
    field_f1: float | None = None
    valid_json: float | None = None
    tokens: float = 0.0
    token_ms: float = 0.0


def score(pairs: Sequence[Pair], answers: Sequence[str]) -> Score:
    """Compares answers with what was expected."""
    count = len(pairs)
    both = list(zip([expected(p) for p in pairs], answers, strict=True))
    fields: float | None = None
    valid: float | None = None
    if all(_is_document(wanted) for wanted, _ in both):
        valid = sum(is_json(found) for _, found in both) / count
        right = there = made = 0
        for wanted, found in both:
            a, b = _fields(wanted), _fields(found)
            right, there, made = right + (a & b).total(), there + a.total(), made + b.total()
        fields = 2 * right / max(1, there + made)
    return Score(
        count,
        sum(wanted == found for wanted, found in both) / count,
        sum(f1(found, wanted) for wanted, found in both) / count,
        fields,
        valid,
    )


def _is_document(text: str) -> bool:
    return text[:1] in "{[" and is_json(text)


def _fields(text: str) -> Counter[str]:
    """Paths with their values; none where the text is no JSON."""
    found: Counter[str] = Counter()
    if not is_json(text):
        return found
    waiting: list[tuple[str, Any]] = [("", json.loads(text))]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{path}.{key}", inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{path}[]", inner) for inner in value]
        else:
            found[f"{path}={value!r}"] += 1
    return found


def is_example(pair: Pair) -> bool:
    """Whether a pair can be shown before a prompt: a message, its answer, and no tools."""
    chat = chat_of(pair.prompt)
    if calls_of(pair.completion) is not None:
        return False
    return chat is None or (not chat.tools and [m.role for m in chat.messages] in _ALONE)


Asked = Callable[[str], str | dict[str, Any]]
"""A prompt as a device is sent it: text, or a chat's messages and tools."""


class Way(msgspec.Struct, frozen=True):
    """A model that answers.

    Attributes:
        name: in the report.
        bundle: its folder.
        examples: pairs that stand before each prompt; in a chat without tools, as its first turns.
        most: pairs that it is measured on, of each set; None: all.
    """

    name: str
    bundle: Path
    examples: tuple[Pair, ...] = ()
    most: int | None = None

    def answers(
        self, pairs: Sequence[Pair], max_tokens: int, asked: Asked
    ) -> list[Generated | None]:
        """Greedy answers by the program that devices run; None for one that failed."""
        prompts = [self._after_examples(pair.prompt) for pair in pairs]
        return run_generator(self.bundle, [asked(prompt) for prompt in prompts], max_tokens)

    def _after_examples(self, prompt: str) -> str:
        chat = chat_of(prompt)
        shown = [(last_said(p.prompt), p.completion) for p in self.examples]
        if chat is None:
            return "".join(f"{said}\n{answer}\n\n" for said, answer in shown) + prompt
        if not shown or chat.tools:
            return prompt
        turns = [
            message
            for said, answer in shown
            for message in (ChatMessage("user", said), ChatMessage("assistant", answer))
        ]
        at = 1 if chat.messages[0].role == "system" else 0
        return prompt_of(Chat([*chat.messages[:at], *turns, *chat.messages[at:]]))


def text_of(answer: Generated | None) -> str:
    """An answer as it is compared: its text, and a line for each call."""
    return "" if answer is None else _with_calls(answer.text, answer.tool_calls)


def expected(pair: Pair) -> str:
    """What :func:`text_of` of a right answer is."""
    message = calls_of(pair.completion)
    if message is None:
        return pair.completion
    return _with_calls(message.content, message.tool_calls)


def _with_calls(text: str, calls: Sequence[ToolCall]) -> str:
    if not calls:
        return text
    rows = [{"name": call.name, "arguments": json.loads(call.arguments)} for call in calls]
    lines = [json.dumps(row, sort_keys=True, ensure_ascii=False) for row in rows]
    return "\n".join([*([text.strip()] if text.strip() else []), *lines])


def _asked_text(pair: Pair) -> str:
    chat = chat_of(pair.prompt)
    if chat is None:
        return pair.prompt
    return "\n".join(f"{message.role}: {message.content}" for message in chat.messages)


def compared(
    ways: Sequence[Way],
    sets: dict[str, list[Pair]],
    max_tokens: int,
    asked: Asked = lambda prompt: prompt,
    examples: int = 8,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Scores of each way on each set, and answers side by side; tells each way that is done."""
    progress("measuring", 0, len(ways))
    filled = {name: pairs for name, pairs in sets.items() if pairs}
    scores: dict[str, dict[str, Any]] = {}
    rows = {
        name: [{"prompt": _asked_text(p), "expected": expected(p)} for p in pairs]
        for name, pairs in filled.items()
    }
    for number, way in enumerate(ways, 1):
        cut = {name: pairs[: way.most] for name, pairs in filled.items()}
        wanted = [p for pairs in cut.values() for p in pairs]
        answers = iter(way.answers(wanted, max_tokens, asked))
        for name, pairs in cut.items():
            own = [next(answers) for _ in pairs]
            texts = [text_of(one) for one in own]
            found = msgspec.structs.replace(score(pairs, texts), **_pace(own))
            scores.setdefault(way.name, {})[name] = msgspec.to_builtins(found)
            for row, text in zip(rows[name], texts, strict=False):
                row[way.name] = text
        progress("measuring", number, len(ways))
    tuned = ways[-1].name
    beside = {}
    for name, listed in rows.items():
        wrong_first = sorted(listed, key=lambda row: row[tuned] == row["expected"])
        beside[name] = [*wrong_first[: examples // 2], *listed[: examples - examples // 2]]
    return {"scores": scores, "examples": beside}


def _pace(answers: Sequence[Generated | None]) -> dict[str, float]:
    """Length of answers, and time of a token."""
    made = [a for a in answers if a is not None]
    rates = [a.tokens_per_s for a in made if a.tokens_per_s]
    return {
        "tokens": round(sum(a.tokens for a in made) / max(1, len(made)), 1),
        "token_ms": round(1000 * sum(1 / rate for rate in rates) / max(1, len(rates)), 2),
    }


def warnings(scores: dict[str, Any], held: str, others: Sequence[str]) -> list[str]:
    """What falls by much on other words than those of the pairs."""
    found = []
    for other in others:
        if other not in scores or held not in scores:
            continue
        before, after = (scores[name]["exact_match"] for name in (held, other))
        if before - after > FALLS:
            found.append(
                f"exact match falls from {before:.0%} on held-out pairs to {after:.0%} on "
                f"{other}: add pairs that say the same in other words"
            )
    return found
