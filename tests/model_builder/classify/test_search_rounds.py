"""The rounds of ``family: auto``: what was trained for a short time counts to the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from model_builder.classify import auto
from model_builder.classify.lessons import Lesson
from model_builder.classify.plans import Facts, Limits, Plan, plans
from model_builder.data.dataset import Dataset, Split, prepare
from model_builder.recipes.classify import Recipe, load
from model_builder.students.bag import Bag
from model_builder.teachers.base import silent
from tests.model_builder.support import write_recipe

Trained = list[tuple[str, int, int]]
"""Name, steps and texts of each training."""


def _taught(tmp_path: Path) -> tuple[Recipe, Dataset, Lesson]:
    recipe = load(write_recipe(tmp_path, student={"family": "auto"}))
    dataset = prepare(recipe)
    held = Split([f"held back {i}" for i in range(400)], np.arange(400) % 3, [""] * 400)
    dataset = msgspec.structs.replace(dataset, validation=held)
    targets = np.eye(3, dtype=np.float32)[dataset.train.targets]
    return recipe, dataset, Lesson(dataset.train.texts, targets, len(dataset.train.texts))


class _Answers:
    """Stands for a bag that answers a share of the validation rows rightly."""

    def __init__(self, dataset: Dataset, wrong: int, steps: int) -> None:
        self._dataset, self._wrong, self.steps = dataset, wrong, steps

    def logits(self, ids: Any) -> Any:
        """For the validation rows."""
        targets = self._dataset.validation.targets
        logits = np.where(np.arange(3) == targets[:, None], 3.0, 0.0).astype(np.float32)
        logits[: self._wrong] = np.roll(logits[: self._wrong], 1, axis=1)
        return logits


def _fake(monkeypatch: pytest.MonkeyPatch, dataset: Dataset, wrong: Any) -> Trained:
    """Trains nothing: `wrong(plan, steps)` is how many validation rows are answered wrongly."""
    done: Trained = []

    def train(
        recipe: Recipe, lesson: Lesson, plan: Plan, steps: int, cache: Path, progress: Any
    ) -> Bag:
        done.append((plan.name, steps, len(lesson.texts)))
        return _Answers(dataset, wrong(plan, steps), steps)  # type: ignore[return-value]

    monkeypatch.setattr(auto, "train_plan", train)
    return done


def _tried(dataset: Dataset) -> list[Plan]:
    return plans(dataset.train.texts, Facts(5000, 3, 20.0, 450.0), Limits(), 9000)


def test_a_training_that_goes_on_for_too_long_loses_to_the_shorter_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation falls with the steps; the last training has the steps of the first round too."""
    recipe, dataset, lesson = _taught(tmp_path)
    tried = _tried(dataset)
    best = tried[2].name

    def wrong(plan: Plan, steps: int) -> int:
        return (40 if plan.name == best else 120) + (80 if steps > 1400 else 0)

    done = _fake(monkeypatch, dataset, wrong)
    top, rounds = auto._halve(recipe, dataset, lesson, tried, tmp_path, silent)
    assert len(rounds) == 2
    assert top.plan.name == best and top.steps < 1400
    assert rounds[0][0]["plan"] == best and rounds[0][0]["steps"] == top.steps
    longest = max(steps for name, steps, _ in done if name == best)
    assert longest > 3000
    auto._final(recipe, dataset, _masters(), lesson, top.plan, top, tmp_path, silent)
    assert done[-1][:2] == (best, top.steps)
    assert done[-1][2] > len(lesson.texts)


def test_a_training_that_gains_by_more_steps_gets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation rises with the steps: the last training has them all."""
    recipe, dataset, lesson = _taught(tmp_path)
    tried = _tried(dataset)

    def wrong(plan: Plan, steps: int) -> int:
        return (60 if plan is tried[2] else 140) - (40 if steps > 1400 else 0)

    _fake(monkeypatch, dataset, wrong)
    top, _ = auto._halve(recipe, dataset, lesson, tried, tmp_path, silent)
    assert top.plan is tried[2]
    assert top.steps == tried[2].fit.steps > 3000


def test_what_was_trained_on_a_part_of_the_text_is_trained_on_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large set's first round reads a part; its winner is no model yet."""
    recipe, dataset, lesson = _taught(tmp_path)
    monkeypatch.setattr(auto, "_MOST_FIRST", 50)
    monkeypatch.setattr(auto, "_REFIT", 10)
    tried = _tried(dataset)
    done = _fake(monkeypatch, dataset, lambda plan, steps: 40 if steps < 1400 else 140)
    top, _ = auto._halve(recipe, dataset, lesson, tried, tmp_path, silent)
    assert top.steps < 1400
    count = len(done)
    bag, _ = auto._final(recipe, dataset, _masters(), lesson, top.plan, top, tmp_path, silent)
    last = [run for run in done if run[:2] == (top.plan.name, top.steps)][-1]
    assert last[2] == len(lesson.texts)
    assert len(done) == count or bag is not top.bag


def test_what_a_person_would_have_used_instead_is_kept_where_nothing_is_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All answer alike: TF-IDF with logistic regression is taken, as the teacher taught it."""
    recipe, dataset, lesson = _taught(tmp_path)
    tried = _tried(dataset)
    _fake(monkeypatch, dataset, lambda plan, steps: 60)
    top, _ = auto._halve(recipe, dataset, lesson, tried, tmp_path, silent)
    assert top.plan is tried[0]
    assert top.plan.linear is not None and not top.plan.labels and not top.plan.shape.hidden


def test_what_is_fitted_at_once_takes_no_turn_of_what_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leads after the first round on a part of the text; another gains by its long training."""
    recipe, dataset, lesson = _taught(tmp_path)
    monkeypatch.setattr(auto, "_MOST_FIRST", 50)
    tried = _tried(dataset)
    trained = next(plan for plan in tried if not plan.linear)

    def wrong(plan: Plan, steps: int) -> int:
        if plan.linear:
            return 60
        return 80 - (60 if plan is trained and steps > 1400 else 0)

    _fake(monkeypatch, dataset, wrong)
    top, rounds = auto._halve(recipe, dataset, lesson, tried, tmp_path, silent)
    assert top.plan is trained and top.steps > 1400
    assert sum(row["plan"] == trained.name for row in rounds[1]) == 1


def _masters() -> Any:
    class Masters:
        classes, teacher = 3, None

        def shares(self, texts: list[str]) -> Any:
            """Of no use here."""
            return np.full((len(texts), 3), 1 / 3, np.float32)

    return Masters()
