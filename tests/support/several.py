"""The tiny classifier as a bundle that gives a text several labels: the same model, with cuts."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from contracts import codec
from contracts.bundle import MANIFEST, Bundle
from contracts.manifest import Baseline, Manifest
from tests.support.controller import TINY

CUTS = [120, -30, 80, -60]
"""Of the golden texts a third has no label each, one, and two."""


def of_several(folder: Path, cuts: list[int] | None = None, **changes: object) -> Bundle:
    """Writes the bundle into `folder`; `changes` are of the manifest."""
    shutil.copytree(TINY, folder)
    old = Bundle.open(TINY).manifest
    assert old.classifier is not None
    assert old.baseline is not None
    facts = msgspec.structs.replace(old.classifier, cuts=CUTS if cuts is None else cuts)
    baseline = Baseline(dict.fromkeys(facts.labels, 0.5), old.baseline.confidence)
    fields = {"schema": 2, "classifier": facts, "name": "several", "baseline": baseline, **changes}
    manifest: Manifest = msgspec.structs.replace(old, **fields)
    (folder / MANIFEST).write_bytes(codec.pretty(manifest))
    return Bundle.open(folder)


def expected(bundle: Bundle, output: list[int]) -> list[str]:
    """The labels of an int8 output, surest first, written out anew."""
    facts = bundle.manifest.classifier
    assert facts is not None
    over = [i for i, value in enumerate(output) if value >= facts.cuts[i]]
    return [facts.labels[i] for i in sorted(over, key=lambda i: (-output[i], i))]
