"""The learning rate of a step: warm-up, then cosine decay."""

from __future__ import annotations

import numpy as np


def schedule(step: int, steps: int, peak: float) -> float:
    """Learning rate of a step: 5 % linear warm-up, then cosine to zero."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return float(peak * 0.5 * (1 + np.cos(np.pi * (step - warm) / max(1, steps - warm))))
