"""How long things take, and the learning rate of a step: warm-up, then cosine decay."""

from __future__ import annotations

from typing import Final

import numpy as np

_TOKENS_LEARNED: Final = 1000
"""Tokens that a teacher of the default size learns from in a second of a build's time."""


def schedule(step: int, steps: int, peak: float) -> float:
    """Learning rate of a step: 5 % linear warm-up, then cosine to zero."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return float(peak * 0.5 * (1 + np.cos(np.pi * (step - warm) / max(1, steps - warm))))


def seconds_for(rows: int) -> float:
    """What a build may take on two quiet cores: with the root of the rows, a minute at least."""
    return max(60.0, 110.0 * float(np.sqrt(rows / 300)))


def passes(rows: int, tokens: int) -> float:
    """Passes over the rows that a fine-tuning takes; below 1: over a part of them.

    Args:
        rows: of the training split.
        tokens: in all of them.
    """
    most = min(30.0, max(4.0, 10_000 / rows))
    return min(most, _TOKENS_LEARNED * seconds_for(rows) / max(1, tokens))
