"""How alike texts are, and which few of many tell the most: by n-grams, without a model."""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Sequence
from typing import Final

from contracts.text import NgramConfig, ngram_ids

_FEATURES: Final = NgramConfig(buckets=2**20, length=256)


@functools.lru_cache(4096)
def features(text: str) -> frozenset[int]:
    """A text's words and pieces of words, as the front end of the small models has them."""
    return frozenset(ngram_ids(text, _FEATURES)[0]) - {0}


def likeness(a: frozenset[int], b: frozenset[int]) -> float:
    """0: nothing in common; 1: the same (cosine of the two sets)."""
    return len(a & b) / math.sqrt(len(a) * len(b)) if a and b else 0.0


def company(texts: Sequence[str], most: int = 10) -> list[float]:
    """How much each text has others like it: its mean likeness to the `most` nearest, and itself.

    What is alone tells of itself; what has company tells of all of it.
    """
    of = [features(text) for text in texts]
    near: list[list[float]] = [[1.0] for _ in of]
    for place, one in enumerate(of):
        for other in range(place):
            alike = likeness(one, of[other])
            near[place].append(alike)
            near[other].append(alike)
    return [math.fsum(heapq.nlargest(most, found)) / most for found in near]


def spread(
    texts: Sequence[str], worths: Sequence[float], most: int, known: Sequence[str] = ()
) -> list[int]:
    """Places of the most telling texts, each unlike those before it; the most telling first.

    In turn the one with the highest worth x unlikeness to what is chosen, and to what is known.

    Args:
        texts: to choose from.
        worths: how much each would tell by itself.
        most: how many.
        known: texts that tell nothing more.
    """
    of = [features(text) for text in texts]
    before = [features(text) for text in known]
    far = [1.0 - max((likeness(one, other) for other in before), default=0.0) for one in of]
    left = set(range(len(texts)))
    chosen: list[int] = []
    while left and len(chosen) < most:
        best = max(left, key=lambda i: (worths[i] * (0.05 + far[i]), -i))
        left.discard(best)
        chosen.append(best)
        for i in left:
            far[i] = min(far[i], 1.0 - likeness(of[i], of[best]))
    return chosen
