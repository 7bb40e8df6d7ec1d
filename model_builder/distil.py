"""Teacher to student: soft labels for the training text and for text made from it."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from contracts.errors import InputError
from contracts.text import ngram_ids
from model_builder import metrics
from model_builder.augment import augment
from model_builder.checkpoint import Checkpoint
from model_builder.data.dataset import Dataset
from model_builder.fit import Matching, fit
from model_builder.quantisation import layer_errors
from model_builder.recipe import Recipe
from model_builder.seeds import derive
from model_builder.students.ngram import NgramStudent
from model_builder.teachers.base import Progress, Teacher


class Distilled(msgspec.Struct):
    """A trained student, on its int8 grid, with what training knew.

    Attributes:
        student: its table and weights as the converter will see them.
        weights: the float weights before they were put on the grid.
        ids: int32 [N, L] of the training split.
        teacher_test: float32 [N, C] of the test split; None without a teacher.
        teacher_name, teacher_digest: for the report.
        history: one entry a seed.
    """

    student: NgramStudent
    weights: list[NDArray[np.float32]]
    ids: NDArray[np.int32]
    teacher_test: NDArray[np.float32] | None
    teacher_name: str
    teacher_digest: str
    history: list[dict[str, Any]]

    def float_logits(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """The float model's answers float32 [N, C]: no grid, no rounding."""
        frozen = [v.numpy() for v in self.student.variables]
        for variable, value in zip(self.student.variables, self.weights, strict=True):
            variable.assign(value)
        try:
            return predict(self.student, ids)
        finally:
            for variable, value in zip(self.student.variables, frozen, strict=True):
                variable.assign(value)

    def layer_errors(self, model: bytes, ids: NDArray[np.int32]) -> list[dict[str, Any]]:
        """Relative error of each layer of the int8 model, largest first."""
        return layer_errors(self.student, model, ids)


def predict(
    student: NgramStudent, ids: NDArray[np.int32], quantise: bool = False
) -> NDArray[np.float32]:
    """Logits float32 [N, C] of ids int32 [N, L]."""
    call = student.compiled
    parts = [call(tf.constant(ids[i : i + 512]), quantise).numpy() for i in range(0, len(ids), 512)]
    return np.asarray(np.concatenate(parts), np.float32)


def _score(student: NgramStudent, ids: NDArray[np.int32], targets: NDArray[np.int64]) -> float:
    return round(metrics.accuracy(predict(student, ids, quantise=True), targets), 5)


def distil(
    recipe: Recipe, dataset: Dataset, teacher: Teacher | None, cache: Path, progress: Progress
) -> Distilled:
    """Trains the student that the recipe describes.

    Args:
        recipe: what to train.
        dataset: the splits.
        teacher: labels the text; None: the true labels do.
        cache: folder of the checkpoints.
        progress: is told of long work.
    """
    config = recipe.distillation
    shape = recipe.student.ngram
    classes = len(dataset.labels)
    true = np.eye(classes, dtype=np.float32)[dataset.train.targets]
    texts = list(dataset.train.texts)
    targets = true
    teacher_test = None
    if teacher is not None:
        extra = augment(
            dataset.train.texts,
            config.augment,
            teacher.neighbours(dataset.train.texts),
            derive(recipe.seed, "augment"),
        )
        texts += extra + dataset.unlabelled
        soft = metrics.softmax(teacher.logits(texts), config.temperature).astype(np.float32)
        soft[: len(true)] = (1 - config.hard) * soft[: len(true)] + config.hard * true
        targets = soft
        teacher_test = teacher.logits(dataset.test.texts)

    def encode(rows: list[str]) -> NDArray[np.int32]:
        return np.array([ngram_ids(row, shape.features)[0] for row in rows], np.int32)

    ids = encode(texts)
    validation = encode(dataset.validation.texts)
    matching = None
    if teacher is not None and config.embedding:
        embeddings = teacher.embeddings(texts)
        if embeddings is None:
            raise InputError(
                "bad-recipe",
                f"distillation.embedding: the teacher {teacher.name} has no embeddings",
            )
        matching = Matching(embeddings, config.embedding)
    history: list[dict[str, Any]] = []
    best: tuple[float, NgramStudent] | None = None
    for number in range(config.seeds):
        seed = derive(recipe.seed, f"student/{number}")
        student = NgramStudent(shape, classes, seed)
        run = [ids.tobytes(), targets.tobytes(), msgspec.json.encode([shape, config, seed])]
        scores = fit(
            student,
            ids,
            targets,
            config.fit,
            seed,
            progress=partial(progress, "student learns" + (f" ({number + 1})" if number else "")),
            score=partial(_score, student, validation, dataset.validation.targets),
            matching=matching,
            checkpoint=Checkpoint(cache, hashlib.sha256(b"".join(run)).hexdigest()),
        )
        score = _score(student, validation, dataset.validation.targets)
        history.append({"seed": seed, "validation": round(score, 4), "epochs": scores})
        if best is None or score > best[0]:
            best = (score, student)
    assert best is not None
    student = best[1]
    weights = [v.numpy() for v in student.variables]
    student.freeze()
    return Distilled(
        student=student,
        weights=weights,
        ids=ids[: len(true)],
        teacher_test=teacher_test,
        teacher_name=teacher.name if teacher else "none",
        teacher_digest=teacher.digest if teacher else "",
        history=history,
    )
