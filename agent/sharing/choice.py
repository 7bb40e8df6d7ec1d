"""Which hard examples to give away where only some may leave: those that tell the most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from agent.serving.examples import Example
from contracts.likeness import spread

MAX_LOOKED_AT: Final = 500
"""Examples that are compared with each other, the hardest first."""


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
    """The most telling ones, each unlike those before it; the most telling first."""
    ordered = sorted(examples, key=lambda one: (-worth(one), one.at, one.text))[:MAX_LOOKED_AT]
    found = spread([one.text for one in ordered], [worth(one) for one in ordered], most)
    return [ordered[place] for place in found]
