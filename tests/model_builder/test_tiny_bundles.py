"""The committed tiny bundles are real: their golden vectors hold in LiteRT and in TFLM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contracts.bundle import Bundle
from contracts.manifest import NgramFrontEnd
from contracts.text import ngram_ids
from model_builder import tflm
from model_builder.convert import Runner

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
def test_golden_vectors_hold_in_both_runtimes(version: str) -> None:
    """Both runtimes give the expected label, and outputs within the manifest's tolerance."""
    bundle = Bundle.open(DATA / f"tiny-classifier-{version}")
    bundle.verify()
    front_end = bundle.manifest.front_end
    assert isinstance(front_end, NgramFrontEnd)
    vectors = bundle.golden()
    ids = np.array([ngram_ids(v.text, front_end.config)[0] for v in vectors], np.int32)
    expected = np.array([v.output for v in vectors], np.int32)
    model = bundle.read(bundle.manifest.model.file)
    report, micro = tflm.measure(model, ids)
    assert report.arena_bytes == bundle.manifest.model.arena_bytes
    assert micro is not None
    classifier = bundle.manifest.classifier
    assert classifier is not None
    for outputs in (Runner(model).quantised(ids), micro):
        assert np.abs(outputs.astype(np.int32) - expected).max() <= bundle.manifest.golden.max_steps
        assert [classifier.labels[i] for i in outputs.argmax(1)] == [v.label for v in vectors]
