"""A recipe to a bundle and a report: the steps, in order.

Data -> teacher -> soft labels -> student -> int8 -> figures -> bundle -> report.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec

from contracts import board, codec
from contracts.errors import RefusedError
from model_builder.classify.advice import one_sided
from model_builder.classify.assess import assess, check
from model_builder.classify.auto import find
from model_builder.classify.card import card
from model_builder.classify.crossvalidation import Judged, cross_validate, folds_of
from model_builder.classify.deliver import BuildResult, packed, written
from model_builder.classify.described import (
    nearest_description,
    rows_of,
    written_for,
)
from model_builder.classify.distil import Student, distil, soft_labels, untrained
from model_builder.classify.report import html
from model_builder.classify.search import search
from model_builder.convert import write_atomically
from model_builder.data.dataset import Dataset, prepare
from model_builder.recipes.classify import Recipe, with_encoder
from model_builder.rounding import common_length
from model_builder.seeds import make_deterministic
from model_builder.teachers.base import Progress
from model_builder.teachers.resolve import make_teacher


def build(recipe: Recipe, out: Path, progress: Progress) -> BuildResult:
    """Runs the whole recipe.

    Args:
        recipe: what to build.
        out: folder for the bundle, the report, and ``cache/``.
        progress: is told of long work.

    Raises:
        InputError: the recipe or the data is wrong.
        RefusedError: ``below-floor``, ``quantisation-loss``, ``over-budget``, ``no-board``.
    """
    started = time.monotonic()
    boards = [board.load(name) for name in recipe.budget.boards]
    recipe = _with_common_length(recipe)
    make_deterministic(recipe.seed)
    dataset = prepare(recipe, written_for(recipe, out / "cache", progress))
    recipe = with_encoder(recipe, english=dataset.language.english)
    _foresee(recipe, dataset)
    searched: dict[str, Any] = {}
    if recipe.student.family == "auto":
        chosen = find(recipe, dataset, out / "cache", progress)
        recipe, teacher, labels = chosen.recipe, chosen.teacher, chosen.labels
        learned = labelled = time.monotonic()
        searched = {"auto": chosen.report}
    else:
        teacher = make_teacher(recipe, dataset, out / "cache", progress)
        learned = time.monotonic()
        labels = soft_labels(recipe, dataset, teacher)
        labelled = time.monotonic()
    student: Student
    if recipe.budget.floor:
        found = search(recipe, dataset, labels, teacher, out / "cache", progress)
        recipe, student = found.recipe, found.student
        searched |= {"search": found.report}
    elif "auto" in searched:
        student = chosen.student
    else:
        student = distil(recipe, dataset, labels, teacher, out / "cache", progress)
    finished = time.monotonic()
    folds = folds_of(recipe, dataset)
    crossed: Judged | None = None
    if folds and "auto" in searched and not recipe.budget.floor:
        crossed = chosen.judged
    elif folds:
        crossed = cross_validate(recipe, dataset, out / "cache", progress, folds)
    validated = time.monotonic()
    report, parts = assess(recipe, dataset, student, teacher, progress, crossed)
    report |= searched
    peer = nearest_description(recipe, dataset, out / "cache", progress)
    if peer is not None:
        report["accuracy"]["nearest_description"] = peer
    report["data"]["warnings"] += one_sided(report)
    check(recipe, report)
    parts.extra = {"card.md": card(recipe, report).encode()}
    bundle = packed(recipe, report, parts, out, boards)
    report["seconds"] = {
        "teacher": round(learned - started, 1),
        "labels": round(labelled - learned, 1),
        "student": round(finished - labelled, 1),
        "cross_validation": round(validated - finished, 1),
        "all": round(time.monotonic() - started, 1),
    }
    result = written(bundle, report, html(recipe, report), _test_rows(dataset), out)
    if dataset.written is not None:
        rows = out / f"{recipe.name}-{recipe.version}-written.jsonl"
        write_atomically(rows, rows_of(dataset.written))
    return result


def _test_rows(dataset: Dataset) -> bytes:
    """The test split, so that another version can be judged on the same rows."""
    return b"".join(
        codec.encode({"text": text, "label": dataset.labels[int(target)]}) + b"\n"
        for text, target in zip(dataset.test.texts, dataset.test.targets, strict=True)
    )


def _with_common_length(recipe: Recipe) -> Recipe:
    """The recipe with an id count whose mean every runtime rounds alike; 201 becomes 256."""
    shape = recipe.student.ngram
    length = common_length(shape.features.length)
    features = msgspec.structs.replace(shape.features, length=length)
    shape = msgspec.structs.replace(shape, features=features)
    return msgspec.structs.replace(
        recipe, student=msgspec.structs.replace(recipe.student, ngram=shape)
    )


def _foresee(recipe: Recipe, dataset: Dataset) -> None:
    """Stops a build whose student cannot fit its budget, before anything is trained.

    An int8 file has one size, whatever its weights: an untrained student shows it.
    """
    budget = recipe.budget
    if recipe.student.family != "ngram" or budget.floor or not budget.model_bytes:
        return
    found = len(untrained(recipe, dataset).model)
    if found > budget.model_bytes:
        shape = recipe.student.ngram
        over = found - budget.model_bytes
        rows = shape.features.buckets - -(-over // shape.dim)
        hint = (
            f"student.ngram.features.buckets: {rows} would fit"
            if rows > 0
            else "make student.ngram.dim and hidden smaller"
        )
        raise RefusedError(
            "over-budget",
            f"model_bytes would be {found}, {over} over the budget of {budget.model_bytes}; {hint}",
        )
