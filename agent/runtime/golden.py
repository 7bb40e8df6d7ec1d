"""The golden self-test of a classifier: replay the builder's vectors, count what holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from contracts.answers import Selftested
from contracts.errors import RefusedError
from contracts.manifest import Golden, GoldenVector, Manifest

if TYPE_CHECKING:
    from agent.runtime.classifier import Classifier


def replay(
    model: Classifier,
    vectors: list[GoldenVector],
    golden: Golden,
    checkpoint: Callable[[], None] = lambda: None,
) -> Selftested:
    """Runs every vector; one holds when its label is right and every int8 output near enough.

    `checkpoint` is called before each; it may raise to stop.
    """
    labels = model.manifest.classifier.labels if model.manifest.classifier else []
    passed = 0
    worst = 0
    for vector in vectors:
        checkpoint()
        raw = model.run(vector.text)
        steps = 0
        if vector.output and raw.output.dtype == np.int8:
            expected = np.array(vector.output, dtype=np.int64)
            if expected.shape != raw.output.shape:
                raise RefusedError(
                    "golden-mismatch",
                    f"a golden vector has {expected.size} outputs, the model {raw.output.size}",
                )
            steps = int(np.abs(expected - raw.output.astype(np.int64)).max())
        worst = max(worst, steps)
        passed += labels[raw.best] == vector.label and steps <= golden.max_steps
    return Selftested(model.ref, len(vectors), passed, worst, model.runtime)


def judge(result: Selftested, manifest: Manifest) -> None:
    """Holds a result against what the manifest demands.

    Raises:
        RefusedError: ``golden-mismatch`` with the counts.
    """
    golden = manifest.golden
    need = golden.min_label_agreement
    if result.vectors != golden.count or result.passed < need * result.vectors:
        raise RefusedError(
            "golden-mismatch",
            f"{result.passed} of {result.vectors} golden vectors hold in {result.runtime}; "
            f"the manifest demands {need:.0%} of {golden.count} within {golden.max_steps} steps "
            f"(the largest difference was {result.max_steps})",
            passed=result.passed,
            vectors=result.vectors,
            max_steps=result.max_steps,
        )
