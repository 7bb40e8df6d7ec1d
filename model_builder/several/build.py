"""A recipe of several labels to a bundle and a report: the steps, in order.

Data -> teachers -> plans -> int8 -> a cut for each label -> figures beside those of one model a
label -> bundle -> report.
"""

from __future__ import annotations

import hashlib
import platform
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts import board, codec
from contracts.errors import InputError, RefusedError
from contracts.manifest import Provenance
from model_builder.classify.assess import AGREEMENT_TEXTS, golden_texts
from model_builder.classify.deliver import BuildResult, hold_budget, packed, written
from model_builder.classify.distil import TrainedNgram
from model_builder.classify.metrics import sigmoid
from model_builder.classify.package import ClassifierParts, versions
from model_builder.convert import Runner
from model_builder.data.several import Dataset, prepare
from model_builder.recipes.classify import Recipe
from model_builder.seeds import derive, make_deterministic
from model_builder.several import figures
from model_builder.several.learn import Trained, learn
from model_builder.several.page import card, html
from model_builder.several.peer import OneVsRest
from model_builder.students.ids import encode
from model_builder.teachers.base import Progress


def build(recipe: Recipe, out: Path, progress: Progress) -> BuildResult:
    """Runs the whole recipe.

    Args:
        recipe: what to build, with ``data.labels: several``.
        out: folder for the bundle, the report, and ``cache/``.
        progress: is told of long work.

    Raises:
        InputError: the recipe or the data is wrong.
        RefusedError: ``below-floor``, ``quantisation-loss``, ``over-budget``.
    """
    started = time.monotonic()
    boards = [board.load(name) for name in recipe.budget.boards]
    _check(recipe)
    make_deterministic(recipe.seed)
    dataset = prepare(recipe)
    progress("counts words", 0, 1)
    peer = OneVsRest(len(dataset.labels))
    peer.train(dataset.train.texts, dataset.train.targets)
    progress("counts words", 1, 1)
    learned = time.monotonic()
    trained = learn(recipe, dataset, peer.shares(dataset.train.texts), out / "cache", progress)
    finished = time.monotonic()
    report, parts = _assess(recipe, dataset, trained, peer, progress)
    _hold(recipe, report)
    parts.extra = {"card.md": card(recipe, report).encode()}
    bundle = packed(recipe, report, parts, out, boards)
    report["seconds"] = {
        "teacher": round(learned - started, 1),
        "student": round(finished - learned, 1),
        "all": round(time.monotonic() - started, 1),
    }
    return written(bundle, report, html(recipe, report), _test_rows(dataset), out)


def _test_rows(dataset: Dataset) -> bytes:
    return b"".join(
        codec.encode({"text": text, "label": [dataset.labels[i] for i in np.nonzero(row)[0]]})
        + b"\n"
        for text, row in zip(dataset.test.texts, dataset.test.targets, strict=True)
    )


def _check(recipe: Recipe) -> None:
    """What a recipe of several labels cannot have.

    Raises:
        InputError: ``bad-recipe``.
    """
    if recipe.student.family != "auto":
        raise InputError(
            "bad-recipe",
            f"student.family: {recipe.student.family}: with labels: several only auto is known",
        )
    if recipe.budget.floor:
        raise InputError("bad-recipe", "budget.floor: not with labels: several")


def _assess(
    recipe: Recipe, dataset: Dataset, trained: Trained, peer: OneVsRest, progress: Progress
) -> tuple[dict[str, Any], ClassifierParts]:
    """Converts the student, chooses the cuts on validation, and measures on the test split."""
    labels, test, held = dataset.labels, dataset.test, dataset.validation
    rng = np.random.default_rng(derive(recipe.seed, "representative"))
    ids = encode([*dataset.train.texts, *held.texts][:2000], trained.plan.shape.features)
    student = TrainedNgram(trained.bag.student(len(labels)), ids, trained.tried)
    progress("converts", 0, 1)
    candidate = student.convert(recipe, rng)
    progress("converts", 1, 1)
    runner = Runner(candidate.model)
    seen = held.texts + dataset.outside
    none = np.zeros((len(dataset.outside), len(labels)), np.bool_)
    seen_targets = np.concatenate([held.targets, none])
    seen_logits = candidate.logits(seen)
    temperature = figures.best_temperature(seen_logits, seen_targets)
    cuts, how = figures.cuts(runner.steps(seen_logits), seen_targets, runner.zero_point)
    thresholds = [
        round(float(sigmoid(np.float64((cut - runner.zero_point) * runner.scale / temperature))), 4)
        for cut in cuts
    ]
    logits = candidate.logits(test.texts)
    said = runner.steps(logits) >= np.array(cuts)
    # Half a step below the cut: what rounds to it has the label too.
    bars = (np.array(cuts) - 0.5 - runner.zero_point) * runner.scale
    in_float = student.float_logits(test.texts) >= bars
    found = figures.figures(said, test.targets)
    chances = sigmoid(logits / temperature)
    arena = candidate.arena(test.texts[0])
    cost = candidate.cost(test.texts[:500])
    agreement = candidate.agreement(test.texts[:AGREEMENT_TEXTS])
    off = np.nonzero((said != test.targets).any(axis=1))[0]
    worst = off[np.argsort(-figures.surprises(logits / temperature, test.targets)[off])]
    report: dict[str, Any] = {
        "name": recipe.name,
        "version": recipe.version,
        "labels_kind": "several",
        "data": dataset.summary(),
        "teacher": {"name": "one TF-IDF model a label", "sha256": "", "bytes": 0},
        "headline": {
            **found,
            "interval": figures.interval(said, test.targets, derive(recipe.seed, "interval")),
            "rows": len(test.texts),
            "how": f"on the test split of {len(test.texts)} rows",
        },
        "accuracy": {
            "int8": found["micro_f1"],
            "float": figures.figures(in_float, test.targets)["micro_f1"],
            "validation_int8": figures.figures(
                runner.steps(seen_logits) >= np.array(cuts), seen_targets
            )["micro_f1"],
        },
        "peer": _peer(peer, dataset, seen, seen_targets),
        "calibration": {
            "temperature": temperature,
            "ece": round(figures.ece(chances, test.targets), 4),
        },
        "out_of_scope": _outside(dataset.outside_test, runner, cuts, candidate.logits),
        "size": {
            "model_bytes": len(candidate.model),
            "arena_bytes": arena.arena_bytes,
            "arena_problem": arena.problem,
        },
        "cost": msgspec.to_builtins(cost),
        "runtimes": msgspec.to_builtins(agreement),
        "per_class": figures.per_label(said, test.targets, labels, thresholds, how),
        "wrong": [
            {
                "text": test.texts[i][:200],
                "labels": [labels[c] for c in np.nonzero(test.targets[i])[0]],
                "answer": [labels[c] for c in np.nonzero(said[i])[0]],
            }
            for i in worst[:50]
        ],
        "layers": student.layer_errors(candidate, test.texts[:64]),
        "students": trained.tried,
        "auto": {"chosen": trained.plan.name, "why": trained.why, "rounds": [trained.tried]},
        "machine": {"python": platform.python_version(), "machine": platform.machine()},
    }
    if figures.HALF in how:
        report["data"]["warnings"].append(
            f"the validation rows have fewer than {figures.LEAST_EVIDENCE} labels in all: a text "
            "has a label from a chance of one half, which nothing has chosen"
        )
    if recipe.teacher.source != "none":
        report["data"]["warnings"].append(
            f"teacher.source: {recipe.teacher.source} was not asked: with several labels a text "
            "one TF-IDF model a label teaches; write source: none"
        )
    parts = ClassifierParts(
        name=recipe.name,
        version=recipe.version,
        candidate=candidate,
        labels=labels,
        golden_texts=golden_texts(recipe, candidate, test.texts, rng),
        baseline_logits=logits,
        temperature=temperature,
        cuts=cuts,
        boards=list(recipe.budget.boards),
        metrics={
            "accuracy": found["exact"],
            "micro_f1": found["micro_f1"],
            "macro_f1": found["macro_f1"],
            "ece": report["calibration"]["ece"],
            "f1_per_class": {row["label"]: row["f1"] for row in report["per_class"]},
        },
        provenance=Provenance(
            recipe_sha256=hashlib.sha256(codec.encode(recipe)).hexdigest(),
            data_sha256=dataset.sha256,
            teacher=report["teacher"]["name"],
            seed=recipe.seed,
            versions=versions(),
        ),
        peak_rss_bytes=cost.rss_bytes,
    )
    return report, parts


def _peer(
    peer: OneVsRest, dataset: Dataset, seen: list[str], seen_targets: NDArray[np.bool_]
) -> dict[str, Any]:
    """What one TF-IDF model a label says of the test split.

    From a chance of one half, as people use it, and with thresholds chosen as the student's are.
    """
    shares = peer.shares(dataset.test.texts)
    own = peer.shares(seen)
    bars, _ = figures.best_cuts(own.astype(np.float64), seen_targets, 0.5)
    return {
        "name": "TF-IDF with one logistic regression a label",
        "from_one_half": figures.figures(shares >= 0.5, dataset.test.targets),
        "with_thresholds": figures.figures(shares >= np.array(bars), dataset.test.targets),
    }


def _outside(texts: list[str], runner: Runner, cuts: list[int], answer: Any) -> dict[str, Any]:
    """How often text of no label gets one."""
    if not texts:
        return {"rows": 0, "refused_out_of_scope": None}
    said = runner.steps(answer(texts)) >= np.array(cuts)
    return {
        "rows": len(texts),
        "refused_out_of_scope": round(float((~said.any(axis=1)).mean()), 4),
    }


def _hold(recipe: Recipe, report: dict[str, Any]) -> None:
    """Stops a build that misses its own bars; its accuracy is micro F1.

    Raises:
        RefusedError: ``quantisation-loss``, ``below-floor``, ``over-budget``.
    """
    accuracy = report["accuracy"]
    lost = accuracy["float"] - accuracy["int8"]
    if lost > recipe.quantisation.max_loss:
        raise RefusedError(
            "quantisation-loss",
            f"int8 loses {lost:.4f} of F1 against float; the recipe accepts "
            f"{recipe.quantisation.max_loss}",
        )
    if accuracy["int8"] < recipe.evaluation.floor:
        raise RefusedError(
            "below-floor",
            f"micro F1 {accuracy['int8']} is below the floor {recipe.evaluation.floor}",
        )
    hold_budget(recipe, report)
