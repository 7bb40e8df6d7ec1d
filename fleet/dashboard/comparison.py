"""Two versions of a model side by side: every figure that either has, and every label. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from fleet.dashboard.views import flatten
from fleet.store.bundles import Published

_LESS_IS_BETTER: Final = (
    "bytes", "ece", "error", "latency", "_us", "_ms", "perplexity", "rss", "seconds",
)  # fmt: skip
_MORE_IS_BETTER: Final = ("accuracy", "f1", "precision", "recall", "exact_match", "auroc", "tok_s")


class Row(msgspec.Struct, frozen=True):
    """One figure of both; None: that version has none.

    Attributes:
        better: 1: the second is better; -1: worse; 0: equal, or nobody can say.
    """

    name: str
    first: Any
    second: Any
    difference: float | None
    better: int


class Comparison(msgspec.Struct, frozen=True):
    """What differs, and what does not.

    Attributes:
        figures: all, those that differ first.
        labels: figures by label, of labels that both or one of them have.
        gained, lost: labels of the second alone, and of the first alone.
    """

    figures: list[Row]
    labels: list[Row]
    gained: list[str]
    lost: list[str]


def compare(
    first: Published,
    second: Published,
    reports: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None],
) -> Comparison:
    """Two versions with their build reports."""
    figures = _rows(
        *(_figures(one, report) for one, report in zip((first, second), reports, strict=True))
    )
    by_label = _rows(
        *(_of_labels(one, report) for one, report in zip((first, second), reports, strict=True))
    )
    labels = [
        set(one.manifest.classifier.labels if one.manifest.classifier else ())
        for one in (first, second)
    ]
    return Comparison(
        figures, by_label, sorted(labels[1] - labels[0]), sorted(labels[0] - labels[1])
    )


def _figures(one: Published, report: Mapping[str, Any] | None) -> dict[str, Any]:
    manifest = one.manifest
    found: dict[str, Any] = {
        "size of all files (bytes)": manifest.total_bytes,
        "parameters": manifest.model.parameters,
        "quantisation": manifest.model.quantization,
        "arena (bytes)": manifest.model.arena_bytes,
        "memory when loaded (bytes)": manifest.model.peak_rss_bytes,
        "labels": len(manifest.classifier.labels) if manifest.classifier else None,
        "golden vectors": manifest.golden.count,
    }
    metrics = {key: value for key, value in manifest.metrics.items() if not _by_label(value)}
    found |= dict(flatten(metrics))
    if report:
        plain = {key: value for key, value in report.items() if not isinstance(value, list)}
        found |= {f"report: {name}": value for name, value in flatten(dict(plain))}
    return found


def _of_labels(one: Published, report: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the manifest says of each label, and what the report's table has beside it."""
    known = set(one.manifest.classifier.labels if one.manifest.classifier else ())
    found = {
        f"{label} ({name.removesuffix('_per_class')})": value
        for name, figures in one.manifest.metrics.items()
        if _by_label(figures)
        for label, value in figures.items()
        if label in known or not known
    }
    table = (report or {}).get("per_class")
    for row in table if isinstance(table, list) else []:
        label = row.get("label") if isinstance(row, dict) else None
        if isinstance(label, str) and label in known:
            # The manifest's figure is the signed one.
            for name, value in row.items():
                if _is_number(value):
                    found.setdefault(f"{label} ({name})", value)
    return found


def _by_label(value: Any) -> bool:
    return isinstance(value, dict)


def _rows(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Row]:
    names = dict.fromkeys([*first, *second])
    rows = [_row(name, first.get(name), second.get(name)) for name in names]
    return sorted(rows, key=lambda row: row.first == row.second)


def _row(name: str, first: Any, second: Any) -> Row:
    if not (_is_number(first) and _is_number(second)):
        return Row(name, first, second, None, 0)
    difference = second - first
    sign = (difference > 0) - (difference < 0)
    low = name.lower()
    if any(word in low for word in _MORE_IS_BETTER):
        return Row(name, first, second, difference, sign)
    if any(word in low for word in _LESS_IS_BETTER):
        return Row(name, first, second, difference, -sign)
    return Row(name, first, second, difference, 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
