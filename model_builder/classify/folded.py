"""Few rows: what is found is found by cross-validation, since a small split says next to nothing.

Each part of the rows is answered by teachers and students that learned the others. Those answers
choose TF-IDF's share and the plan, and they are the report's figures too; no further training
is needed for them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from model_builder.classify.choice import Score, best, score
from model_builder.classify.crossvalidation import BELOW_ROWS, Judged
from model_builder.classify.lessons import (
    Lesson,
    counted,
    facts_of,
    lesson_of,
    train_plan,
    with_validation,
)
from model_builder.classify.masters import Masters, Weights, best_weights
from model_builder.classify.plans import MANY, Plan
from model_builder.data.dataset import Dataset, Split
from model_builder.recipes.classify import Recipe
from model_builder.schedule import passes
from model_builder.seeds import derive
from model_builder.students.ids import encode
from model_builder.teachers.base import Progress

_FOLDS: Final = 3
_PART: Final = 0.4
"""Of a fold's fine-tuning, beside that of all rows."""

_MADE: Final = 0.25
"""Made text of a fold, as a share of the whole build's."""

_STEPS: Final = (0.5, 0.2)
"""Part of its steps that a plan is trained for in a fold: few labels, many labels."""


class Folded(msgspec.Struct):
    """What cross-validation says.

    Attributes:
        every: the rows that the student may learn.
        recipe: with a teacher that learns for as long as there is time.
        plan: the chosen one.
        weights: of the teacher and TF-IDF.
        shares: what was tried for them.
        tried: what came of each plan, the best first.
        score: of the chosen plan.
        judged: the rows that were answered, and the chosen plan's answers.
        held: its answers to the validation rows.
    """

    every: Dataset
    recipe: Recipe
    plan: Plan
    weights: Weights
    shares: list[dict[str, Any]]
    tried: list[dict[str, Any]]
    score: Score
    judged: Judged
    held: NDArray[np.float32]


class _Part(msgspec.Struct):
    """One fold: `held` are its rows among all."""

    held: NDArray[np.bool_]
    dataset: Dataset
    masters: Masters


def few(dataset: Dataset) -> bool:
    """Whether a split is too small to choose by; a label's single row cannot be held back."""
    rows = len(dataset.train.texts) + len(dataset.validation.texts)
    return rows < BELOW_ROWS and bool((folds_of(dataset.train, 0) >= 0).any())


def folds_of(split: Split, seed: int) -> NDArray[np.int64]:
    """The fold of each row, int64 [N]; -1: of a label's only group, which is always learned.

    A group stays together, and no fold holds all groups of a label.
    """
    groups: dict[int, list[str]] = defaultdict(list)
    names = [
        (split.groups[i] if split.groups else "") or text for i, text in enumerate(split.texts)
    ]
    label_of: dict[str, int] = {}
    for name, target in zip(names, split.targets.tolist(), strict=True):
        if label_of.setdefault(name, target) == target and name not in groups[target]:
            groups[target].append(name)
    fold: dict[str, int] = {}
    first = 0
    for target in sorted(groups):
        own = sorted(groups[target], key=lambda name: _hashed(seed, name))
        for place, name in enumerate(own):
            fold[name] = (first + place) % _FOLDS if len(own) > 1 else -1
        first += len(own)
    return np.array([fold[name] for name in names], np.int64)


def _hashed(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "replace")).digest()


def by_folds(
    recipe: Recipe, dataset: Dataset, tried: list[Plan], cache: Path, progress: Progress
) -> Folded:
    """Chooses the teacher's share and the plan.

    Args:
        recipe: what is built.
        dataset: its training rows; its validation rows too, unless they are a file of their own.
        tried: the plans, the likeliest first.
        cache: folder of the checkpoints.
        progress: is told of long work.
    """
    every = dataset if recipe.data.validation else with_validation(dataset)
    rows = every.train
    fold_of = folds_of(rows, derive(recipe.seed, "folds"))
    parts: list[_Part] = []
    for fold in range(_FOLDS):
        held = fold_of == fold
        if not held.any():
            continue
        others = msgspec.structs.replace(
            every, train=_subset(rows, ~held), validation=_subset(rows, held)
        )
        word = partial(_named, progress, f"part {fold + 1} of {_FOLDS}")
        own = _paced(recipe, others, _PART / (1 + _FOLDS * _PART))
        parts.append(_Part(held, others, Masters(own, others, cache, word)))
    weights, shares = _weighed(parts)
    lessons: list[Lesson] = []
    for part in parts:
        part.masters.weights = weights
        lessons.append(lesson_of(recipe, part.dataset, part.masters, _MADE))
    judged = fold_of >= 0
    answers: list[NDArray[np.float32]] = []
    scores: list[Score] = []
    done, many = 0, len(every.labels) > MANY
    total = sum(_steps(plan, many) for plan in tried) * len(parts)
    for plan in tried:
        logits = np.zeros((len(rows.texts), len(every.labels)), np.float32)
        for part, lesson in zip(parts, lessons, strict=True):
            told = partial(counted, progress, f"tries {len(tried)} plans", done, total)
            bag = train_plan(recipe, lesson, plan, _steps(plan, many), cache, told)
            done += _steps(plan, many)
            logits[part.held] = bag.logits(
                encode(part.dataset.validation.texts, plan.shape.features)
            )
        answers.append(logits)
        scores.append(score(logits[judged], rows.targets[judged]))
    chosen = best(scores)
    order = sorted(range(len(tried)), key=lambda i: (i != chosen, -scores[i].mean))
    place = {text: i for i, text in enumerate(rows.texts)}
    logits = answers[chosen]
    where = np.array([place.get(text, -1) for text in dataset.validation.texts], np.int64)
    return Folded(
        every=every,
        recipe=_paced(recipe, every, 1 / (1 + _FOLDS * _PART)),
        plan=tried[chosen],
        weights=weights,
        shares=shares,
        tried=[
            {
                "plan": tried[i].name,
                "steps": _steps(tried[i], many),
                "validation": round(scores[i].accuracy, 4),
                "surprise": round(scores[i].surprise, 4),
                "score": round(scores[i].mean, 4),
            }
            for i in order
        ],
        score=scores[chosen],
        judged=Judged(
            [text for text, known in zip(rows.texts, judged, strict=True) if known],
            rows.targets[judged],
            logits[judged],
            f"by cross-validation in {_FOLDS} folds",
            _FOLDS,
            whole=False,
        ),
        held=logits[where],
    )


def _steps(plan: Plan, many: bool) -> int:
    if plan.linear:
        return plan.fit.steps
    return max(100, int(plan.fit.steps * _STEPS[many]))


def _named(progress: Progress, part: str, what: str, done: int, total: int) -> None:
    progress(f"{part}: {what}", done, total)


def _subset(split: Split, chosen: NDArray[np.bool_]) -> Split:
    places = np.nonzero(chosen)[0]
    return Split(
        [split.texts[i] for i in places],
        split.targets[places],
        [split.groups[i] for i in places] if split.groups else [],
    )


def _paced(recipe: Recipe, dataset: Dataset, share: float) -> Recipe:
    """The recipe with the passes that a share of the teachers' time allows."""
    teacher = recipe.teacher
    if teacher.epochs or teacher.mode != "finetune":
        return recipe
    count = len(dataset.train.texts)
    text = min(float(teacher.max_tokens), facts_of(dataset).tokens)
    epochs = max(1, round(passes(count, count * text, share)))
    return msgspec.structs.replace(recipe, teacher=msgspec.structs.replace(teacher, epochs=epochs))


def _weighed(parts: list[_Part]) -> tuple[Weights, list[dict[str, Any]]]:
    """The weights by all that was held back."""
    masters = parts[0].masters
    if masters.teacher is None or not masters.teacher.open_ended:
        return masters.weights, []
    found = [part.masters.parts(part.dataset.validation.texts) for part in parts]
    targets = np.concatenate([part.dataset.validation.targets for part in parts])
    own, counted = (np.concatenate([pair[side] for pair in found]) for side in (0, 1))
    return best_weights((own, counted), targets)
