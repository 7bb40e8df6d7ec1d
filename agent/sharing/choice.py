"""Which hard examples to give away where only some may leave: those that tell the most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from agent.serving.examples import Example
from contracts.text import NgramConfig, ngram_ids

MAX_LOOKED_AT: Final = 500
"""Examples that are compared with each other, the hardest first."""

_FEATURES: Final = NgramConfig(buckets=2**20, length=256)


def features(text: str) -> frozenset[int]:
    """A text's words and pieces of words, as the front end of the small models has them."""
    return frozenset(ngram_ids(text, _FEATURES)[0]) - {0}


def likeness(a: frozenset[int], b: frozenset[int]) -> float:
    """0: nothing in common; 1: the same (cosine of the two sets)."""
    return len(a & b) / math.sqrt(len(a) * len(b)) if a and b else 0.0


def worth(example: Example) -> float:
    """How hard it was, and how often it came: a correction tells the most."""
    hard = 1.0 - example.confidence
    if "near-threshold" in example.reasons:
        hard = max(hard, 0.5)
    if "shadow-disagrees" in example.reasons:
        hard = max(hard, 0.6) + 0.2
    if "corrected" in example.reasons:
        hard = max(hard, 0.8) + 0.5
    return (0.05 + hard) * (1.0 + math.log2(max(1, example.times)))


def choose(examples: Sequence[Example], most: int) -> list[Example]:
    """The most telling ones, each unlike those before it; the most telling first.

    In turn the one with the highest worth x unlikeness to what is chosen.
    """
    ordered = sorted(examples, key=lambda one: (-worth(one), one.at, one.text))[:MAX_LOOKED_AT]
    of = [features(one.text) for one in ordered]
    worths = [worth(one) for one in ordered]
    far = [1.0] * len(ordered)
    left = set(range(len(ordered)))
    chosen: list[Example] = []
    while left and len(chosen) < most:
        best = max(left, key=lambda i: (worths[i] * (0.05 + far[i]), -i))
        left.discard(best)
        chosen.append(ordered[best])
        for i in left:
            far[i] = min(far[i], 1.0 - likeness(of[i], of[best]))
    return chosen
