"""What a student of ``family: auto`` learns from, and its training, which a cache remembers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from model_builder.checkpoint import Checkpoint, Saved
from model_builder.classify.masters import Masters
from model_builder.classify.plans import BESIDE, Facts, Plan
from model_builder.classify.variations import variations
from model_builder.data.dataset import Dataset, Split
from model_builder.recipes.classify import Recipe
from model_builder.schedule import seconds_for
from model_builder.seeds import derive
from model_builder.students.bag import Bag, train_bag
from model_builder.students.ids import encode
from model_builder.students.linear import blend, fit_linear
from model_builder.teachers.base import Progress

_MOST_MADE: Final = 60_000
_MADE_A_ROW: Final = 30
"""Made texts for each row, at most: beyond them they repeat one another."""

_TOKENS_LABELLED: Final = 3000
"""Tokens of made text that a teacher of the default size reads, a second of a build's time."""


class Lesson(msgspec.Struct):
    """Texts with what to answer; the first `natural` are rows, the others are made."""

    texts: list[str]
    targets: NDArray[np.float32]
    natural: int

    def weights(self, share: float) -> NDArray[np.float64]:
        """How often each text is drawn when rows are `share` of what is drawn."""
        made = len(self.texts) - self.natural
        if not made:
            return np.full(self.natural, 1.0)
        return np.concatenate(
            [np.full(self.natural, share / self.natural), np.full(made, (1 - share) / made)]
        )

    def some(self, most: int, seed: int) -> Lesson:
        """About `most` of the rows and as many of the made texts."""
        rng = np.random.default_rng(seed)
        made = self.natural + rng.permutation(len(self.texts) - self.natural)[:most]
        rows = rng.permutation(self.natural)[:most]
        chosen = np.concatenate([np.sort(rows), np.sort(made)]).astype(np.int64)
        return Lesson([self.texts[i] for i in chosen], self.targets[chosen], len(rows))


def facts_of(dataset: Dataset) -> Facts:
    """What a search goes by."""
    texts = dataset.train.texts
    step = max(1, len(texts) // 500)
    tokens = float(np.mean([about_tokens(text) for text in texts[::step]]))
    return Facts(len(texts), len(dataset.labels), tokens, seconds_for(len(texts)))


def about_tokens(text: str) -> float:
    """Tokens that the default teacher reads of a text: other scripts come letter by letter."""
    plain = len(text.encode("ascii", "ignore"))
    return 2 + max(1.35 * len(text.split()), plain / 4.2 + 0.8 * (len(text) - plain))


def lesson_of(recipe: Recipe, dataset: Dataset, masters: Masters, share: float = 1.0) -> Lesson:
    """The training rows, half by their labels, and made text, all by the masters.

    Args:
        recipe: names the teacher.
        dataset: its training rows.
        masters: they label.
        share: of the made text that a whole build has.
    """
    texts = list(dataset.train.texts)
    true = np.eye(masters.classes, dtype=np.float32)[dataset.train.targets]
    teacher = masters.teacher
    soft = np.asarray((masters.shares(texts) + true) / 2, np.float32)
    if teacher is None:
        return Lesson(texts, soft, len(texts))
    more: list[str] = []
    name = recipe.teacher.source.partition(":")[0]
    if teacher.open_ended and name != "openai":
        facts = facts_of(dataset)
        count = int(_TOKENS_LABELLED * facts.seconds / min(facts.tokens, recipe.teacher.max_tokens))
        count = int(share * min(count, _MADE_A_ROW * len(texts), _MOST_MADE))
        rng = np.random.default_rng(derive(recipe.seed, "unlabelled"))
        # Real text in place of made text: reading both would take twice the time.
        order = rng.permutation(len(dataset.unlabelled))[: count // 2]
        given = [dataset.unlabelled[place] for place in order]
        seed = derive(recipe.seed, "variations")
        more = variations(texts, teacher.neighbours(texts), count - len(given), seed) + given
    elif teacher.open_ended:
        more = list(dataset.unlabelled)
    if not more:
        return Lesson(texts, soft, len(texts))
    targets = np.concatenate([soft, masters.shares(more)])
    return Lesson(texts + more, np.asarray(targets, np.float32), len(texts))


def train_plan(
    recipe: Recipe, lesson: Lesson, plan: Plan, steps: int, cache: Path, progress: Any
) -> Bag:
    """A bag of a plan; one that was trained before comes from the cache."""
    natural = lesson.natural if plan.natural == 1.0 else len(lesson.texts)
    seed = derive(recipe.seed, "auto")
    fit = msgspec.structs.replace(plan.fit, steps=steps)
    targets = lesson.targets[:natural]
    if plan.labels:  # half of what is learned is the label, so it is the most likely
        targets = np.eye(targets.shape[1], dtype=np.float32)[targets.argmax(axis=1)]
    data = hashlib.sha256("\0".join(lesson.texts[:natural]).encode("utf-8", "replace"))
    data.update(targets.tobytes())
    parts = [data.hexdigest(), plan.shape, plan.natural, fit, seed, plan.linear]
    if plan.beside is not None:
        parts += [BESIDE, plan.beside.linear]
    run = msgspec.json.encode(parts)
    checkpoint = Checkpoint(cache, hashlib.sha256(run).hexdigest())
    bag = Bag(plan.shape, targets.shape[1], seed)
    saved = checkpoint.load([value.shape for value in bag.weights.values()])
    if saved is not None:
        for value, kept in zip(bag.weights.values(), saved.arrays, strict=True):
            value[:] = kept
        return bag
    ids = encode(lesson.texts[:natural], plan.shape.features)
    weights = lesson.weights(plan.natural)[:natural]
    if plan.linear is None:
        train_bag(bag, ids, targets, weights, fit, seed, progress)
    else:
        alone = msgspec.structs.replace(plan.shape.features, char_min=1, char_max=0)
        words = encode(lesson.texts[:natural], alone)
        fit_linear(bag, ids, words, targets, weights, plan.linear, steps, progress)
        if plan.beside is not None:
            other = train_plan(recipe, lesson, plan.beside, steps, cache, lambda done, total: None)
            blend(bag, other, BESIDE)
    checkpoint.save(Saved(steps, True, list(bag.weights.values()), []))
    return bag


def counted(progress: Progress, what: str, before: int, total: int, done: int, _steps: int) -> None:
    """Tells of one training as a part of several: `before` steps of `total` are done."""
    progress(what, before + done, total)


def with_validation(dataset: Dataset) -> Dataset:
    """With the validation rows among the training rows, unless they are the same."""
    train, validation = dataset.train, dataset.validation
    known = set(train.texts)
    fresh = [i for i, text in enumerate(validation.texts) if text not in known]
    return msgspec.structs.replace(
        dataset,
        train=Split(
            train.texts + [validation.texts[i] for i in fresh],
            np.concatenate([train.targets, validation.targets[fresh]]).astype(np.int64),
            [*train.groups, *(validation.groups[i] for i in fresh)] if train.groups else [],
        ),
    )
