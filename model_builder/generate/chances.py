"""How often answers of one confidence are right: fitted on validation, told of the test.

A generator's own confidence, the mean probability of a token, is no chance of being right: one
wrong word of many hardly moves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.isotonic import IsotonicRegression

from contracts.answers import Generated
from contracts.chances import Knot, chance
from model_builder.generate.evaluate import run_generator
from model_builder.generate.pairs import Pair

LEAST_PAIRS = 100
"""With fewer nothing is fitted."""
MOST_PAIRS = 1500
"""Of a split, that are asked."""

_GROUP = 30
_MOST_KNOTS = 12
_BINS = 10

Judged = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]
"""Confidences ``[n]``, and whether each answer is right ``[n]``."""


def judged(
    bundle: Path,
    pairs: Sequence[Pair],
    max_tokens: int,
    asked: Callable[[str], Any] = lambda prompt: prompt,
    is_right: Callable[[Generated, Pair], bool] = lambda found, pair: found.text == pair.completion,
) -> Judged:
    """Answers of a bundle that is not calibrated, by the program that devices run.

    An answer that failed has no confidence, and is left out.
    """
    pairs = pairs[:MOST_PAIRS]
    prompts = [asked(pair.prompt) for pair in pairs]
    answers = run_generator(bundle, prompts, max_tokens, confident=True) if pairs else []
    both = [
        (one.confidence, is_right(one, pair))
        for one, pair in zip(answers, pairs, strict=True)
        if one is not None and one.confidence is not None
    ]
    return np.array([c for c, _ in both], np.float64), np.array([r for _, r in both], np.bool_)


def fitted(found: Judged) -> list[Knot]:
    """Knots of a map that never falls; none where there are too few answers.

    Groups of equal size have their mean confidence and their share of right answers, with one
    right and one wrong answer more, so that none is certain; isotonic regression joins groups
    that fall. Below the least sure group the map goes to 0 at 0: of less nobody knows.
    """
    confidences, right = found
    if len(confidences) < LEAST_PAIRS:
        return []
    order = np.argsort(confidences, kind="stable")
    groups = np.array_split(order, min(_MOST_KNOTS, len(order) // _GROUP))
    at = np.array([confidences[group].mean() for group in groups])
    shares = np.array([(right[group].sum() + 1) / (len(group) + 2) for group in groups])
    sizes = [len(group) for group in groups]
    level = IsotonicRegression().fit(at, shares, sizes).predict(at)
    knots = dict(zip(at.round(6).tolist(), level.round(4).tolist(), strict=True))
    return sorted({0.0: 0.0, **knots}.items())


def reliability(found: Judged, knots: Sequence[Knot]) -> dict[str, Any]:
    """What the map is worth on other answers than it was fitted to.

    Returns:
        ``ece``: expected calibration error, the mean distance of chance and share of right
        answers over bins of 0.1, by their size; ``ece_before``: of the confidences themselves;
        ``bins``: those with answers.
    """
    confidences, right = found
    chances = np.array([chance(knots, c) for c in confidences]) if knots else confidences
    rows = []
    for number in range(_BINS):
        inside = _bin(chances) == number
        if inside.any():
            rows.append(
                {
                    "from": number / _BINS,
                    "pairs": int(inside.sum()),
                    "chance": round(float(chances[inside].mean()), 4),
                    "right": round(float(right[inside].mean()), 4),
                }
            )
    return {
        "pairs": len(right),
        "ece_before": _error(confidences, right),
        "ece": _error(chances, right),
        "bins": rows,
    }


def _bin(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.minimum((values * _BINS).astype(np.int64), _BINS - 1)


def _error(chances: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> float:
    total = sum(
        abs(chances[inside].sum() - right[inside].sum())
        for inside in (_bin(chances) == number for number in range(_BINS))
    )
    return round(float(total) / max(1, len(right)), 4)
