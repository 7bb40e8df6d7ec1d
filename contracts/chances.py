"""From a generator's confidence to the chance that its answer is right: knots of a map."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import msgspec

from contracts.errors import InputError

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

Knot = tuple[_Share, _Share]
"""A confidence and the chance there, both from 0 to 1."""


def check(knots: Sequence[Knot]) -> None:
    """Raises ``InputError`` ``bad-manifest`` unless confidences ascend and chances do not fall."""
    for (low, below), (high, above) in pairwise(knots):
        if not (low < high and below <= above):
            raise InputError(
                "bad-manifest", "calibration: confidences must ascend and chances must not fall"
            )


def chance(knots: Sequence[Knot], confidence: float) -> float:
    """The chance at a confidence: linear between knots, that of the nearest outside them."""
    at = bisect_right(knots, confidence, key=lambda knot: knot[0])
    if at in (0, len(knots)):
        return knots[max(at - 1, 0)][1]
    (low, below), (high, above) = knots[at - 1], knots[at]
    return below + (above - below) * (confidence - low) / (high - low)
