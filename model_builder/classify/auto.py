"""``family: auto``: the shape, the text and the teacher's share are found on validation.

A few plans are trained for a short time, the better half goes on, and the best is trained once
more on all rows with the validation rows among them. What validation says about the answers'
confidence is taken from before that. The test split is never looked at.

Successive halving: K. Jamieson, A. Talwalkar, "Non-stochastic Best Arm Identification and
Hyperparameter Optimization" (2016).
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from model_builder.checkpoint import Checkpoint, Saved
from model_builder.classify import metrics
from model_builder.classify.distil import SoftLabels, TrainedNgram
from model_builder.classify.masters import Masters
from model_builder.classify.plans import (
    MANY,
    Facts,
    Plan,
    limits,
    plans,
    temperature_and_surprise,
)
from model_builder.classify.variations import variations
from model_builder.data.dataset import Dataset, Split
from model_builder.recipes.classify import Recipe
from model_builder.schedule import seconds_for
from model_builder.seeds import derive
from model_builder.students.bag import Bag, train_bag
from model_builder.students.ids import encode
from model_builder.teachers.base import Progress, Teacher

_REFIT_TEACHER: Final = 2500
"""Rows up to which the teacher too learns again with the validation rows: there a tenth counts."""

_MOST_MADE: Final = 60_000
_TOKENS_LABELLED: Final = 2000
"""Tokens that a teacher of the default size reads in a second of a build's time."""

MOST_FOLDS: Final = 3
"""Of a cross-validation: each is a fine-tuning, and 300 rows shall take minutes."""

_FOLD_SHARE: Final = 0.3
"""Made text of a fold of a cross-validation, as a share of the whole build's."""

_FIRST: Final = (0.3, 0.15)
"""Part of its steps that every plan is trained for in the first round: few labels, many labels."""

_MOST_FIRST: Final = 20_000
"""Rows, and made texts, of the first round: it ranks plans, and more take minutes to read."""

_REFIT: Final = 6000
"""Rows up to which the student learns again with the validation rows, where those were split off
the training rows: beyond them a few more teach nothing. A validation file is never learned."""


class Found(msgspec.Struct):
    """The result.

    Attributes:
        recipe: of the chosen n-gram student.
        student: trained on all rows.
        teacher: the encoder, or whatever the recipe names.
        labels: what the student learned from.
        plan: the chosen one.
        tfidf_share: of the teacher's word.
        report: what was tried, what was chosen, and why.
    """

    recipe: Recipe
    student: TrainedNgram
    teacher: Teacher | None
    labels: SoftLabels
    plan: Plan
    tfidf_share: float
    report: dict[str, Any]


class _Lesson(msgspec.Struct):
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

    def some(self, most: int, seed: int) -> _Lesson:
        """About `most` of the rows and as many of the made texts."""
        rng = np.random.default_rng(seed)
        made = self.natural + rng.permutation(len(self.texts) - self.natural)[:most]
        rows = rng.permutation(self.natural)[:most]
        chosen = np.concatenate([np.sort(rows), np.sort(made)]).astype(np.int64)
        return _Lesson([self.texts[i] for i in chosen], self.targets[chosen], len(rows))


class _Trial(msgspec.Struct):
    """A plan with what came of it."""

    plan: Plan
    bag: Bag
    score: float = 0.0
    accuracy: float = 0.0
    surprise: float = 0.0
    steps: int = 0


def find(recipe: Recipe, dataset: Dataset, cache: Path, progress: Progress) -> Found:
    """Finds and trains the student; see the module.

    Raises:
        InputError, RefusedError, UnavailableError: what the teacher raises.
    """
    bounds = limits(recipe.budget, len(dataset.labels))
    plans(dataset.train.texts[:100], _facts(dataset, None), bounds, 1)  # refuses before training
    masters = Masters(recipe, dataset, cache, progress)
    blend = masters.choose(dataset.validation)
    lesson = _lesson(recipe, dataset, masters)
    facts = _facts(dataset, masters.teacher)
    made = len(lesson.texts) - lesson.natural
    tried = plans(dataset.train.texts, facts, bounds, made)
    trials, rounds = _halve(recipe, dataset, lesson, tried, cache, progress)
    best = trials[0]
    held = best.bag.logits(encode(dataset.validation.texts, best.plan.shape.features))
    final = _final(recipe, dataset, masters, lesson, best, cache, progress)
    shaped = msgspec.structs.replace(
        recipe,
        student=msgspec.structs.replace(recipe.student, family="ngram", ngram=best.plan.shape),
    )
    history = [
        {
            "plan": best.plan.name,
            "seed": recipe.seed,
            "validation": best.accuracy,
            "surprise": round(best.surprise, 5),
            "epochs": [],
            "texts": len(final[1].texts),
        }
    ]
    ids = encode([*dataset.train.texts, *dataset.validation.texts][:2000], best.plan.shape.features)
    student = TrainedNgram(final[0].student(len(dataset.labels)), ids, history)
    student.held_out = held
    report = {
        "seconds_meant": round(facts.seconds),
        "made_texts": made,
        "tfidf_share": masters.share,
        "teacher_shares": blend,
        "rounds": rounds,
        "chosen": best.plan.name,
        "why": _why(rounds, best, masters, final[0] is not best.bag).strip(),
    }
    labels = SoftLabels(final[1].texts, final[1].targets)
    return Found(shaped, student, final[2], labels, best.plan, masters.share, report)


def train_again(
    recipe: Recipe, dataset: Dataset, cache: Path, progress: Progress, *, found: Found
) -> TrainedNgram:
    """What was found, trained on the training and validation rows of another dataset.

    For cross-validation: less text is made, so its figures are a little on the careful side.
    """
    every = _with_validation(dataset)
    masters = Masters(recipe, every, cache, progress)
    masters.share = found.tfidf_share
    lesson = _lesson(recipe, every, masters, _FOLD_SHARE)
    plan = found.plan
    word = partial(progress, "student learns")
    bag = _train(recipe, lesson, plan, plan.fit.steps, cache, word)
    ids = encode(every.train.texts[:2000], plan.shape.features)
    return TrainedNgram(bag.student(len(dataset.labels)), ids, [])


def _with_validation(dataset: Dataset) -> Dataset:
    """With the validation rows among the training rows, unless they are the same."""
    train, validation = dataset.train, dataset.validation
    known = set(train.texts)
    fresh = [i for i, text in enumerate(validation.texts) if text not in known]
    return msgspec.structs.replace(
        dataset,
        train=Split(
            train.texts + [validation.texts[i] for i in fresh],
            np.concatenate([train.targets, validation.targets[fresh]]).astype(np.int64),
        ),
    )


def _why(rounds: list[list[dict[str, Any]]], best: _Trial, masters: Masters, again: bool) -> str:
    count = len(rounds[0])
    teacher = f"TF-IDF has {masters.share:.0%} of the teacher's word. " if masters.teacher else ""
    return (
        f"{count} plans were tried. {best.plan.name} has the best answers on validation "
        f"({best.accuracy:.1%} right). {teacher}"
        + ("It was trained once more with the validation rows among the others." if again else "")
    )


def _facts(dataset: Dataset, teacher: Teacher | None) -> Facts:
    texts = dataset.train.texts
    step = max(1, len(texts) // 500)
    words = [len(text.split()) for text in texts[::step]]
    tokens = 1.35 * float(np.mean(words)) + 2 if teacher is not None else 0.0
    return Facts(len(texts), len(dataset.labels), tokens, seconds_for(len(texts)))


def _lesson(recipe: Recipe, dataset: Dataset, masters: Masters, share: float = 1.0) -> _Lesson:
    """The training rows, half by their labels, and made text, all by the masters."""
    texts = list(dataset.train.texts)
    true = np.eye(masters.classes, dtype=np.float32)[dataset.train.targets]
    teacher = masters.teacher
    if teacher is None:
        return _Lesson(texts, true, len(texts))
    soft = (masters.shares(texts) + true) / 2
    more: list[str] = []
    name = recipe.teacher.source.partition(":")[0]
    if teacher.open_ended and name != "openai":
        facts = _facts(dataset, teacher)
        count = int(_TOKENS_LABELLED * facts.seconds / min(facts.tokens, recipe.teacher.max_tokens))
        count = int(share * min(count, 20 * len(texts), _MOST_MADE))
        seed = derive(recipe.seed, "variations")
        more = variations(texts, teacher.neighbours(texts), count, seed)
    if teacher.open_ended:
        more += dataset.unlabelled
    if not more:
        return _Lesson(texts, np.asarray(soft, np.float32), len(texts))
    targets = np.concatenate([soft, masters.shares(more)])
    return _Lesson(texts + more, np.asarray(targets, np.float32), len(texts))


def _halve(
    recipe: Recipe,
    dataset: Dataset,
    lesson: _Lesson,
    tried: list[Plan],
    cache: Path,
    progress: Progress,
) -> tuple[list[_Trial], list[list[dict[str, Any]]]]:
    """All plans for a short time, then the better ones for all of theirs; best first."""
    alive = tried
    rounds = []
    trials: list[_Trial] = []
    for number, part in enumerate((_FIRST[len(dataset.labels) > MANY], 1.0)):
        trials = []
        taught = lesson if number else lesson.some(_MOST_FIRST, derive(recipe.seed, "some"))
        for place, plan in enumerate(alive):
            word = f"tries {place + 1} of {len(alive)}" + (" again" if number else "")
            steps = max(100, int(plan.fit.steps * part))
            bag = _train(recipe, taught, plan, steps, cache, partial(progress, word))
            trials.append(_measured(_Trial(plan, bag, steps=steps), dataset.validation))
        trials.sort(key=lambda trial: -trial.score)
        rounds.append(
            [
                {
                    "plan": trial.plan.name,
                    "steps": trial.steps,
                    "validation": round(trial.accuracy, 4),
                    "surprise": round(trial.surprise, 4),
                    "score": round(trial.score, 4),
                }
                for trial in trials
            ]
        )
        twice = len(trials) > 2 and lesson.natural <= _MOST_FIRST
        alive = [trial.plan for trial in trials[: 2 if twice else 1]]
    return trials, rounds


def _measured(trial: _Trial, split: Split) -> _Trial:
    """Right answers, and how likely the right ones were: few rows often tie on the first."""
    logits = trial.bag.logits(encode(split.texts, trial.plan.shape.features))
    trial.accuracy = metrics.accuracy(logits, split.targets)
    _, trial.surprise = temperature_and_surprise(logits, split.targets)
    trial.score = (trial.accuracy + float(np.exp(-trial.surprise))) / 2
    return trial


def _train(
    recipe: Recipe, lesson: _Lesson, plan: Plan, steps: int, cache: Path, progress: Any
) -> Bag:
    """A bag of a plan; one that was trained before comes from the cache."""
    natural = lesson.natural if plan.natural == 1.0 else len(lesson.texts)
    seed = derive(recipe.seed, "auto")
    fit = msgspec.structs.replace(plan.fit, steps=steps)
    targets = lesson.targets[:natural]
    data = hashlib.sha256("\0".join(lesson.texts[:natural]).encode("utf-8", "replace"))
    data.update(targets.tobytes())
    run = msgspec.json.encode([data.hexdigest(), plan.shape, plan.natural, fit, seed])
    checkpoint = Checkpoint(cache, hashlib.sha256(run).hexdigest())
    bag = Bag(plan.shape, targets.shape[1], seed)
    saved = checkpoint.load([value.shape for value in bag.weights.values()])
    if saved is not None:
        for value, kept in zip(bag.weights.values(), saved.arrays, strict=True):
            value[:] = kept
        return bag
    ids = encode(lesson.texts[:natural], plan.shape.features)
    weights = lesson.weights(plan.natural)[:natural]
    train_bag(bag, ids, targets, weights, fit, seed, progress)
    checkpoint.save(Saved(steps, True, list(bag.weights.values()), []))
    return bag


def _final(
    recipe: Recipe,
    dataset: Dataset,
    masters: Masters,
    lesson: _Lesson,
    best: _Trial,
    cache: Path,
    progress: Progress,
) -> tuple[Bag, _Lesson, Teacher | None]:
    """The best plan once more, on the training and the validation rows where that is worth it."""
    teacher = masters.teacher
    every = _with_validation(dataset)
    if recipe.data.validation or len(dataset.train.texts) > _REFIT:
        return best.bag, lesson, teacher
    if len(every.train.texts) <= _REFIT_TEACHER and teacher is not None:
        again = Masters(recipe, every, cache, progress)
        again.share = masters.share
        teacher = again.teacher
        whole = _lesson(recipe, every, again)
    else:
        first = lesson.natural
        texts, targets = every.train.texts[first:], every.train.targets[first:]
        soft: Any = np.eye(masters.classes, dtype=np.float32)[targets]
        if teacher is not None and teacher.open_ended and texts:
            soft = (masters.shares(texts) + soft) / 2
        whole = _Lesson(
            lesson.texts[:first] + texts + lesson.texts[first:],
            np.concatenate([lesson.targets[:first], soft, lesson.targets[first:]]),
            first + len(texts),
        )
    steps = best.plan.fit.steps
    bag = _train(recipe, whole, best.plan, steps, cache, partial(progress, "student learns"))
    return bag, whole, teacher
