"""``family: auto``: the shape, the text and the teacher's share are found on validation.

A few plans are trained for a short time and the better ones for longer. All that was trained is
compared, so a training that goes on for too long wins nothing; the best is trained once more, for
as long, on all rows with the validation rows among them. What validation says about the answers'
confidence is taken from before that. Where rows are few, cross-validation stands for validation
(:mod:`model_builder.classify.folded`). The test split is never looked at.

Successive halving: K. Jamieson, A. Talwalkar, "Non-stochastic Best Arm Identification and
Hyperparameter Optimization" (2016).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from model_builder.classify.choice import Score, best, score
from model_builder.classify.crossvalidation import Judged
from model_builder.classify.distil import SoftLabels, TrainedNgram, untrained
from model_builder.classify.folded import by_folds, few
from model_builder.classify.lessons import (
    Lesson,
    counted,
    facts_of,
    lesson_of,
    train_plan,
    with_validation,
)
from model_builder.classify.masters import Masters
from model_builder.classify.plans import MANY, Limits, Plan, limits, plans
from model_builder.data.dataset import Dataset
from model_builder.recipes.classify import Recipe
from model_builder.rounding import common_length
from model_builder.seeds import derive
from model_builder.students.bag import Bag
from model_builder.students.ids import encode
from model_builder.teachers.base import Progress, Teacher

_FIRST: Final = (0.3, 0.15)
"""Part of its steps that every plan is trained for in the first round: few labels, many labels."""

_LEAST_FIRST: Final = 600
"""Steps that the first round does not cut: a short training is seen whole."""

_MOST_FIRST: Final = 20_000
"""Rows, and made texts, of the first round: it ranks plans, and more take minutes to read."""

_MOST_TWICE: Final = (20_000, 5_000)
"""Rows up to which two plans are trained for all of their steps: few labels, many labels."""

_REFIT: Final = 15_000
"""Rows up to which the student learns again with the validation rows, where those were split off
the training rows: beyond them a few more teach nothing. A validation file is never learned."""


class Found(msgspec.Struct):
    """The result.

    Attributes:
        recipe: of the chosen n-gram student.
        student: trained on all rows.
        teacher: the encoder, or whatever the recipe names.
        labels: what the student learned from.
        report: what was tried, what was chosen, and why.
        judged: answers of cross-validation, where rows are few.
    """

    recipe: Recipe
    student: TrainedNgram
    teacher: Teacher | None
    labels: SoftLabels
    report: dict[str, Any]
    judged: Judged | None


class _Chosen(msgspec.Struct):
    """A trained student with where it came from."""

    bag: Bag
    plan: Plan
    score: Score
    lesson: Lesson
    masters: Masters
    held: NDArray[np.float32]
    shares: list[dict[str, Any]]
    rounds: list[list[dict[str, Any]]]
    judged: Judged | None = None
    again: bool = True


class _Trial(msgspec.Struct):
    """A plan with what came of it after `steps`; `whole`: it was taught the whole lesson."""

    plan: Plan
    bag: Bag
    score: Score
    steps: int
    whole: bool = True


def find(recipe: Recipe, dataset: Dataset, cache: Path, progress: Progress) -> Found:
    """Finds and trains the student; see the module.

    Raises:
        InputError, RefusedError, UnavailableError: what the teacher raises.
    """
    bounds = limits(recipe.budget, len(dataset.labels))
    plans(dataset.train.texts[:100], facts_of(dataset), bounds, 1)  # refuses before training
    way = _on_folds if few(dataset) else _on_split
    chosen = way(recipe, dataset, cache, progress)
    plan, labels = chosen.plan, chosen.lesson
    history = [
        {
            "plan": plan.name,
            "seed": recipe.seed,
            "validation": chosen.score.accuracy,
            "surprise": round(chosen.score.surprise, 5),
            "epochs": [],
            "texts": len(labels.texts),
        }
    ]
    ids = encode([*dataset.train.texts, *dataset.validation.texts][:2000], plan.shape.features)
    student = TrainedNgram(chosen.bag.student(len(dataset.labels)), ids, history)
    student.held_out = chosen.held
    report = {
        "seconds_meant": round(facts_of(dataset).seconds),
        "made_texts": len(labels.texts) - labels.natural,
        "tfidf_share": chosen.masters.weights.share,
        "teacher_shares": chosen.shares,
        "rounds": chosen.rounds,
        "chosen": plan.name,
        "why": _why(chosen),
    }
    return Found(
        _shaped(recipe, plan),
        student,
        chosen.masters.teacher,
        SoftLabels(labels.texts, labels.targets),
        report,
        chosen.judged,
    )


def _shaped(recipe: Recipe, plan: Plan) -> Recipe:
    student = msgspec.structs.replace(recipe.student, family="ngram", ngram=plan.shape)
    return msgspec.structs.replace(recipe, student=student)


def fitted(recipe: Recipe, dataset: Dataset, plan: Plan, bounds: Limits) -> Plan:
    """The plan as it surely fits, which is known before the last training and not after it.

    A plan's size is an estimate; the file of an untrained student is not.
    """
    for _ in range(4):
        own, features = plan.shape, plan.shape.features
        candidate = untrained(_shaped(recipe, plan), dataset)
        over = len(candidate.model) - bounds.model_bytes
        if over > 0:
            fewer = features.buckets - -(-over // own.dim) - 1
            features = msgspec.structs.replace(features, buckets=max(16, fewer))
        elif bounds.arena_bytes and features.length > 32:
            arena = candidate.arena(dataset.train.texts[0]).arena_bytes
            if arena is None or arena <= bounds.arena_bytes:
                break
            features = msgspec.structs.replace(features, length=common_length(features.length // 2))
        else:
            break
        plan = msgspec.structs.replace(plan, shape=msgspec.structs.replace(own, features=features))
    return plan


def _why(chosen: _Chosen) -> str:
    masters = chosen.masters
    held = "in cross-validation" if chosen.judged else "on validation"
    name, right = chosen.plan.name, chosen.score.accuracy
    said = [
        f"{len(chosen.rounds[0])} plans were tried.",
        f"{name} answers best {held}, {right:.1%} right; of those that differ by no more than",
        "chance, the first is taken.",
    ]
    if masters.teacher:
        said.append(f"TF-IDF has {masters.weights.share:.0%} of the teacher's word.")
    if chosen.again:
        said.append("It was trained once more with the validation rows among the others.")
    return " ".join(said)


def _on_folds(recipe: Recipe, dataset: Dataset, cache: Path, progress: Progress) -> _Chosen:
    """By cross-validation: few rows."""
    bounds = limits(recipe.budget, len(dataset.labels))
    facts = facts_of(dataset)
    made = 0 if recipe.teacher.source == "none" else 1
    tried = plans(dataset.train.texts, facts, bounds, made, briefly=True)
    found = by_folds(recipe, dataset, tried, cache, progress)
    masters = Masters(found.recipe, found.every, cache, progress)
    masters.weights = found.weights
    lesson = lesson_of(recipe, found.every, masters)
    word = partial(progress, "student learns")
    plan = fitted(recipe, dataset, found.plan, bounds)
    bag = train_plan(recipe, lesson, plan, plan.fit.steps, cache, word)
    held = found.held
    if recipe.data.validation:  # a file is never learned
        held = bag.logits(encode(dataset.validation.texts, plan.shape.features))
    return _Chosen(
        bag,
        plan,
        found.score,
        lesson,
        masters,
        held,
        found.shares,
        [found.tried],
        found.judged,
    )


def _on_split(recipe: Recipe, dataset: Dataset, cache: Path, progress: Progress) -> _Chosen:
    """By the validation split."""
    bounds = limits(recipe.budget, len(dataset.labels))
    masters = Masters(recipe, dataset, cache, progress)
    shares = masters.choose(dataset.validation)
    lesson = lesson_of(recipe, dataset, masters)
    facts = facts_of(dataset)
    tried = plans(dataset.train.texts, facts, bounds, len(lesson.texts) - lesson.natural)
    top, rounds = _halve(recipe, dataset, lesson, tried, cache, progress)
    held = top.bag.logits(encode(dataset.validation.texts, top.plan.shape.features))
    plan = fitted(recipe, dataset, top.plan, bounds)
    bag, whole = _final(recipe, dataset, masters, lesson, plan, top, cache, progress)
    again = bag is not top.bag
    return _Chosen(bag, plan, top.score, whole, masters, held, shares, rounds, again=again)


def _halve(
    recipe: Recipe,
    dataset: Dataset,
    lesson: Lesson,
    tried: list[Plan],
    cache: Path,
    progress: Progress,
) -> tuple[_Trial, list[list[dict[str, Any]]]]:
    """All plans for a short time, then the better ones for all of theirs; the best trial of all."""
    many = len(dataset.labels) > MANY
    part = _FIRST[many]
    some = lesson.some(_MOST_FIRST, derive(recipe.seed, "some"))
    whole = len(some.texts) == len(lesson.texts)
    rounds: list[list[_Trial]] = []

    def round_of(taught: Lesson, runs: list[tuple[Plan, int]], word: str) -> list[_Trial]:
        total, done = sum(steps for _, steps in runs), 0
        trials = []
        for plan, steps in runs:
            told = partial(counted, progress, f"tries {len(runs)} plans{word}", done, total)
            bag = train_plan(recipe, taught, plan, steps, cache, told)
            done += steps
            logits = bag.logits(encode(dataset.validation.texts, plan.shape.features))
            found = score(logits, dataset.validation.targets)
            trials.append(_Trial(plan, bag, found, steps, taught is lesson or whole))
        rounds.append(trials)
        return trials

    first = round_of(some, [(plan, _fewer(plan, part)) for plan in tried], "")
    ahead = first[best([trial.score for trial in first])].plan
    order = sorted(first, key=lambda trial: (trial.plan is not ahead, -trial.score.mean))
    # A plan that had all of its steps and all of the text has nothing more to show.
    unseen = [t.plan for t in order if not whole or t.steps < t.plan.fit.steps]
    twice = len(tried) > 2 and lesson.natural <= _MOST_TWICE[many]
    # What is fitted at once takes seconds, and takes no other's turn.
    fitted_ones = [plan for plan in unseen[:2] if plan.linear]
    others = [plan for plan in unseen if not plan.linear][: 2 if twice else 1]
    longer = [(plan, plan.fit.steps) for plan in [*fitted_ones, *others]]
    if longer:
        round_of(lesson, longer, " for longer")
    # As the plans come, and of one the longer training first.
    trials = [t for plan in tried for trials in reversed(rounds) for t in trials if t.plan is plan]
    top = trials[best([trial.score for trial in trials])]
    return top, [[_row(trial) for trial in _ranked(trials, top)] for trials in rounds]


def _fewer(plan: Plan, part: float) -> int:
    """Steps of the first round."""
    if plan.linear:
        return plan.fit.steps
    return max(min(plan.fit.steps, _LEAST_FIRST), int(plan.fit.steps * part))


def _ranked(trials: list[_Trial], top: _Trial) -> list[_Trial]:
    return sorted(trials, key=lambda trial: (trial is not top, -trial.score.mean))


def _row(trial: _Trial) -> dict[str, Any]:
    return {
        "plan": trial.plan.name,
        "steps": trial.steps,
        "validation": round(trial.score.accuracy, 4),
        "surprise": round(trial.score.surprise, 4),
        "score": round(trial.score.mean, 4),
    }


def _final(
    recipe: Recipe,
    dataset: Dataset,
    masters: Masters,
    lesson: Lesson,
    plan: Plan,
    top: _Trial,
    cache: Path,
    progress: Progress,
) -> tuple[Bag, Lesson]:
    """The best plan once more, on the training and the validation rows where that is worth it."""
    every = with_validation(dataset)
    first = lesson.natural
    texts, targets = every.train.texts[first:], every.train.targets[first:]
    word = partial(progress, "student learns")
    if recipe.data.validation or first > _REFIT or not texts:
        if plan is top.plan and top.whole:
            return top.bag, lesson
        return train_plan(recipe, lesson, plan, top.steps, cache, word), lesson
    teacher = masters.teacher
    soft: Any = np.eye(masters.classes, dtype=np.float32)[targets]
    if teacher is None or teacher.open_ended:
        soft = (masters.shares(texts) + soft) / 2
    whole = Lesson(
        lesson.texts[:first] + texts + lesson.texts[first:],
        np.concatenate([lesson.targets[:first], soft, lesson.targets[first:]]),
        first + len(texts),
    )
    return train_plan(recipe, whole, plan, top.steps, cache, word), whole
