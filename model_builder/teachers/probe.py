"""A linear head on sentence embeddings: multinomial logistic regression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def fit_probe(
    embeddings: NDArray[np.float32],
    targets: NDArray[np.int64],
    classes: int,
    strength: float = 20.0,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fits a head by L-BFGS, which has one answer whatever the order of the rows.

    Args:
        embeddings: float32 [N, E].
        targets: int64 [N], each of ``range(classes)`` at least once.
        classes: C.
        strength: inverse of the L2 penalty.

    Returns:
        weight float32 [E, C] and bias float32 [C].
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=200, tol=1e-3)
    model.fit(embeddings, targets)
    weight, bias = model.coef_.T, model.intercept_
    if classes == 2:  # one column for two classes: the other is its negative
        weight = np.concatenate([-weight / 2, weight / 2], axis=1)
        bias = np.concatenate([-bias / 2, bias / 2])
    return weight.astype(np.float32), bias.astype(np.float32)
