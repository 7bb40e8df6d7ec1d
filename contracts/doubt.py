"""How likely an answer is wrong, by the model's own confidence and by what people said of it. Pure.

A correction does not outweigh everything: where one verdict in ten is wrong and most answers are
right, every third correction is of a right answer, and mostly of frequent texts.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

TELLS: Final = 9.0
"""How much more likely a wrong answer is called wrong than a right one: one verdict in ten errs."""

_LEAST: Final = 0.02
_MOST_CORRECTIONS: Final = 3


def doubt(confidence: float, reasons: Collection[str], corrected: int) -> float:
    """The chance that an answer is wrong, 0 to 1 (Bayes).

    Args:
        confidence: of the model, calibrated.
        reasons: why its device kept it.
        corrected: how many devices had it corrected.
    """
    wrong = 1.0 - confidence
    if "near-threshold" in reasons:
        wrong = max(wrong, 0.5)
    if "shadow-disagrees" in reasons:
        wrong = max(wrong, 0.7)
    wrong = min(max(wrong, _LEAST), 1 - _LEAST)
    odds = wrong / (1 - wrong) * TELLS ** min(max(corrected, 0), _MOST_CORRECTIONS)
    return odds / (1 + odds)
