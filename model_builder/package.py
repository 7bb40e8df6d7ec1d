"""A trained, converted classifier to a bundle folder that is whole or not there at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts import codec
from contracts.bundle import MANIFEST, Bundle, file_entries
from contracts.errors import RefusedError
from contracts.histogram import Histogram
from contracts.manifest import (
    Baseline,
    Classifier,
    Golden,
    GoldenVector,
    Manifest,
    ModelFacts,
    NgramFrontEnd,
    Provenance,
)
from contracts.text import NgramConfig, ngram_ids
from model_builder import tflm
from model_builder.convert import Runner, Runtime, runs_on_tflite_runtime, write_atomically
from model_builder.metrics import softmax

MODEL_FILE = "model.tflite"
GOLDEN_FILE = "golden.json"


class ClassifierParts(msgspec.Struct):
    """All that goes into a classifier's bundle.

    Attributes:
        name, version: of the bundle.
        model: the ``.tflite`` file, full int8.
        features: its front end.
        labels: in the order of the model's outputs.
        golden_texts: inputs of the golden vectors.
        baseline_logits: float32 [N, C] of the int8 model on the test split, for drift.
        temperature, threshold: what turns logits into an answer.
        boards: that it fits; none: any.
        metrics: for the manifest, JSON values.
        provenance: digests and versions.
        peak_rss_bytes: memory that loading and running added.
        extra: more files, name -> bytes (model card).
    """

    name: str
    version: str
    model: bytes
    features: NgramConfig
    labels: list[str]
    golden_texts: list[str]
    baseline_logits: NDArray[np.float32]
    temperature: float = 1.0
    threshold: float = 0.0
    boards: list[str] = []
    metrics: dict[str, Any] = {}
    provenance: Provenance = Provenance()
    peak_rss_bytes: int | None = None
    extra: dict[str, bytes] = {}


def baseline(
    logits: NDArray[np.float32], labels: list[str], temperature: float, threshold: float
) -> Baseline:
    """Shares of the answers and the confidences on the test split."""
    probabilities = softmax(logits, temperature)
    best, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    histogram = Histogram("unit20")
    for value in confidence:
        histogram.add(float(value))
    shares: dict[str, float] = {}
    for index, value in zip(best, confidence, strict=True):
        label = labels[int(index)] if value >= threshold else "unknown"
        shares[label] = shares.get(label, 0.0) + 1.0
    return Baseline(
        {label: round(count / len(best), 6) for label, count in sorted(shares.items())}, histogram
    )


def write_classifier(folder: Path, parts: ClassifierParts) -> Bundle:
    """Writes the bundle folder: model, golden vectors, manifest.

    The golden outputs are LiteRT's. TensorFlow Lite Micro replays them here when it can run the
    model; an output more than the tolerance away stops the build.

    Raises:
        RefusedError: ``runtimes-disagree``.
    """
    runner = Runner(parts.model)
    ids = np.array([ngram_ids(text, parts.features)[0] for text in parts.golden_texts], np.int32)
    outputs = runner.quantised(ids)
    report, micro = tflm.measure(parts.model, ids)
    tolerance = Golden.__struct_defaults__[0]
    if micro is not None:
        steps = int(np.abs(outputs.astype(np.int32) - micro.astype(np.int32)).max())
        if steps > tolerance:
            raise RefusedError(
                "runtimes-disagree",
                f"LiteRT and TensorFlow Lite Micro differ by {steps} steps on the golden vectors; "
                f"at most {tolerance} is accepted",
            )
        keep = (outputs.argmax(1) == micro.argmax(1)).nonzero()[0]
    else:
        keep = np.arange(len(outputs))
    vectors = [
        GoldenVector(
            parts.golden_texts[i],
            [int(v) for v in outputs[i]],
            parts.labels[int(outputs[i].argmax())],
        )
        for i in keep
    ]
    runtimes: list[Runtime] = ["litert"]
    if runs_on_tflite_runtime(parts.model):
        runtimes.append("tflite-runtime")
    if micro is not None:
        runtimes.append("tflm")
    files = {
        MODEL_FILE: parts.model,
        GOLDEN_FILE: codec.encode(vectors),
        **parts.extra,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name, data in files.items():
            write_atomically(staging / name, data)
        manifest = Manifest(
            schema=1,
            name=parts.name,
            version=parts.version,
            task="classify",
            files=file_entries(staging / name for name in files),
            model=ModelFacts(
                file=MODEL_FILE,
                quantization="int8",
                signatures=runner.signatures(),
                operators=runner.operators(),
                parameters=runner.parameters(),
                arena_bytes=report.arena_bytes,
                peak_rss_bytes=parts.peak_rss_bytes,
                runtimes=runtimes,
            ),
            front_end=NgramFrontEnd(parts.features),
            golden=Golden(GOLDEN_FILE, len(vectors)),
            classifier=Classifier(parts.labels, parts.temperature, parts.threshold),
            boards=parts.boards,
            metrics=parts.metrics,
            baseline=baseline(
                parts.baseline_logits, parts.labels, parts.temperature, parts.threshold
            ),
            provenance=parts.provenance,
        )
        write_atomically(staging / MANIFEST, codec.pretty(manifest))
        Bundle.open(staging).verify()
        staging.chmod(0o755)
        _swap(staging, folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return Bundle.open(folder)


def _swap(staging: Path, folder: Path) -> None:
    """Puts `staging` where `folder` is; an older one is moved away first, then deleted."""
    if folder.exists():
        old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
        folder.rename(old / folder.name)
        staging.rename(folder)
        shutil.rmtree(old)
    else:
        staging.rename(folder)
    descriptor = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
