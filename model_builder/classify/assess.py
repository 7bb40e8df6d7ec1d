"""What a student is worth: converted, measured on rows that it never saw, held against its bars."""

from __future__ import annotations

import hashlib
import platform
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts import codec
from contracts.errors import RefusedError
from contracts.manifest import Lineage, Provenance
from model_builder.classify import metrics
from model_builder.classify.candidate import Candidate
from model_builder.classify.crossvalidation import Judged
from model_builder.classify.curve import learning_curve
from model_builder.classify.deliver import hold_budget
from model_builder.classify.described import (
    how_measured,
)
from model_builder.classify.distil import Student
from model_builder.classify.package import ClassifierParts, versions
from model_builder.convert import shuffled
from model_builder.data.dataset import Dataset
from model_builder.data.shipped import drawn
from model_builder.recipes.classify import Recipe
from model_builder.seeds import derive
from model_builder.teachers.base import Progress, Teacher

AGREEMENT_TEXTS = 1000  # of the test split, for LiteRT against TensorFlow Lite Micro


def golden_texts(
    recipe: Recipe, candidate: Candidate, own: list[str], rng: np.random.Generator
) -> list[str]:
    """Inputs of the golden vectors: texts of the product, unless the recipe says the user's.

    A bundle goes to every device and may be read by whoever mirrors it. Any text tests the
    arithmetic of an integer model. Of a model whose float answers differ between processors only
    the label is compared, so its surest answers are taken.
    """
    count = recipe.evaluation.golden
    if recipe.evaluation.golden_texts == "test":
        return [own[i] for i in shuffled(len(own), count, rng)]
    if candidate.quantization == "int8":
        return drawn(count, rng)
    texts = drawn(8 * count, rng)
    ordered = np.sort(candidate.logits(texts), axis=1)
    surest = np.argsort(ordered[:, -2] - ordered[:, -1], kind="stable")[:count]
    return [texts[int(i)] for i in surest]


def assess(
    recipe: Recipe,
    dataset: Dataset,
    student: Student,
    teacher: Teacher | None,
    progress: Progress,
    crossed: Judged | None,
) -> tuple[dict[str, Any], ClassifierParts]:
    """Converts the student and measures float, int8 and teacher on the same rows.

    Headline, labels, confusions and confidences are those of `crossed`, where there is one.
    """
    labels, test = dataset.labels, dataset.test
    rng = np.random.default_rng(derive(recipe.seed, "representative"))
    progress("converts", 0, 1)
    candidate = student.convert(recipe, rng)
    progress("converts", 1, 1)
    int8_validation = student.held_out
    if int8_validation is None:
        int8_validation = candidate.logits(dataset.validation.texts)
    int8_logits = candidate.logits(test.texts)
    float_logits = student.float_logits(test.texts)
    judged = crossed or Judged(
        test.texts, test.targets, int8_logits, f"on the test split of {len(test.texts)} rows"
    )
    if crossed is not None and not crossed.whole:
        judged = crossed.joined(test, int8_logits)
    seen, seen_targets = (
        (crossed.logits, crossed.targets)
        if crossed
        else (int8_validation, dataset.validation.targets)
    )
    temperature = metrics.best_temperature(seen, seen_targets)
    confidence = metrics.softmax(seen, temperature).max(axis=1)
    outside_validation = _confidence(candidate, dataset.outside_validation, temperature)
    outside_test = _confidence(candidate, dataset.outside_test, temperature)
    chosen = metrics.dependable_threshold(
        confidence, outside_validation, recipe.evaluation.reject, derive(recipe.seed, "threshold")
    )
    threshold = chosen.value
    probabilities = metrics.softmax(judged.logits, temperature)
    predicted = judged.logits.argmax(axis=1)
    right = predicted == judged.targets
    answered = metrics.as_answered(probabilities.max(axis=1), right, threshold)
    right_int8 = int8_logits.argmax(axis=1) == test.targets
    right_float = float_logits.argmax(axis=1) == test.targets
    delta, interval = metrics.paired_difference(right_int8, right_float)
    accuracy = {
        "float": round(float(right_float.mean()), 4),
        "int8": round(float(right_int8.mean()), 4),
        "int8_interval": [round(v, 4) for v in metrics.wilson(right_int8.mean(), len(right_int8))],
        "int8_minus_float": round(delta, 4),
        "int8_minus_float_interval": [round(v, 4) for v in interval],
        "validation_int8": round(metrics.accuracy(int8_validation, dataset.validation.targets), 4),
    }
    if teacher is not None and teacher.open_ended:
        accuracy["teacher"] = round(metrics.accuracy(teacher.logits(test.texts), test.targets), 4)
    arena = candidate.arena(test.texts[0])
    cost = candidate.cost(test.texts[:500])
    agreement = candidate.agreement(test.texts[:AGREEMENT_TEXTS])
    wrong = np.nonzero(~right)[0]
    named, digest = (teacher.name, teacher.digest) if teacher else ("none", "")
    report: dict[str, Any] = {
        "name": recipe.name,
        "version": recipe.version,
        "data": dataset.summary(),
        "teacher": {"name": named, "sha256": digest, "bytes": teacher.size_bytes if teacher else 0},
        "headline": {
            "accuracy": answered["right"],
            "interval": [round(v, 4) for v in metrics.wilson(answered["right"], len(right))],
            "wrong": answered["wrong"],
            "unknown": answered["unknown"],
            "without_threshold": round(float(right.mean()), 4),
            "rows": len(right),
            "folds": judged.folds,
            "how": how_measured(recipe, judged.how, len(right)),
        },
        "accuracy": accuracy,
        "calibration": {
            "temperature": temperature,
            "ece": round(metrics.ece(probabilities, judged.targets), 4),
            "reliability": metrics.reliability(probabilities, judged.targets),
        },
        "out_of_scope": {
            "threshold": threshold,
            "threshold_interval": chosen.interval,
            "chosen_by": chosen.how,
            "chosen_on": chosen.rows,
            "refused_in_scope": round(float((probabilities.max(axis=1) < threshold).mean()), 4),
            "refused_out_of_scope": _share_below(outside_test, threshold),
            "auroc": _rounded(metrics.auroc(probabilities.max(axis=1), outside_test)),
        },
        "size": {
            "model_bytes": len(candidate.model),
            "arena_bytes": arena.arena_bytes,
            "arena_problem": arena.problem,
        },
        "cost": msgspec.to_builtins(cost),
        "runtimes": msgspec.to_builtins(agreement),
        "per_class": metrics.per_class(predicted, judged.targets, labels),
        "confusion": {
            "labels": labels,
            "matrix": metrics.confusion(predicted, judged.targets, len(labels)).tolist(),
        },
        "wrong": [
            {
                "text": judged.texts[i][:200],
                "label": labels[int(judged.targets[i])],
                "answer": labels[int(predicted[i])],
                "confidence": round(float(probabilities[i].max()), 3),
            }
            for i in wrong[:50]
        ],
        "learning_curve": learning_curve(dataset, recipe.seed),
        "layers": student.layer_errors(candidate, test.texts[:64]),
        "students": student.history,
        "machine": {"python": platform.python_version(), "machine": platform.machine()},
    }
    parts = ClassifierParts(
        name=recipe.name,
        version=recipe.version,
        candidate=candidate,
        labels=labels,
        golden_texts=golden_texts(recipe, candidate, test.texts, rng),
        baseline_logits=int8_logits,
        temperature=temperature,
        threshold=threshold,
        boards=list(recipe.budget.boards),
        metrics={
            "accuracy": report["headline"]["accuracy"],
            "accuracy_without_threshold": report["headline"]["without_threshold"],
            "accuracy_int8": accuracy["int8"],
            "accuracy_float": accuracy["float"],
            **({"accuracy_teacher": accuracy["teacher"]} if "teacher" in accuracy else {}),
            "ece": report["calibration"]["ece"],
            "f1_per_class": {row["label"]: row["f1"] for row in report["per_class"]},
        },
        provenance=Provenance(
            recipe_sha256=hashlib.sha256(codec.encode(recipe)).hexdigest(),
            data_sha256=dataset.sha256,
            teacher=named,
            teacher_sha256=digest,
            seed=recipe.seed,
            versions=versions(),
            lineage=_lineage(recipe, dataset),
        ),
        peak_rss_bytes=cost.rss_bytes,
    )
    return report, parts


def check(recipe: Recipe, report: dict[str, Any]) -> None:
    """Stops a build that misses its own bars; what chance may explain is a warning.

    Raises:
        RefusedError: ``quantisation-loss``, ``below-floor``, ``over-budget``.
    """
    accuracy = report["accuracy"]
    lost = -accuracy["int8_minus_float"]
    if lost > recipe.quantisation.max_loss:
        worst = ", ".join(f"{row['layer']} ({row['error']:.1%})" for row in report["layers"][:3])
        found = (
            f"int8 loses {lost:.4f} against float; the recipe accepts "
            f"{recipe.quantisation.max_loss}. The layers that hurt most: {worst}"
        )
        if accuracy["int8_minus_float_interval"][1] < 0:
            raise RefusedError("quantisation-loss", found)
        report["data"]["warnings"].append(f"{found}. On so few rows it may be chance")
    if accuracy["int8"] < recipe.evaluation.floor:
        raise RefusedError(
            "below-floor",
            f"int8 accuracy {accuracy['int8']} is below the floor {recipe.evaluation.floor}",
        )
    hold_budget(recipe, report)


def _confidence(candidate: Candidate, texts: list[str], temperature: float) -> NDArray[np.float64]:
    if not texts:
        return np.zeros(0)
    shares = metrics.softmax(candidate.logits(texts), temperature)
    return np.asarray(shares.max(axis=1), np.float64)


def _share_below(values: NDArray[Any], threshold: float) -> float | None:
    return round(float((values < threshold).mean()), 4) if len(values) else None


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)


def _lineage(recipe: Recipe, dataset: Dataset) -> Lineage | None:
    if dataset.field is None:
        return None
    return Lineage(recipe.data.after, dataset.field["learned"], dataset.field.get("lessons", {}))
