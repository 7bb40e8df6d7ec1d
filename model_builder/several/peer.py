"""One model a label: TF-IDF with logistic regression, which people would have used instead.

The report has its figures beside the student's, and the student learns from it too.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_builder.teachers.counted import counters

_STRENGTH: Final = 20.0


class OneVsRest:
    """Words, pairs and pieces of words, and a logistic regression for each label.

    Args:
        classes: how many labels (C).
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._parts: list[Any] = []
        self._models: list[Any] = []
        self._rates: NDArray[np.float64] = np.zeros(classes)

    def train(self, texts: Sequence[str], targets: NDArray[np.bool_]) -> None:
        """Fits it; targets are bool [N, C]."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        usable = []
        for part in counters(self._classes, texts):
            try:
                usable.append(part.fit(texts))
            except ValueError:  # no words of two letters
                continue
        self._parts = usable
        self._rates = targets.mean(axis=0)
        if not usable:
            return
        features = self._features(texts)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            for column in targets.T:
                model = None
                if 0 < column.sum() < len(column):
                    model = LogisticRegression(C=_STRENGTH, solver="liblinear", random_state=0)
                    model.fit(features, column)
                self._models.append(model)

    def _features(self, texts: Sequence[str]) -> Any:
        import scipy.sparse

        return scipy.sparse.hstack([part.transform(texts) for part in self._parts]).tocsr()

    def shares(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The chance of each label, float32 [N, C]."""
        shares = np.tile(self._rates.astype(np.float32), (len(texts), 1))
        if self._models and len(texts):
            features = self._features(texts)
            for place, model in enumerate(self._models):
                if model is not None:
                    shares[:, place] = model.predict_proba(features)[:, 1]
        return shares
