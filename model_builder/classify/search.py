"""Budget search: the smallest student that reaches the floor and fits the boards."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from contracts import board as boards
from contracts.errors import InputError, RefusedError
from model_builder.classify import metrics
from model_builder.classify.candidate import Candidate
from model_builder.classify.distil import SoftLabels, Student, distil
from model_builder.classify.package import ClassifierParts, write_classifier
from model_builder.data.dataset import Dataset
from model_builder.data.shipped import drawn
from model_builder.recipes.classify import Recipe
from model_builder.recipes.students import NgramStudentConfig
from model_builder.seeds import derive
from model_builder.teachers.base import Progress, Teacher

SIZES = ((0.125, 0.5), (0.25, 0.67), (0.5, 0.67), (0.5, 1.0), (1.0, 1.0))
"""Shares of the recipe's buckets and dimensions that are tried, smallest table first."""


class Found(msgspec.Struct):
    """The result of a search.

    Attributes:
        recipe: with the chosen student.
        student: trained.
        report: every student tried, which was chosen, and why.
    """

    recipe: Recipe
    student: Student
    report: dict[str, Any]


def shapes(largest: NgramStudentConfig) -> list[NgramStudentConfig]:
    """The students to try: the recipe's and smaller ones, by table size."""
    found = []
    for table, width in SIZES:
        buckets = max(64, int(largest.features.buckets * table))
        dim = max(8, int(largest.dim * width) // 4 * 4)
        features = msgspec.structs.replace(largest.features, buckets=buckets)
        shape = msgspec.structs.replace(
            largest, features=features, dim=dim, channels=min(largest.channels, dim)
        )
        if shape not in found:
            found.append(shape)
    return sorted(found, key=lambda shape: shape.features.buckets * shape.dim)


def search(
    recipe: Recipe,
    dataset: Dataset,
    labels: SoftLabels,
    teacher: Teacher | None,
    cache: Path,
    progress: Progress,
) -> Found:
    """Trains the sizes and picks one; all get the same soft labels.

    Raises:
        InputError: ``bad-recipe``; only n-gram students have sizes to search.
        RefusedError: ``no-student``; none reaches the floor and fits.
    """
    if recipe.student.family != "ngram":
        raise InputError("bad-recipe", "budget.floor searches sizes of student.family: ngram")
    floor = recipe.budget.floor
    tried: list[dict[str, Any]] = []
    chosen: tuple[Recipe, Student] | None = None
    for shape in shapes(recipe.student.ngram):
        name = f"{shape.features.buckets} x {shape.dim}"
        own = msgspec.structs.replace(
            recipe, student=msgspec.structs.replace(recipe.student, ngram=shape)
        )
        student = distil(own, dataset, labels, teacher, cache, partial(_named, progress, name))
        row = _measure(own, dataset, student)
        row["student"] = name
        tried.append(row)
        if chosen is None and not row["reasons"]:
            chosen = own, student
    if chosen is None:
        best = max(tried, key=lambda row: row["validation_int8"])
        raise RefusedError(
            "no-student",
            f"no student reaches {floor} and fits; the best, {best['student']}, reaches "
            f"{best['validation_int8']}: {'; '.join(best['reasons'])}",
            tried=tried,
        )
    shape = chosen[0].student.ngram
    name = f"{shape.features.buckets} x {shape.dim}"
    row = next(row for row in tried if row["student"] == name)
    named = f" on {', '.join(recipe.budget.boards)}" if recipe.budget.boards else ""
    why = (
        f"{name} is the smallest of {len(tried)} students that reaches {floor} on validation "
        f"({row['validation_int8']}) and fits{named}: {row['model_bytes']} bytes, arena "
        f"{row['arena_bytes']}, {row['latency_p50_us']} us."
    )
    report = {"floor": floor, "chosen": name, "why": why, "tried": tried}
    return Found(chosen[0], chosen[1], report)


def _named(progress: Progress, name: str, _what: str, done: int, total: int) -> None:
    progress(name, done, total)


def _measure(recipe: Recipe, dataset: Dataset, student: Student) -> dict[str, Any]:
    rng = np.random.default_rng(derive(recipe.seed, "representative"))
    candidate = student.convert(recipe, rng)
    logits = candidate.logits(dataset.validation.texts)
    score = round(metrics.accuracy(logits, dataset.validation.targets), 4)
    cost = candidate.cost(dataset.validation.texts[:200])
    arena = candidate.arena(dataset.validation.texts[0])
    row: dict[str, Any] = {
        "validation_int8": score,
        "model_bytes": len(candidate.model),
        "arena_bytes": arena.arena_bytes,
        "latency_p50_us": cost.latency_p50_us,
        "reasons": _reasons(recipe, dataset, candidate, logits, cost.rss_bytes),
    }
    budget = recipe.budget
    if score < budget.floor:
        row["reasons"].append(f"accuracy {score} is below {budget.floor}")
    for key, bound in (
        ("model_bytes", budget.model_bytes),
        ("arena_bytes", budget.arena_bytes),
        ("latency_p50_us", budget.latency_us),
    ):
        if bound and (row[key] is None or row[key] > bound):
            row["reasons"].append(f"{key} {row[key]} is over {bound}")
    return row


def _reasons(
    recipe: Recipe, dataset: Dataset, candidate: Candidate, logits: Any, rss: int
) -> list[str]:
    """Why the boards cannot hold it, by the same check that a device makes."""
    if not recipe.budget.boards:
        return []
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_classifier(
            Path(folder) / "candidate",
            ClassifierParts(
                name=recipe.name,
                version=recipe.version,
                candidate=candidate,
                labels=dataset.labels,
                golden_texts=drawn(8, np.random.default_rng(0)),
                baseline_logits=logits,
                peak_rss_bytes=rss,
            ),
        )
        return [
            f"{name}: {misfit}"
            for name in recipe.budget.boards
            for misfit in boards.misfits(bundle.manifest, boards.load(name))
        ]
