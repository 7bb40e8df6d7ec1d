"""Which of several plans answered rows best that none of them had learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from model_builder.classify import metrics

_NOISE: Final = 1.0
"""Standard errors of a difference within which the plan that comes first is taken: the best of
several that are alike looks better than it is by about as much."""

_LEAST: Final = 0.005
"""Likelihood below which a wrong answer is as wrong as any."""


class Score(msgspec.Struct):
    """What came of a plan.

    Attributes:
        values: float64 [N]: of each row, 1 for a right answer, less its surprise in nats.
        accuracy: share of right answers.
        surprise: mean negative log-likelihood under the best temperature, in nats.
    """

    values: NDArray[np.float64]
    accuracy: float
    surprise: float

    @property
    def mean(self) -> float:
        """Of the values."""
        return float(self.values.mean())


def score(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> Score:
    """Judges answers float32 [N, C]; right answers often tie on few rows, likelihoods do not."""
    temperature, surprise = temperature_and_surprise(logits, targets)
    likely = metrics.softmax(logits, temperature)[np.arange(len(targets)), targets]
    right = logits.argmax(axis=1) == targets
    # Near the best temperature the logarithm hardly changes with it; the likelihood does.
    values = right + np.log(np.maximum(likely, _LEAST))
    return Score(values, round(float(right.mean()), 5), surprise)


def best(scores: Sequence[Score]) -> int:
    """The best of them; the first of those that are worse by less than chance, rows paired."""
    means = [found.mean for found in scores]
    top = scores[int(np.argmax(means))]
    for place, found in enumerate(scores):
        behind = top.values - found.values
        error = float(behind.std()) / np.sqrt(len(behind))
        if behind.mean() <= _NOISE * error:
            return place
    return int(np.argmax(means))


def temperature_and_surprise(
    logits: NDArray[np.float32], targets: NDArray[np.int64]
) -> tuple[float, float]:
    """The best temperature on these rows, and the mean negative log-likelihood under it."""
    best = (1.0, np.inf)
    for temperature in np.geomspace(0.25, 8, 21):
        shares = metrics.softmax(logits, float(temperature))
        loss = -np.log(np.maximum(shares[np.arange(len(targets)), targets], 1e-9)).mean()
        if loss < best[1]:
            best = (float(temperature), float(loss))
    return best
