"""Figures of a classifier: accuracy, per class, calibration, out of scope.

ECE: C. Guo et al., "On Calibration of Modern Neural Networks" (2017), 15 equal bins.
Confidence interval: E. B. Wilson (1927); of a difference of paired answers: normal
approximation of McNemar's table.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

LEAST_OUTSIDE: Final = 20
"""Out-of-scope texts from which they choose the threshold."""


def softmax(logits: NDArray[Any], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities [N, C] of logits [N, C]."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)


def sigmoid(values: NDArray[Any]) -> NDArray[np.float64]:
    """Chances of logits of any shape, without an overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * np.asarray(values, np.float64))), np.float64)


def accuracy(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    """Share of rows whose best label is the target; nan for no rows."""
    return float((logits.argmax(axis=1) == targets).mean()) if len(targets) else math.nan


def wilson(rate: float, count: int) -> tuple[float, float]:
    """95 % interval of a rate seen on `count` rows."""
    if not count:
        return 0.0, 1.0
    rate, z = float(rate), 1.96
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def paired_difference(
    new: NDArray[np.bool_], old: NDArray[np.bool_]
) -> tuple[float, tuple[float, float]]:
    """Mean difference of two models' correctness on the same rows, with its 95 % interval."""
    difference = new.astype(np.float64) - old.astype(np.float64)
    mean = float(difference.mean())
    half = 1.96 * float(difference.std()) / math.sqrt(max(1, len(difference)))
    return mean, (mean - half, mean + half)


def ece(probabilities: NDArray[Any], targets: NDArray[Any], bins: int = 15) -> float:
    """Expected calibration error."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == targets
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    error = 0.0
    for index in range(bins):
        inside = place == index
        if inside.any():
            error += abs(correct[inside].mean() - confidence[inside].mean()) * inside.mean()
    return float(error)


def reliability(
    probabilities: NDArray[Any], targets: NDArray[Any], bins: int = 10
) -> list[list[float]]:
    """Per confidence bin: mean confidence, accuracy, count; empty bins are left out."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == targets
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        [
            round(float(confidence[place == b].mean()), 4),
            round(float(correct[place == b].mean()), 4),
            int((place == b).sum()),
        ]
        for b in range(bins)
        if (place == b).any()
    ]


def best_temperature(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    """The temperature with the least negative log-likelihood, by golden-section search.

    The targets are smoothed by one part in N + 2, as J. Platt (1999) does for small sets: a model
    without a mistake on them would else be called infinitely sure.
    """
    smooth = 1.0 / (len(targets) + 2)

    def loss(log_t: float) -> float:
        logs = np.log(np.maximum(softmax(logits, math.exp(log_t)), 1e-12))
        own = logs[np.arange(len(targets)), targets]
        others = (logs.sum(axis=1) - own) / max(1, logs.shape[1] - 1)
        return float(-((1 - smooth) * own + smooth * others).mean())

    low, high = math.log(0.05), math.log(20.0)
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return round(math.exp((low + high) / 2), 4)


def auroc(inside: NDArray[Any], outside: NDArray[Any]) -> float:
    """Chance that a random `inside` score is above a random `outside` one; ties count half."""
    if not len(inside) or not len(outside):
        return math.nan
    scores = np.concatenate([inside, outside])
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2.0)[place]
    n, m = len(inside), len(outside)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


class Threshold(msgspec.Struct, frozen=True):
    """The confidence below which the answer is ``unknown``.

    Attributes:
        value: 0: off.
        how: it was chosen, or why it is off.
        interval: 95 %, by drawing the confidences again; None: too few for one.
        rows: confidences of rows that the model was not trained on.
    """

    value: float
    how: str
    interval: tuple[float, float] | None
    rows: int


def dependable_threshold(
    inside: NDArray[Any], outside: NDArray[Any], reject: float, seed: int = 0
) -> Threshold:
    """:func:`choose_threshold` with its interval, and off where the evidence is too thin.

    Evidence is enough without out-of-scope text where, of new in-scope text, the share that the
    threshold refuses is with 97.5 % certainty below two and a half times `reject` (and 5 %); with
    out-of-scope text where it refuses, with 97.5 % certainty, more of that than of the rest.

    Args:
        inside: confidences of in-scope rows that the model was not trained on.
        outside: the same of out-of-scope text.
        reject: see :func:`choose_threshold`.
        seed: of the draws.
    """
    from scipy.stats import beta

    rows = len(inside)
    if not rows:
        return Threshold(0.0, "off: no confidences of rows outside training", None, 0)
    value, how = choose_threshold(inside, outside, reject)
    rng = np.random.default_rng(seed)
    drawn, gains = [], []
    for _ in range(200):
        own = inside[rng.integers(0, rows, rows)]
        other = outside[rng.integers(0, len(outside), len(outside))] if len(outside) else outside
        drawn.append(choose_threshold(own, other, reject)[0])
        if len(other):
            gains.append(float((other < value).mean() - (own < value).mean()))
    low, high = (round(float(v), 4) for v in np.quantile(drawn, [0.025, 0.975]))
    if len(outside) >= LEAST_OUTSIDE:
        if np.quantile(gains, 0.025) <= 0:
            how = (
                f"off: {len(outside)} out-of-scope texts do not show that the confidence tells "
                "them apart; give more of them"
            )
            return Threshold(0.0, how, (low, high), rows)
        return Threshold(value, how, (low, high), rows)
    below = max(1, int((inside < value).sum()))
    bound = float(beta.ppf(0.975, below, rows - below + 1)) if below <= rows else 1.0
    most = max(0.05, 2.5 * reject)
    if bound > most:
        how = (
            f"off: with {rows} rows it could turn up to {bound:.0%} of good answers into unknown; "
            "give more rows, or text of no label (data.out_of_scope)"
        )
        return Threshold(0.0, how, (low, high), rows)
    return Threshold(value, how, (low, high), rows)


def as_answered(
    confidence: NDArray[Any], right: NDArray[np.bool_], threshold: float
) -> dict[str, float]:
    """How answers turn out where ``unknown`` is one: shares of right, wrong and unknown."""
    given = confidence >= threshold
    return {
        "right": round(float((right & given).mean()), 4),
        "wrong": round(float((~right & given).mean()), 4),
        "unknown": round(float((~given).mean()), 4),
    }


def choose_threshold(
    inside: NDArray[Any], outside: NDArray[Any], reject: float
) -> tuple[float, str]:
    """The confidence below which the answer is ``unknown``.

    With out-of-scope text: the largest Youden index (share of the outside refused minus share
    of the inside refused). Without: the quantile that refuses `reject` of the inside.

    Returns:
        the threshold, and how it was chosen.
    """
    if len(outside) < LEAST_OUTSIDE:
        threshold = min(0.999, math.floor(float(np.quantile(inside, reject)) * 1e4) / 1e4)
        return threshold, f"refuses {reject:.1%} of validation"
    # Rounded down, and never 1: a confidence of 0.9996 must not fall below its own threshold.
    every = np.floor(np.concatenate([inside, outside]) * 1000) / 1000
    candidates = np.unique(np.minimum(np.append(every, every + 0.001), 0.999))
    gains = [(outside < c).mean() - (inside < c).mean() for c in candidates]
    return round(float(candidates[int(np.argmax(gains))]), 4), "out-of-scope text, Youden index"


def per_class(
    predicted: NDArray[Any], targets: NDArray[Any], labels: list[str]
) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support of each label."""
    rows = []
    for index, label in enumerate(labels):
        hit = int(((predicted == index) & (targets == index)).sum())
        said, there = int((predicted == index).sum()), int((targets == index).sum())
        precision = hit / said if said else 0.0
        recall = hit / there if there else 0.0
        total = precision + recall
        rows.append(
            {
                "label": label,
                "precision": round(precision, 4),
                "recall": round(recall, 4),
                "f1": round(2 * precision * recall / total, 4) if total else 0.0,
                "support": there,
            }
        )
    return rows


def confusion(predicted: NDArray[Any], targets: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Counts int64 [C, C]: row is the true label, column the answer."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (targets, predicted), 1)
    return matrix
