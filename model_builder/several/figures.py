"""Figures of a classifier of several labels, and the cuts of its int8 outputs.

A cut is an integer that an output must reach, so that every device gives the same labels. All
labels share the one of highest F1 on the validation rows; a label of which these have many texts
has its own. Where the rows have next to no labels it stands at a chance of one half.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LEAST_EVIDENCE: Final = 8
"""Labels that validation rows must have to choose a cut."""

OWN_EVIDENCE: Final = 100
"""Validation texts of a label from which they choose a cut of its own: of fewer it is noise."""

OWN, SHARED, HALF = "highest F1", "highest F1 of all labels", "one half: too few validation texts"

Bools = NDArray[np.bool_]


def surprise(logits: NDArray[Any], targets: Bools, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of all labels of a text, in nats."""
    return float(surprises(logits, targets, temperature).mean())


def surprises(
    logits: NDArray[Any], targets: NDArray[Any], temperature: float = 1.0
) -> NDArray[np.float64]:
    """Of each text: float64 [N]."""
    scaled = np.asarray(logits, np.float64) / temperature
    loss = np.logaddexp(0, scaled) - scaled * targets
    return np.asarray(loss.sum(axis=1), np.float64)


def best_temperature(logits: NDArray[Any], targets: Bools) -> float:
    """The temperature with the least surprise, by golden-section search.

    Targets are smoothed as in :func:`model_builder.classify.metrics.best_temperature`.
    """
    smooth = 1.0 / (len(targets) + 2)
    soft = targets * (1 - 2 * smooth) + smooth

    def loss(log_t: float) -> float:
        return float(surprises(logits, soft, math.exp(log_t)).mean())

    low, high = math.log(0.05), math.log(20.0)
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return round(math.exp((low + high) / 2), 4)


def best_cut(
    scores: NDArray[Any], targets: Bools, usual: float, least: int = LEAST_EVIDENCE
) -> float | None:
    """The score of highest F1 from which a text has the label; None: too little evidence.

    Of a range of equal F1 it is the score nearest to `usual`.

    Args:
        scores: [N] of one label.
        targets: bool [N].
        usual: where the cut is without evidence.
        least: texts of the label that are evidence.
    """
    there = int(targets.sum())
    if there < least:
        return None
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    hits = np.cumsum(targets[order])
    ends = np.append(ranked[1:] != ranked[:-1], True)  # texts of one score are told apart by none
    said = np.arange(1, len(scores) + 1)
    f1 = np.where(ends, 2 * hits / (said + there), -1.0)
    place = int(np.argmax(f1))
    high = float(ranked[place])
    low = float(ranked[place + 1]) if place + 1 < len(ranked) else high - 2
    # Anything above `low`, up to `high`, gives these labels.
    return min(high, max(usual, (low + high) / 2))


def best_cuts(scores: NDArray[Any], targets: Bools, usual: float) -> tuple[list[float], list[str]]:
    """The cut of each label, and how it was chosen.

    Args:
        scores: [N, C] of validation rows, of one scale.
        targets: bool [N, C].
        usual: where a chance of one half is.
    """
    shared = best_cut(scores.ravel(), targets.ravel(), usual)
    common, how_common = (usual, HALF) if shared is None else (shared, SHARED)
    found, how = [], []
    for label in range(targets.shape[1]):
        own = best_cut(scores[:, label], targets[:, label], common, OWN_EVIDENCE)
        found.append(common if own is None else own)
        how.append(how_common if own is None else OWN)
    return found, how


def cuts(outputs: NDArray[np.int8], targets: Bools, zero_point: int) -> tuple[list[int], list[str]]:
    """The same of int8 outputs, as integers.

    Args:
        outputs: int8 [N, C] of validation rows.
        targets: bool [N, C].
        zero_point: the output of a chance of one half.
    """
    usual = min(127, max(-127, zero_point))
    found, how = best_cuts(outputs.astype(np.float64), targets, usual)
    return [min(127, max(-127, math.ceil(cut))) for cut in found], how


def figures(said: Bools, targets: Bools) -> dict[str, Any]:
    """Micro and macro F1, and how often all labels of a text are right.

    The mean over labels is over those that the rows have.
    """
    hit = (said & targets).sum(axis=0)
    f1 = _ratio(2 * hit, said.sum(axis=0) + targets.sum(axis=0))
    there = targets.any(axis=0)
    exact = (said == targets).all(axis=1)
    return {
        "micro_f1": round(float(_ratio(2 * hit.sum(), said.sum() + targets.sum())), 4),
        "macro_f1": round(float(f1[there].mean()) if there.any() else 0.0, 4),
        "micro_precision": round(float(_ratio(hit.sum(), said.sum())), 4),
        "micro_recall": round(float(_ratio(hit.sum(), targets.sum())), 4),
        "exact": round(float(exact.mean()), 4),
        "labels_judged": int(there.sum()),
        "labels_a_text": round(float(said.sum(axis=1).mean()), 3),
        "none": round(float((~said.any(axis=1)).mean()), 4),
        "wrong_labels_a_text": round(float((said != targets).sum(axis=1).mean()), 4),
    }


def row_f1(said: Bools, targets: Bools) -> NDArray[np.float64]:
    """F1 of each text, float64 [N]; 1 where none is right and none was given."""
    both = said.sum(axis=1) + targets.sum(axis=1)
    return np.where(both > 0, 2 * (said & targets).sum(axis=1) / np.maximum(both, 1), 1.0)


def interval(said: Bools, targets: Bools, seed: int, draws: int = 400) -> tuple[float, float]:
    """95 % interval of micro F1, by drawing the texts again."""
    rng = np.random.default_rng(seed)
    hit = 2 * (said & targets).sum(axis=1)
    both = said.sum(axis=1) + targets.sum(axis=1)
    found = []
    for _ in range(draws):
        chosen = rng.integers(0, len(hit), len(hit))
        found.append(float(_ratio(hit[chosen].sum(), both[chosen].sum())))
    low, high = np.quantile(found, [0.025, 0.975])
    return round(float(low), 4), round(float(high), 4)


def per_label(
    said: Bools, targets: Bools, labels: list[str], thresholds: list[float], how: list[str]
) -> list[dict[str, Any]]:
    """Precision, recall, F1, support and threshold of each label."""
    rows = []
    for index, label in enumerate(labels):
        own, true = said[:, index], targets[:, index]
        hit = int((own & true).sum())
        rows.append(
            {
                "label": label,
                "precision": round(float(_ratio(hit, own.sum())), 4),
                "recall": round(float(_ratio(hit, true.sum())), 4),
                "f1": round(float(_ratio(2 * hit, own.sum() + true.sum())), 4),
                "support": int(true.sum()),
                "given": int(own.sum()),
                "threshold": thresholds[index],
                "chosen_by": how[index],
            }
        )
    return rows


def ece(chances: NDArray[Any], targets: Bools, bins: int = 15) -> float:
    """Expected calibration error over all labels of all texts."""
    flat, true = chances.ravel(), targets.ravel()
    place = np.minimum((flat * bins).astype(int), bins - 1)
    error = 0.0
    for index in range(bins):
        inside = place == index
        if inside.any():
            error += abs(true[inside].mean() - flat[inside].mean()) * inside.mean()
    return float(error)


def _ratio(part: Any, whole: Any) -> Any:
    return np.where(np.asarray(whole) > 0, part / np.maximum(whole, 1), 0.0)
