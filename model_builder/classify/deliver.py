"""The end of a build: the bundle, whether it fits its boards, and the report's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from contracts import board, codec
from contracts.bundle import Bundle, pack
from contracts.errors import RefusedError
from model_builder.classify.package import ClassifierParts, write_classifier
from model_builder.convert import write_atomically
from model_builder.recipes.classify import Recipe


class BuildResult(msgspec.Struct):
    """What a build wrote, and its report."""

    bundle: Path
    archive: Path
    report_json: Path
    report_html: Path
    report: dict[str, Any]


def fits(bundle: Bundle) -> dict[str, list[str]]:
    """Each known board with the reasons why the bundle does not fit; none: it fits."""
    return {
        name: [str(m) for m in board.misfits(bundle.manifest, board.load(name))]
        for name in board.names()
    }


def hold_budget(recipe: Recipe, report: dict[str, Any]) -> None:
    """Stops a build whose model is over its budget.

    Raises:
        RefusedError: ``over-budget``.
    """
    size, budget = report["size"], recipe.budget
    bounds = (
        ("model_bytes", size["model_bytes"], budget.model_bytes),
        ("arena_bytes", size["arena_bytes"], budget.arena_bytes),
        ("latency_us", report["cost"]["latency_p50_us"], budget.latency_us),
    )
    for name, found, bound in bounds:
        if bound and (found is None or found > bound):
            raise RefusedError("over-budget", f"{name} is {found}; the budget is {bound}")


def packed(
    recipe: Recipe,
    report: dict[str, Any],
    parts: ClassifierParts,
    out: Path,
    boards: list[board.Board],
) -> Bundle:
    """Writes the bundle's folder, and into the report what is in it and which boards it fits.

    Raises:
        RefusedError: ``over-budget``: one of `boards` has no room for it.
    """
    bundle = write_classifier(out / f"{recipe.name}-{recipe.version}", parts)
    model = bundle.manifest.model
    report["bundle"] = {
        "name": recipe.name,
        "version": recipe.version,
        "manifest_sha256": bundle.ref.manifest_sha256,
        "files": {entry.path: entry.size for entry in bundle.manifest.files},
        "arena_bytes": model.arena_bytes,
        "operators": model.operators,
        "parameters": model.parameters,
        "runtimes": list(model.runtimes),
    }
    report["boards"] = fits(bundle)
    for wanted in boards:
        reasons = [str(m) for m in board.misfits(bundle.manifest, wanted)]
        if reasons:
            raise RefusedError("over-budget", f"{wanted.name}: {'; '.join(reasons)}")
    return bundle


def written(
    bundle: Bundle, report: dict[str, Any], page: str, rows: bytes, out: Path
) -> BuildResult:
    """Writes the archive and the report's files.

    Args:
        bundle: whose folder is written.
        report: as JSON.
        page: the same, for people.
        rows: the test split, so that another version can be judged on the same rows.
        out: the folder.
    """
    name = f"{bundle.ref.name}-{bundle.ref.version}"
    result = BuildResult(
        bundle=bundle.path,
        archive=out / f"{name}.shoal",
        report_json=out / f"{name}-report.json",
        report_html=out / f"{name}-report.html",
        report=report,
    )
    pack(bundle.path, result.archive)
    write_atomically(result.report_json, codec.pretty(report))
    write_atomically(result.report_html, page.encode())
    write_atomically(out / f"{name}-test.jsonl", rows)
    return result
