"""Cross-validation of a whole recipe: what a small test split is too small to tell.

Each fold trains teacher and student anew on the other folds and answers for its own rows, so that
every row is judged by a model that never saw it (M. Stone, "Cross-validatory choice", 1974).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.labelled.rows import Row
from model_builder.classify.distil import Student, distil, soft_labels
from model_builder.data.dataset import Dataset, Split
from model_builder.data.split import split_off
from model_builder.recipes.classify import Recipe
from model_builder.seeds import derive
from model_builder.teachers.base import Progress
from model_builder.teachers.resolve import make_teacher

BELOW_ROWS = 1000
"""With fewer rows in all, the report's figures are cross-validated."""

_MOST_FOLDS_ROWS = 400
"""With more rows, three folds do: each costs a training."""


class Judged(msgspec.Struct):
    """Answers of int8 models to rows that they were not trained on.

    Attributes:
        texts: of the rows.
        targets: int64 [N].
        logits: float32 [N, C].
        how: in words.
        folds: 0: one model, on the test split.
        whole: whether the rows of the test split are among them.
    """

    texts: list[str]
    targets: NDArray[np.int64]
    logits: NDArray[np.float32]
    how: str
    folds: int = 0
    whole: bool = True

    def joined(self, split: Split, logits: NDArray[np.float32]) -> Judged:
        """With the rows of a test split, which the model that is built answered."""
        return Judged(
            self.texts + split.texts,
            np.concatenate([self.targets, split.targets]),
            np.concatenate([self.logits, logits]),
            f"{self.how} over {len(self.texts)} rows, and on the test split of {len(split.texts)}",
            self.folds,
        )


def folds_of(recipe: Recipe, dataset: Dataset) -> int:
    """How many folds a build needs; 0: its test split is large enough, or the recipe says no.

    Real rows beside written text are judged by alone, however few, and never learned.
    """
    if recipe.data.written is not None and recipe.data.test:
        return 0
    rows = sum(len(part.texts) for part in (dataset.train, dataset.validation, dataset.test))
    if rows >= BELOW_ROWS or not recipe.evaluation.folds:
        return 0
    return recipe.evaluation.folds if rows <= _MOST_FOLDS_ROWS else min(3, recipe.evaluation.folds)


def assign(rows: list[Row], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each row: int64 [N]. A group stays together; labels are spread evenly."""
    by_label: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        group = row.group or row.text
        if group not in by_label[row.label]:
            by_label[row.label].append(group)
    rng = np.random.default_rng(seed)
    found: dict[str, int] = {}
    sizes: Counter[int] = Counter(dict.fromkeys(range(folds), 0))
    for label in sorted(by_label):
        names = by_label[label]
        for place in rng.permutation(len(names)):
            if names[place] not in found:
                fold = min(sizes, key=lambda number: (sizes[number], number))
                found[names[place]] = fold
                sizes[fold] += 1
    return np.array([found[row.group or row.text] for row in rows], np.int64)


Train = Callable[[Recipe, Dataset, Path, Progress], Student]
"""Trains teacher and student of a recipe on a dataset."""


def trained(recipe: Recipe, dataset: Dataset, cache: Path, progress: Progress) -> Student:
    """The student of a recipe whose shape is fixed."""
    teacher = make_teacher(recipe, dataset, cache, progress)
    labels = soft_labels(recipe, dataset, teacher)
    return distil(recipe, dataset, labels, teacher, cache, progress)


def cross_validate(
    recipe: Recipe,
    dataset: Dataset,
    cache: Path,
    progress: Progress,
    folds: int,
    train: Train = trained,
) -> Judged:
    """Trains and judges each fold.

    Args:
        recipe: what is built; a search has chosen by now.
        dataset: all its splits are used.
        cache: folder of the checkpoints.
        progress: is told of long work.
        folds: at least two.
        train: makes the student of a fold.
    """
    rows = [
        Row(text, dataset.labels[int(target)], group)
        for part in (dataset.train, dataset.validation, dataset.test)
        for text, target, group in zip(part.texts, part.targets, part.groups, strict=True)
    ]
    index = {label: i for i, label in enumerate(dataset.labels)}
    fold_of = assign(rows, folds, derive(recipe.seed, "folds"))
    logits = np.zeros((len(rows), len(dataset.labels)), np.float32)
    for fold in range(folds):
        progress("cross-validates", fold, folds)
        held = fold_of == fold
        rest = [row for row, out in zip(rows, held, strict=True) if not out]
        learned, held_back = split_off(rest, recipe.split.validation, recipe.seed, f"fold {fold}")
        own = [row for row, out in zip(rows, held, strict=True) if out]
        part = msgspec.structs.replace(
            dataset,
            train=split_of(learned, index),
            validation=split_of(held_back or learned, index),
            test=split_of(own, index),
        )
        student = train(recipe, part, cache, progress)
        rng = np.random.default_rng(derive(recipe.seed, f"representative {fold}"))
        logits[held] = student.convert(recipe, rng).logits(part.test.texts)
    progress("cross-validates", folds, folds)
    targets = np.array([index[row.label] for row in rows], np.int64)
    how = f"by cross-validation in {folds} folds over {len(rows)} rows"
    return Judged([row.text for row in rows], targets, logits, how, folds)


def split_of(rows: list[Row], index: dict[str, int]) -> Split:
    """Rows as a split of a dataset."""
    return Split(
        [row.text for row in rows],
        np.array([index[row.label] for row in rows], np.int64),
        [row.group for row in rows],
    )
