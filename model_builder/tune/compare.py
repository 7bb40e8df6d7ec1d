"""The base, the base with examples, other bundles and the tuned model, on the same pairs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from model_builder.generate.evaluate import f1, is_json, run_generator
from model_builder.generate.pairs import Pair

FALLS = 0.1
"""Exact match that other words may cost before the report warns."""


class Score(msgspec.Struct, frozen=True):
    """How good a way's answers are.

    Attributes:
        pairs: that were measured.
        exact_match: share of answers that are the expected text.
        token_f1: mean F1 of words and punctuation.
        field_f1: F1 of the fields of all answers that are JSON; None: none is to be.
        valid_json: share of answers that parse as JSON; None: none is to be.
    """

    pairs: int
    exact_match: float
    token_f1: float
    field_f1: float | None = None
    valid_json: float | None = None


def score(pairs: Sequence[Pair], answers: Sequence[str]) -> Score:
    """Compares answers with what was expected."""
    count = len(pairs)
    both = list(zip([p.completion for p in pairs], answers, strict=True))
    fields: float | None = None
    valid: float | None = None
    if all(_is_document(expected) for expected, _ in both):
        valid = sum(is_json(found) for _, found in both) / count
        right = wanted = made = 0
        for expected, found in both:
            a, b = _fields(expected), _fields(found)
            right, wanted, made = (
                right + (a & b).total(),
                wanted + a.total(),
                made + b.total(),
            )
        fields = 2 * right / max(1, wanted + made)
    return Score(
        count,
        sum(expected == found for expected, found in both) / count,
        sum(f1(found, expected) for expected, found in both) / count,
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


class Way(msgspec.Struct, frozen=True):
    """A model that answers.

    Attributes:
        name: in the report.
        bundle: its folder.
        examples: pairs that stand before each prompt.
        most: pairs that it is measured on, of each set; None: all.
    """

    name: str
    bundle: Path
    examples: tuple[Pair, ...] = ()
    most: int | None = None

    def answers(self, pairs: Sequence[Pair], max_tokens: int) -> list[str]:
        """Greedy answers by the program that devices run; empty for one that failed."""
        before = "".join(f"{p.prompt}\n{p.completion}\n\n" for p in self.examples)
        made = run_generator(self.bundle, [before + p.prompt for p in pairs], max_tokens)
        return ["" if one is None else one.text for one in made]


def compared(
    ways: Sequence[Way], sets: dict[str, list[Pair]], max_tokens: int, examples: int = 8
) -> dict[str, Any]:
    """Scores of each way on each set, and answers side by side."""
    filled = {name: pairs for name, pairs in sets.items() if pairs}
    scores: dict[str, dict[str, Any]] = {}
    rows = {
        name: [{"prompt": p.prompt, "expected": p.completion} for p in pairs]
        for name, pairs in filled.items()
    }
    for way in ways:
        cut = {name: pairs[: way.most] for name, pairs in filled.items()}
        answers = iter(way.answers([p for pairs in cut.values() for p in pairs], max_tokens))
        for name, pairs in cut.items():
            own = [next(answers) for _ in pairs]
            scores.setdefault(way.name, {})[name] = msgspec.to_builtins(score(pairs, own))
            for row, answer in zip(rows[name], own, strict=False):
                row[way.name] = answer
    tuned = ways[-1].name
    beside = {}
    for name, listed in rows.items():
        wrong_first = sorted(listed, key=lambda row: row[tuned] == row["expected"])
        beside[name] = [*wrong_first[: examples // 2], *listed[: examples - examples // 2]]
    return {"scores": scores, "examples": beside}


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
