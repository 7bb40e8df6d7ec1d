"""Who the student of ``family: auto`` learns from: the recipe's teacher, and TF-IDF beside it.

Each is made as sure as it may be by a temperature of its own (C. Guo et al., "On Calibration of
Modern Neural Networks", 2017) before one is weighed against the other: a teacher that was trained
with smoothed labels is right more often than it says, and lost to TF-IDF for that alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from model_builder.classify import metrics
from model_builder.classify.choice import score, temperature_and_surprise
from model_builder.data.dataset import Dataset, Split
from model_builder.recipes.classify import Recipe
from model_builder.seeds import derive, some_of_each
from model_builder.teachers.base import Progress
from model_builder.teachers.counted import CountedTeacher
from model_builder.teachers.resolve import make_teacher

_MOST_COUNTED: Final = 30_000
"""Rows that TF-IDF learns from; beyond them it costs minutes."""

_SHARES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)

Parts = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Logits of the teacher and of TF-IDF, float32 [N, C] each."""


class Weights(msgspec.Struct, frozen=True):
    """How the two are put together.

    Attributes:
        share: of TF-IDF.
        own: temperature of the teacher.
        counted: temperature of TF-IDF.
    """

    share: float
    own: float = 1.0
    counted: float = 1.0


class Masters:
    """The recipe's teacher and TF-IDF, of which validation says how much counts."""

    def __init__(self, recipe: Recipe, dataset: Dataset, cache: Path, progress: Progress) -> None:
        self.classes = len(dataset.labels)
        self.teacher = make_teacher(recipe, dataset, cache, progress)
        self.counted = CountedTeacher(self.classes)
        chosen = some_of_each(dataset.train.targets, _MOST_COUNTED, derive(recipe.seed, "counted"))
        progress("counts words", 0, 1)
        self.counted.train([dataset.train.texts[i] for i in chosen], dataset.train.targets[chosen])
        progress("counts words", 1, 1)
        self.weights = Weights(1.0 if self.teacher is None else 0.0)

    def choose(self, split: Split) -> list[dict[str, Any]]:
        """Chooses the weights by a split that neither has seen."""
        if self.teacher is None or not self.teacher.open_ended:
            return []
        self.weights, rows = best_weights(self.parts(split.texts), split.targets)
        return rows

    def shares(self, texts: list[str]) -> NDArray[np.float32]:
        """Probabilities float32 [N, C] of the two together."""
        if self.teacher is None:
            return self.counted.shares(texts)
        return _mixed(self.parts(texts), self.weights)

    def parts(self, texts: list[str]) -> Parts:
        """What each of them says."""
        assert self.teacher is not None
        counted = np.log(np.maximum(self.counted.shares(texts), 1e-9))
        return self.teacher.logits(texts), np.asarray(counted, np.float32)


def best_weights(parts: Parts, targets: NDArray[np.int64]) -> tuple[Weights, list[dict[str, Any]]]:
    """The weights that answer these rows best, and what was tried."""
    own, counted = (temperature_and_surprise(part, targets)[0] for part in parts)
    rows, values = [], []
    for share in _SHARES:
        mixed = _mixed(parts, Weights(share, own, counted))
        found = score(np.log(np.maximum(mixed, 1e-9)), targets)
        values.append(found.mean)
        rows.append(
            {
                "tfidf_share": share,
                "surprise": round(found.surprise, 4),
                "validation": round(found.accuracy, 4),
            }
        )
    return Weights(_SHARES[int(np.argmax(values))], own, counted), rows


def _mixed(parts: Parts, weights: Weights) -> NDArray[np.float32]:
    own = metrics.softmax(parts[0], weights.own)
    counted = metrics.softmax(parts[1], weights.counted)
    return np.asarray((1 - weights.share) * own + weights.share * counted, np.float32)
