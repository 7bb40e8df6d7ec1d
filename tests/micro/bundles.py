"""Very small bundles with random weights, for tests that install one many times."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from contracts import codec
from contracts.bundle import Bundle, file_entries
from contracts.manifest import GoldenVector, Manifest
from contracts.text import NgramConfig, ngram_ids
from model_builder import tflm
from tests.micro import models

TINY = Path("tests/data/tiny-classifier-1.0.0")
LABELS = ["one", "two", "three"]
TEXTS = ["turn on the light", "what time is it", "three"]


def write(
    folder: Path,
    name: str,
    version: str,
    *,
    seed: int,
    arena_bytes: int | None = None,
    large: bool = False,
) -> Bundle:
    """Writes a bundle and opens it.

    Args:
        folder: made here.
        name: of the bundle.
        version: of the bundle.
        seed: of the weights.
        arena_bytes: what the manifest claims; None: what TFLM measured.
        large: 200 KB in the shape of the 256k student instead of 5 KB.
    """
    folder.mkdir(parents=True)
    if large:
        config = NgramConfig(buckets=4096, length=128)
        model = models.build(
            "conv", buckets=4096, length=128, width=44, channels=64, labels=3, seed=seed
        )
    else:
        config = NgramConfig(buckets=64, length=16)
        model = models.build("bag", buckets=64, length=16, width=8, channels=4, labels=3, seed=seed)
    ids = np.array([ngram_ids(text, config)[0] for text in TEXTS], np.int32)
    report, outputs = tflm.measure(model, ids)
    assert outputs is not None
    assert report.arena_bytes is not None
    vectors = [
        GoldenVector(text, [int(v) for v in row], LABELS[int(np.argmax(row))])
        for text, row in zip(TEXTS, outputs, strict=True)
    ]
    (folder / "model.tflite").write_bytes(model)
    (folder / "golden.json").write_bytes(codec.encode(vectors))
    base = Bundle.open(TINY).manifest
    signature = base.model.signatures[0]
    assert base.classifier is not None
    manifest: Manifest = msgspec.structs.replace(
        base,
        name=name,
        version=version,
        files=file_entries([folder / "model.tflite", folder / "golden.json"]),
        model=msgspec.structs.replace(
            base.model,
            arena_bytes=arena_bytes or report.arena_bytes,
            signatures=[signature],
            parameters=len(model),
        ),
        front_end=type(base.front_end)(config=config),  # type: ignore[call-arg]
        golden=msgspec.structs.replace(base.golden, file="golden.json", count=len(vectors)),
        classifier=msgspec.structs.replace(base.classifier, labels=LABELS),
        baseline=None,
    )
    (folder / "manifest.json").write_bytes(codec.encode(manifest))
    return Bundle.open(folder)
