"""The student of several labels: what is tried, and which one answers validation rows best.

The plans are those of :mod:`model_builder.classify.plans`, each label learned for itself: from the
rows' labels alone, and from these and the teachers' word together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.errors import RefusedError
from model_builder.classify.choice import Score, best
from model_builder.classify.lessons import Lesson, about_tokens, counted, train_plan
from model_builder.classify.plans import Facts, Limits, Plan, fit_for, limits, named, plans, shape
from model_builder.data.language import piece_lengths
from model_builder.data.several import Dataset
from model_builder.recipes.classify import Recipe
from model_builder.schedule import seconds_for
from model_builder.several import figures
from model_builder.students.bag import Bag, BagFit
from model_builder.students.ids import encode
from model_builder.students.linear import LinearFit
from model_builder.teachers.base import Progress

_MOST_TRAINED: Final = 2
"""Plans that are trained in steps: each takes as long as all that is fitted at once."""

_SHARED: Final = 24
"""Labels beyond which the usual fitted plan has fewer columns than labels."""

_WIDEST: Final = 128
_LEAST_ROWS: Final = 2048
"""Of a table with a column for each label: fewer mix too many pieces of words."""

_FACTORS: Final = (1 / 3, 3.0)
_WEAKEST: Final = 1.0
_STRONGEST: Final = 1000.0
"""Between these are the strengths of fits that are tried, by what each is more or less."""

_TURNS: Final = 100
"""Of the optimiser, at most."""

Floats = NDArray[np.float32]


class Trained(msgspec.Struct):
    """The chosen student.

    Attributes:
        bag: its weights.
        plan: how it was made.
        tried: what came of each, the chosen one first.
        why: it was chosen.
    """

    bag: Bag
    plan: Plan
    tried: list[dict[str, Any]]
    why: str


def facts_of(dataset: Dataset) -> Facts:
    """What the plans go by."""
    texts = dataset.train.texts
    step = max(1, len(texts) // 500)
    tokens = float(np.mean([about_tokens(text) for text in texts[::step]]))
    return Facts(len(texts), len(dataset.labels), tokens, seconds_for(len(texts)))


def plans_for(recipe: Recipe, dataset: Dataset) -> list[Plan]:
    """What is tried, the likeliest first.

    Raises:
        RefusedError: ``over-budget``; no student fits.
    """
    bounds = limits(recipe.budget, len(dataset.labels))
    texts = dataset.train.texts
    found = plans(texts, facts_of(dataset), bounds, 0)
    fitted = [plan for plan in found if plan.linear]
    trained = [plan for plan in found if plan.linear is None][:_MOST_TRAINED]
    return [_each(plan) for plan in [*fitted, *_wide(texts, len(dataset.labels), bounds), *trained]]


def _wide(texts: list[str], labels: int, bounds: Limits) -> list[Plan]:
    """A column for each label where the usual plan shares them: labels lean on no others then.

    It is tried where the budget still holds enough rows of the table.
    """
    if not _SHARED < labels <= _WIDEST:
        return []
    try:
        own = shape(texts, labels, bounds, labels, 0, chars=piece_lengths(texts, (3, 5)))
    except RefusedError:
        return []
    if own.features.buckets < _LEAST_ROWS:
        return []
    fit = fit_for(texts, LinearFit())
    return [Plan(f"{named(own)}, fitted", own, 1.0, BagFit(steps=_TURNS), fit)]


def _each(plan: Plan) -> Plan:
    """The plan with each label learned for itself."""
    linear = plan.linear and msgspec.structs.replace(plan.linear, several=True)
    fit = msgspec.structs.replace(plan.fit, several=True)
    name = plan.name.removesuffix(" to the labels").removesuffix(", the rows alone")
    return msgspec.structs.replace(plan, name=name, fit=fit, linear=linear, labels=False)


def _strengths(plan: Plan, top: float, tried: Callable[[Plan], float]) -> list[Plan]:
    """A fitted plan with other penalties, as far as each is better than the one before.

    Few rows with labels that people agree on want next to none, many that they doubt a large one.

    Args:
        plan: that was tried.
        top: its score.
        tried: tries one, and gives its score.
    """
    assert plan.linear is not None
    found: list[Plan] = []
    for factor in _FACTORS:
        best_yet, strength, before = top, plan.linear.strength * factor, len(found)
        while _WEAKEST <= strength <= _STRONGEST:
            fit = msgspec.structs.replace(plan.linear, strength=strength)
            name = f"{plan.name}, penalty 1/{strength:.3g}"
            found.append(msgspec.structs.replace(plan, name=name, linear=fit))
            now = tried(found[-1])
            if now <= best_yet:
                break
            best_yet, strength = now, strength * factor
        if len(found) > before + 1:  # it got better this way: it does not the other
            break
    return found


def learn(
    recipe: Recipe, dataset: Dataset, soft: Floats | None, cache: Path, progress: Progress
) -> Trained:
    """Trains the plans and chooses one.

    Args:
        recipe: what is built.
        dataset: its training and validation rows.
        soft: what the teachers say of the training rows, float32 [N, C]; None: there is none.
        cache: folder of the checkpoints.
        progress: is told of long work.
    """
    texts = dataset.train.texts + dataset.outside
    own = dataset.train.targets.astype(np.float32)
    none = np.zeros((len(dataset.outside), len(dataset.labels)), np.float32)
    lessons = {"the labels": Lesson(texts, np.concatenate([own, none]), len(texts))}
    if soft is not None:
        mixed = np.asarray((own + soft) / 2, np.float32)
        lessons["the labels and the teacher"] = Lesson(
            texts, np.concatenate([mixed, none]), len(texts)
        )
    runs = [
        (plan, name)
        for plan in plans_for(recipe, dataset)
        for name in (lessons if plan.linear else list(lessons)[-1:])
    ]
    total = sum(plan.fit.steps for plan, _ in runs)
    bags: list[Bag] = []
    scores: list[Score] = []

    def tried(plan: Plan, name: str, what: str, done: int, total: int) -> float:
        told = partial(counted, progress, what, done, total)
        bag = train_plan(recipe, lessons[name], plan, plan.fit.steps, cache, told)
        logits = bag.logits(encode(dataset.validation.texts, plan.shape.features))
        bags.append(bag)
        scores.append(score(logits, dataset.validation.targets))
        return scores[-1].mean

    done = 0
    for plan, name in runs:
        tried(plan, name, f"tries {len(runs)} plans", done, total)
        done += plan.fit.steps
    fitted = [place for place, (plan, _) in enumerate(runs) if plan.linear]
    if fitted:
        first = max(fitted, key=lambda place: scores[place].mean)
        plan, name = runs[first]
        others = _strengths(
            plan,
            scores[first].mean,
            lambda plan: tried(plan, name, "tries other penalties", 0, _TURNS),
        )
        runs += [(plan, name) for plan in others]
    rows: list[dict[str, Any]] = [
        {
            "plan": plan.name,
            "learned": name,
            "steps": plan.fit.steps,
            "validation": found.accuracy,
            "surprise": round(found.surprise, 4),
            "score": round(found.mean, 4),
        }
        for (plan, name), found in zip(runs, scores, strict=True)
    ]
    chosen = best(scores)
    order = sorted(range(len(runs)), key=lambda i: (i != chosen, -scores[i].mean))
    plan, name = runs[chosen]
    why = (
        f"{len(runs)} plans were tried. {plan.name}, which learned {name}, gives the best labels "
        f"on validation (F1 of a text {scores[chosen].accuracy:.3f} with one threshold); of those "
        "that differ by no more than chance, the first is taken."
    )
    return Trained(bags[chosen], plan, [rows[i] for i in order], why)


def score(logits: Floats, targets: NDArray[np.bool_]) -> Score:
    """Judges answers float32 [N, C].

    Of each text by its F1 with the best one threshold for all labels, less its surprise.
    """
    temperature = figures.best_temperature(logits, targets)
    values = np.unique(np.quantile(logits, np.linspace(0.5, 0.999, 60)))
    cut = max(values, key=lambda v: float(figures.figures(logits >= v, targets)["micro_f1"]))
    f1 = figures.row_f1(logits >= cut, targets)
    lost = np.minimum(figures.surprises(logits, targets, temperature), 6.0)
    return Score(
        np.asarray(f1 - lost / 2, np.float64), round(float(f1.mean()), 5), float(lost.mean())
    )
