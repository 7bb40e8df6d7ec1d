"""A trained, converted classifier to a bundle folder that is whole or not there at all."""

from __future__ import annotations

import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts import __version__, codec
from contracts.bundle import MANIFEST, Bundle, file_entries
from contracts.folders import put_folder
from contracts.histogram import Histogram
from contracts.manifest import (
    SEVERAL_SCHEMA,
    Baseline,
    Classifier,
    Manifest,
    ModelFacts,
    Provenance,
)
from model_builder.classify.candidate import GOLDEN_FILE, MODEL_FILE, Candidate
from model_builder.classify.metrics import sigmoid, softmax
from model_builder.convert import Runner, write_atomically


class ClassifierParts(msgspec.Struct):
    """All that goes into a classifier's bundle.

    Attributes:
        name, version: of the bundle.
        candidate: the model with its front end.
        labels: in the order of the model's outputs.
        golden_texts: inputs of the golden vectors.
        baseline_logits: float32 [N, C] of the model file on the test split, for drift.
        temperature, threshold: what turns logits into an answer.
        cuts: of each label, where a text may have several.
        boards: that it fits; none: any.
        metrics: for the manifest, JSON values.
        provenance: digests and versions.
        peak_rss_bytes: memory that loading and running added.
        extra: more files, name -> bytes (model card).
    """

    name: str
    version: str
    candidate: Candidate
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
    cuts: list[int] = []


def baseline_of_several(
    chances: NDArray[np.float64], said: NDArray[np.bool_], labels: list[str]
) -> Baseline:
    """Shares of the texts that get each label, and the confidences of their surest one.

    Args:
        chances: float64 [N, C].
        said: bool [N, C]: which labels are given.
        labels: C.
    """
    histogram = Histogram("unit20")
    for row, given in zip(chances, said, strict=True):
        histogram.add(float(row[given].max() if given.any() else row.max()))
    shares = {label: float(share) for label, share in zip(labels, said.mean(axis=0), strict=True)}
    none = float((~said.any(axis=1)).mean())
    if none:
        shares["unknown"] = min(1.0, shares.get("unknown", 0.0) + none)
    found = {label: round(share, 6) for label, share in sorted(shares.items()) if share}
    return Baseline(found, histogram)


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
    """Writes the bundle folder: model, front end, golden vectors, manifest.

    Raises:
        RefusedError: ``runtimes-disagree``.
    """
    candidate = parts.candidate
    runner = Runner(candidate.model)
    if parts.cuts:
        chances = sigmoid(parts.baseline_logits / parts.temperature)
        said = runner.steps(parts.baseline_logits) >= np.array(parts.cuts)
        usual = baseline_of_several(chances, said, parts.labels)
    else:
        usual = baseline(parts.baseline_logits, parts.labels, parts.temperature, parts.threshold)
    arena = candidate.arena(parts.golden_texts[0])
    vectors = candidate.golden(parts.golden_texts, parts.labels)
    files = {
        MODEL_FILE: candidate.model,
        GOLDEN_FILE: codec.encode(vectors),
        **candidate.files,
        **parts.extra,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name, data in files.items():
            write_atomically(staging / name, data)
        manifest = Manifest(
            schema=SEVERAL_SCHEMA if parts.cuts else 1,
            name=parts.name,
            version=parts.version,
            task="classify",
            files=file_entries(staging / name for name in files),
            model=ModelFacts(
                file=MODEL_FILE,
                quantization=candidate.quantization,
                signatures=runner.signatures(),
                operators=runner.operators(),
                parameters=runner.parameters(),
                arena_bytes=arena.arena_bytes,
                peak_rss_bytes=parts.peak_rss_bytes,
                runtimes=candidate.runtimes(),
            ),
            front_end=candidate.front_end,
            golden=candidate.golden_rule(len(vectors)),
            classifier=Classifier(parts.labels, parts.temperature, parts.threshold, parts.cuts),
            boards=parts.boards,
            metrics=parts.metrics,
            baseline=usual,
            provenance=parts.provenance,
        )
        write_atomically(staging / MANIFEST, codec.pretty(manifest))
        Bundle.open(staging).verify()
        staging.chmod(0o755)
        put_folder(staging, folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return Bundle.open(folder)


def versions() -> dict[str, str]:
    """Versions of what a build was made with."""
    found = {"shoal": __version__}
    for package in ("tensorflow-cpu", "tensorflow", "ai-edge-litert", "tflite-micro", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
