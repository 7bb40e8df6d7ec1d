"""Two builds side by side: every figure and label, and which differences are more than luck."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, Final

import msgspec

from contracts import limits
from contracts.bundle import Bundle
from contracts.errors import InputError, ShoalError

_MOST_BYTES: Final = 256 * limits.MIB
_EMBEDDED: Final = re.compile(
    r'<script type="application/json" id=report>(.*?)</script>', re.DOTALL
)


class Figure(msgspec.Struct, frozen=True):
    """A figure of both.

    Attributes:
        name: of it; of a label's F1, the label.
        a, b: None: one does not have it.
        unit: ``ratio``, ``bytes``, ``us``, ``count``, ``s`` or nothing.
        sure: the difference is more than chance would give in one of twenty comparisons; None:
            chance has no part in it, or cannot be judged.
    """

    name: str
    a: float | None
    b: float | None
    unit: str = ""
    sure: bool | None = None


class Comparison(msgspec.Struct, frozen=True):
    """All figures, and all labels by F1, the largest change first."""

    a: str
    b: str
    figures: list[Figure]
    labels: list[Figure]
    notes: list[str]


def read(path: Path) -> dict[str, Any]:
    """The report of a build: its JSON or HTML, its folder, or a bundle.

    A bundle beside its report gives that; alone, what its manifest holds.

    Raises:
        InputError: ``no-such-file``, ``bad-report``.
    """
    if path.is_dir() and not (path / "manifest.json").exists():
        found = sorted(path.glob("*-report.json"))
        if len(found) != 1:
            raise InputError(
                "bad-report", f"{path}: expected one *-report.json in it, found {len(found)}"
            )
        return read(found[0])
    if path.is_dir() or path.suffix == ".shoal":
        beside = path.with_name(f"{path.name.removesuffix('.shoal')}-report.json")
        return read(beside) if beside.is_file() else _of_bundle(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError("too-large", f"{path} is larger than {_MOST_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError("no-such-file", f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError("bad-report", f"{path} is no report: not UTF-8") from None
    if path.suffix.lower() in (".html", ".htm"):
        match = _EMBEDDED.search(text)
        if match is None:
            raise InputError("bad-report", f"{path} holds no figures: it is no report of a build")
        text = match[1]
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("bad-report", f"{path} is no report: {str(error)[:200]}") from None
    if not isinstance(document, dict) or not isinstance(document.get("accuracy"), dict):
        raise InputError("bad-report", f"{path} is JSON, and no report of a classifier's build")
    return document


def _of_bundle(path: Path) -> dict[str, Any]:
    try:
        manifest = Bundle.open(path).manifest
    except ShoalError as error:
        raise InputError("bad-report", f"{path}: {error}") from None
    if manifest.classifier is None:
        raise InputError("bad-report", f"{path} is a {manifest.task} bundle; only classifiers")
    model = next(e for e in manifest.files if e.path == manifest.model.file)
    metrics = manifest.metrics
    f1 = metrics.get("f1_per_class")
    return {
        "name": manifest.name,
        "version": manifest.version,
        "headline": {
            "accuracy": metrics.get("accuracy"),
            "without_threshold": metrics.get("accuracy_without_threshold"),
        },
        "accuracy": {
            name: metrics.get(f"accuracy_{name}") for name in ("int8", "float", "teacher")
        },
        "calibration": {"ece": metrics.get("ece"), "temperature": manifest.classifier.temperature},
        "out_of_scope": {"threshold": manifest.classifier.threshold},
        "size": {"model_bytes": model.size, "arena_bytes": manifest.model.arena_bytes},
        "bundle": {"parameters": manifest.model.parameters},
        "data": {"labels": len(manifest.classifier.labels)},
        "per_class": [
            {"label": label, "f1": value}
            for label, value in (f1 if isinstance(f1, dict) else {}).items()
        ],
    }


_FIGURES: Final = (
    ("right, as it answers", "headline.accuracy", "ratio", "headline.rows"),
    ("wrong", "headline.wrong", "ratio", "headline.rows"),
    ("unknown", "headline.unknown", "ratio", "headline.rows"),
    ("right, always answering", "headline.without_threshold", "ratio", "headline.rows"),
    ("int8 on the test split", "accuracy.int8", "ratio", "data.test"),
    ("float on the test split", "accuracy.float", "ratio", "data.test"),
    ("teacher on the test split", "accuracy.teacher", "ratio", "data.test"),
    ("int8 on validation", "accuracy.validation_int8", "ratio", "data.validation"),
    ("error of its confidence (ECE)", "calibration.ece", "ratio", ""),
    ("temperature", "calibration.temperature", "", ""),
    ("threshold", "out_of_scope.threshold", "", ""),
    ("refused of its own texts", "out_of_scope.refused_in_scope", "ratio", ""),
    ("refused of other texts", "out_of_scope.refused_out_of_scope", "ratio", ""),
    ("tells other text apart (AUROC)", "out_of_scope.auroc", "", ""),
    ("model", "size.model_bytes", "bytes", ""),
    ("arena", "size.arena_bytes", "bytes", ""),
    ("parameters", "bundle.parameters", "count", ""),
    ("latency p50", "cost.latency_p50_us", "us", ""),
    ("latency p95", "cost.latency_p95_us", "us", ""),
    ("memory", "cost.rss_bytes", "bytes", ""),
    ("labels", "data.labels", "count", ""),
    ("training texts", "data.train", "count", ""),
    ("test texts", "data.test", "count", ""),
    ("seconds to build", "seconds.all", "s", ""),
)


def _at(report: dict[str, Any], path: str) -> float | None:
    value: Any = report
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None


def compare(a: dict[str, Any], b: dict[str, Any]) -> Comparison:
    """All figures and labels of two reports."""
    figures = []
    for name, path, unit, rows in _FIGURES:
        one, other = _at(a, path), _at(b, path)
        if one is None and other is None:
            continue
        sure = differs(one, other, _at(a, rows), _at(b, rows)) if rows else None
        figures.append(Figure(name, one, other, unit, sure))
    first, second = _f1(a), _f1(b)
    nothing: tuple[float | None, float | None] = (None, None)
    labels = []
    for label in sorted(first.keys() | second.keys()):
        (one, rows_a), (other, rows_b) = first.get(label, nothing), second.get(label, nothing)
        labels.append(Figure(label, one, other, "", differs(one, other, rows_a, rows_b)))
    labels.sort(key=lambda row: (-abs((row.b or 0) - (row.a or 0)), row.name))
    return Comparison(_named(a), _named(b), figures, labels, _notes(a, b))


def _named(report: dict[str, Any]) -> str:
    return f"{str(report.get('name', '?'))[:64]} {str(report.get('version', ''))[:64]}".strip()


def _f1(report: dict[str, Any]) -> dict[str, tuple[float | None, float | None]]:
    rows = report.get("per_class")
    return {
        str(row.get("label"))[: limits.MAX_LABEL_CHARS]: (_at(row, "f1"), _at(row, "support"))
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict)
    }


def _notes(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    notes = []
    how = [report.get("headline", {}).get("how") for report in (a, b)]
    if how[0] != how[1]:
        notes.append(f"measured differently: {how[0]} / {how[1]}")
    if _at(a, "data.test") != _at(b, "data.test"):
        notes.append("the test splits differ in size: give both one test file to be sure")
    return notes


def differs(
    a: float | None, b: float | None, rows_a: float | None, rows_b: float | None
) -> bool | None:
    """Whether two rates on so many rows differ at 95 % (pooled two-proportion z test).

    On the same rows that is careful: paired answers would need less.
    """
    if a is None or b is None or not rows_a or not rows_b:
        return None
    pooled = (a * rows_a + b * rows_b) / (rows_a + rows_b)
    spread = math.sqrt(max(pooled * (1 - pooled), 0) * (1 / rows_a + 1 / rows_b))
    return bool(abs(a - b) > 1.96 * spread) if spread else a != b
