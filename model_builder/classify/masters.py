"""Who the student of ``family: auto`` learns from: the recipe's teacher, and TF-IDF beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_builder.classify import metrics
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
        self.share = 1.0 if self.teacher is None else 0.0

    def choose(self, split: Split) -> list[dict[str, Any]]:
        """Chooses TF-IDF's share by the likelihood of a split that neither has seen."""
        if self.teacher is None or not self.teacher.open_ended:
            return []
        self.share, rows = best_share(self.parts(split.texts), split.targets)
        return rows

    def shares(self, texts: list[str]) -> NDArray[np.float32]:
        """Probabilities float32 [N, C] of the two together."""
        if self.teacher is None:
            return self.counted.shares(texts)
        return _mixed(self.parts(texts), self.share)

    def parts(self, texts: list[str]) -> Parts:
        """Probabilities of the teacher and of TF-IDF, float32 [N, C] each."""
        assert self.teacher is not None
        own = metrics.softmax(self.teacher.logits(texts), 1.0).astype(np.float32)
        return own, self.counted.shares(texts)


def best_share(parts: Parts, targets: NDArray[np.int64]) -> tuple[float, list[dict[str, Any]]]:
    """TF-IDF's share by the likelihood of rows that neither has seen, and what was tried."""
    rows = []
    for share in _SHARES:
        mixed = _mixed(parts, share)
        likely = mixed[np.arange(len(mixed)), targets]
        rows.append(
            {
                "tfidf_share": share,
                "surprise": round(float(-np.log(np.maximum(likely, 1e-9)).mean()), 4),
                "validation": round(metrics.accuracy(mixed, targets), 4),
            }
        )
    return float(min(rows, key=lambda row: row["surprise"])["tfidf_share"]), rows


def _mixed(parts: Parts, share: float) -> NDArray[np.float32]:
    return np.asarray((1 - share) * parts[0] + share * parts[1], np.float32)
