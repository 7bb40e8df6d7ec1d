"""Two versions side by side: every figure and every label that either has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from fleet.dashboard.comparison import Comparison, Row, compare
from fleet.dashboard.render import render
from fleet.store.bundles import Published
from tests.support.bundles import noise_bundle


def published(folder: Path, version: str, labels: list[str], metrics: dict[str, Any]) -> Published:
    """A bundle with figures of its own."""
    bundle = noise_bundle(folder / version, version=version)
    classifier = bundle.manifest.classifier
    assert classifier is not None
    manifest = msgspec.structs.replace(
        bundle.manifest,
        metrics=metrics,
        classifier=msgspec.structs.replace(classifier, labels=labels),
    )
    return Published(bundle.ref, 1, manifest, 0.0, True)


def rows(found: list[Row]) -> dict[str, tuple[Any, Any, int]]:
    """By name: both figures, and whether the second is better."""
    return {one.name: (one.first, one.second, one.better) for one in found}


def made(folder: Path) -> Comparison:
    """Two versions that differ in every way."""
    first = published(
        folder, "1.0.0", ["on", "off"],
        {"accuracy_int8": 0.9, "latency_us": 10, "f1_per_class": {"on": 0.8, "off": 0.7}},
    )  # fmt: skip
    second = published(
        folder, "1.1.0", ["on", "<b>dim</b>"],
        {"accuracy_int8": 0.95, "ece": 0.1, "latency_us": 12,
         "f1_per_class": {"on": 0.9, "<b>dim</b>": 0.5}},
    )  # fmt: skip
    table = [
        {"label": "on", "f1": 0.1, "recall": 0.6, "note": "x"}, {"label": "of nobody", "f1": 1},
        {"label": ["on"], "f1": 1}, "no row",
    ]  # fmt: skip
    reports = (
        {"teacher": {"accuracy": 0.9}, "seed": 1, "per_class": table},
        {"teacher": {"accuracy": 0.8}, "seed": 2, "per_class": "no table"},
    )
    return compare(first, second, reports)


def test_every_figure_of_either_version_is_compared(tmp_path: Path) -> None:
    """What is better goes by the figure; what nobody can say is only different."""
    found = rows(made(tmp_path).figures)
    assert found["accuracy_int8"] == (0.9, 0.95, 1)
    assert found["latency_us"] == (10, 12, -1)
    assert found["ece"] == (None, 0.1, 0)
    assert found["report: teacher.accuracy"] == (0.9, 0.8, -1)
    assert found["report: seed"] == (1, 2, 0)
    assert found["labels"] == (2, 2, 0)
    differing = [one.first != one.second for one in made(tmp_path / "again").figures]
    assert differing == sorted(differing, reverse=True), "those that differ come first"


def test_every_label_of_either_version_is_compared(tmp_path: Path) -> None:
    """Labels that came and went are named, as text."""
    found = made(tmp_path)
    assert rows(found.labels) == {
        "on (f1)": (0.8, 0.9, 1), "off (f1)": (0.7, None, 0), "<b>dim</b> (f1)": (None, 0.5, 0),
        "on (recall)": (0.6, None, 0),
    }  # fmt: skip
    assert (found.gained, found.lost) == (["<b>dim</b>"], ["off"])
    page = render("compare.html", first="1.0.0", second="1.1.0", c=found)
    assert "<b>dim" not in page and "&lt;b&gt;dim" in page
    assert ", better" in page and ", worse" in page
