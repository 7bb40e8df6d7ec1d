"""The simulation of the field loop in small: a truth that is known, and a site that is worse.

``benchmarks/field_loop.py`` is the large one, with a public data set and real models. Here answers
are made up: so many of each site's texts are right.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from contracts.answers import Classified
from contracts.bundle import Bundle
from tests.support.controller import TINY

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SITES = ("graz", "lyon", "porto")
ROWS = 100
"""Texts of each site."""


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The simulation's modules, which are no package."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    return {
        name: importlib.import_module(f"_field_{name}") for name in ("fleet", "truth", "canary")
    }


def model(parts: dict[str, ModuleType], right: dict[str, float]) -> object:
    """One that has so much of each site's texts right."""
    bundle = Bundle.open(TINY)
    assert bundle.manifest.classifier is not None
    given, other = bundle.manifest.classifier.labels[:2]
    says, meant = [], []
    for site in SITES:
        for number in range(ROWS):
            says.append(Classified(given, 0.8, [], bundle.ref, 1.0))
            meant.append(given if number < right[site] * ROWS else other)
    good = np.array([one == given for one in meant])
    texts = [f"text {number}" for number in range(len(meant))]
    return parts["fleet"].Model(bundle.ref, bundle.manifest, says, good, meant, texts)


def weights(site: str) -> np.ndarray:  # type: ignore[type-arg]
    """Each site says its own texts."""
    found = np.zeros(len(SITES) * ROWS)
    place = SITES.index(site)
    found[place * ROWS : (place + 1) * ROWS] = 1 / ROWS
    return found


def test_the_controller_tells_the_accuracy_that_is_true(
    parts: dict[str, ModuleType], tmp_path: Path
) -> None:
    """Counted on devices, ingested and estimated; one verdict in ten is wrong, and taken out."""
    people = parts["fleet"].People(judge=0.1, bias=4.0, sampled=0.3, noise=0.1)
    found = parts["truth"].run(
        tmp_path, model(parts, {"graz": 0.9, "lyon": 0.85, "porto": 0.6}), weights, SITES, people,
        fleets=3, devices=60, answers=150,
    )  # fmt: skip
    assert found["sampled"].inside >= 2
    assert max(map(abs, found["sampled"].off)) < 0.05
    assert found["plain"].inside == 0, "who corrects what is wrong makes a model look worse"
    assert max(found["plain"].off) < -0.05


def test_a_version_that_is_worse_at_one_site_is_stopped_in_the_canary(
    parts: dict[str, ModuleType], tmp_path: Path
) -> None:
    """By the rollout's own engine, on what the database says; over all it would have passed."""
    old = model(parts, {"graz": 0.9, "lyon": 0.9, "porto": 0.9})
    new = model(parts, {"graz": 0.99, "lyon": 0.99, "porto": 0.7})
    people = parts["fleet"].People(judge=0.3, noise=0.1)

    def ended(name: str, old: object, new: object) -> object:
        (tmp_path / name).mkdir()
        (one,) = parts["canary"].run(
            tmp_path / name, old, new, weights, SITES, people, seeds=1, devices=150, answers=200
        )
        return one

    worse = ended("worse", old, new)
    assert worse.status == "stopped"  # type: ignore[attr-defined]
    assert "site=porto alone" in worse.why  # type: ignore[attr-defined]
    same = ended("same", old, old)
    assert same.status == "passed"  # type: ignore[attr-defined]
