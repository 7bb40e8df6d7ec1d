"""Bundles for tests that never run the model: whole and well-formed, but the weights are noise.

For a bundle that runs use ``tests/data/tiny-classifier-1.0.0``.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import msgspec

from contracts import codec
from contracts.bundle import MANIFEST, Bundle, file_entries
from contracts.histogram import Histogram
from contracts.manifest import (
    AdapterFacts,
    AlphabetFrontEnd,
    BaseFrontEnd,
    Baseline,
    Classifier,
    Golden,
    GoldenVector,
    Manifest,
    ModelFacts,
    NgramFrontEnd,
    SignatureSpec,
    TensorSpec,
)
from contracts.messages import BundleRef
from contracts.text import NgramConfig

LABELS = ["lights-on", "lights-off", "weather"]


def noise_bundle(
    folder: Path, *, name: str = "noise", version: str = "1.0.0", size: int = 5000, seed: int = 0
) -> Bundle:
    """Writes a bundle folder `folder` with a model file of `size` random bytes."""
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(random.Random(seed).randbytes(size))
    vectors = [GoldenVector("turn on the lights", [100, -100, -128], "lights-on")]
    (folder / "golden.json").write_bytes(codec.encode(vectors))
    confidence = Histogram("unit20")
    confidence.add(0.9, 10)
    manifest = Manifest(
        schema=1,
        name=name,
        version=version,
        task="classify",
        files=file_entries(p for p in folder.iterdir() if p.name != MANIFEST),
        model=ModelFacts(
            file="model.tflite",
            quantization="int8",
            signatures=[
                SignatureSpec(
                    "serving_default",
                    [TensorSpec("ids", [1, 32], "int32")],
                    [TensorSpec("logits", [1, 3], "int8", 0.1, 0)],
                )
            ],
            operators=["FULLY_CONNECTED", "GATHER"],
            parameters=size,
            arena_bytes=8000,
            peak_rss_bytes=1_000_000,
            runtimes=["litert", "tflite-runtime", "tflm"],
        ),
        front_end=NgramFrontEnd(NgramConfig(buckets=64, length=32)),
        golden=Golden("golden.json", len(vectors)),
        classifier=Classifier(LABELS),
        baseline=Baseline(dict.fromkeys(LABELS, 1 / 3), confidence),
    )
    (folder / MANIFEST).write_bytes(codec.pretty(manifest))
    return Bundle.open(folder)


def noise_generator(folder: Path, *, name: str = "words") -> Bundle:
    """The same of a generator, for devices whose models are scripted."""
    bundle = noise_bundle(folder, name=name)
    return rewrite(bundle, task="generate", front_end=AlphabetFrontEnd("ab"), classifier=None)


def noise_adapter(folder: Path, base: BundleRef, *, name: str = "home") -> Bundle:
    """The same of an adapter: whole, of a base that need not be there."""
    bundle = noise_bundle(folder, name=name)
    model = msgspec.structs.replace(
        bundle.manifest.model, quantization="dynamic-int8", signatures=[], arena_bytes=None
    )
    return rewrite(
        bundle, task="generate", model=model, front_end=BaseFrontEnd(), classifier=None,
        baseline=None, adapter=AdapterFacts(base, 4, ["q"]),
    )  # fmt: skip


def rewrite(bundle: Bundle, **changes: object) -> Bundle:
    """The same bundle folder with fields of its manifest changed."""
    changed = msgspec.structs.replace(bundle.manifest, **changes)
    (bundle.path / MANIFEST).write_bytes(codec.pretty(changed))
    return Bundle.open(bundle.path)


def relabelled(
    folder: Path, source: Path, version: str, labels: Mapping[str, str] | None = None
) -> Bundle:
    """A copy of a classifier in `folder`, as another version, its labels renamed.

    It runs, and its self-test holds: with other names it contradicts the original on every text.
    """
    names = labels or {}
    Bundle.open(source).extract(folder)
    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    assert manifest.classifier is not None
    vectors = [
        msgspec.structs.replace(vector, label=names.get(vector.label or "", vector.label))
        for vector in bundle.golden()
    ]
    (folder / manifest.golden.file).write_bytes(codec.encode(vectors))
    classifier = msgspec.structs.replace(
        manifest.classifier,
        labels=[names.get(label, label) for label in manifest.classifier.labels],
    )
    files = file_entries(p for p in folder.iterdir() if p.name != MANIFEST)
    return rewrite(bundle, version=version, classifier=classifier, files=files, baseline=None)
