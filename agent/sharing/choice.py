"""Which hard examples to give away where only some may leave: those that tell the most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from agent.serving.examples import Example
from contracts.doubt import doubt
from contracts.likeness import spread

MAX_LOOKED_AT: Final = 500
"""Examples that are compared with each other, the hardest first."""


def worth(example: Example) -> float:
    """How likely it was answered wrong, and how often it came."""
    hard = doubt(example.confidence, example.reasons, int("corrected" in example.reasons))
    return (0.05 + hard) * (1.0 + math.log2(max(1, example.times)))


def choose(examples: Sequence[Example], most: int) -> list[Example]:
    """The most telling ones, each unlike those before it; the most telling first."""
    ordered = sorted(examples, key=lambda one: (-worth(one), one.at, one.text))[:MAX_LOOKED_AT]
    found = spread([one.text for one in ordered], [worth(one) for one in ordered], most)
    return [ordered[place] for place in found]
