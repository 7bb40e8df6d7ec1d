"""How long things take, and the learning rate of a step: warm-up, then cosine decay."""

from __future__ import annotations

from typing import Final

import numpy as np

_ROWS: Final = (60, 300, 15_000, 120_000)
_SECONDS: Final = (90.0, 150.0, 750.0, 3000.0)
"""What a build may take with so many rows, on two quiet cores."""

_TOKENS_LEARNED: Final = 900
"""Tokens that a teacher of the default size learns from, a second of a build's time: about
2,000 in a second, and that for less than half of the time."""


def schedule(step: int, steps: int, peak: float) -> float:
    """Learning rate of a step: 5 % linear warm-up, then cosine to zero."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return float(peak * 0.5 * (1 + np.cos(np.pi * (step - warm) / max(1, steps - warm))))


def seconds_for(rows: int) -> float:
    """What a build may take on two quiet cores."""
    return float(np.exp(np.interp(np.log(max(1, rows)), np.log(_ROWS), np.log(_SECONDS))))


def passes(rows: int, tokens: float, share: float = 1.0) -> float:
    """Passes over the rows that a fine-tuning takes; below 1: over a part of them.

    Args:
        rows: of the training split.
        tokens: in all of them.
        share: of the time that a build has for its teachers.
    """
    most = min(16.0, max(4.0, 10_000 / rows))
    return min(most, _TOKENS_LEARNED * share * seconds_for(rows) / max(1, tokens))
