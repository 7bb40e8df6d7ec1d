"""TF-IDF with logistic regression: what people would have used instead, as part of a teacher.

It knows the training rows' own words in any language, where an encoder may know none; the two
together are often better than either.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_builder.data.language import piece_lengths

_MOST_FEATURES: Final = 200_000
_MOST_WEIGHTS: Final = 6_000_000
"""Of words, and of pieces: with 150 labels and all features a fit takes minutes."""

_FEW: Final = 30
"""Labels up to which a fit takes seconds."""

_BLOCK: Final = 4096


def counters(classes: int, texts: Sequence[str]) -> list[Any]:
    """What counts words and pairs of words, and what counts pieces of words, by how rare they are.

    Args:
        classes: how many labels (C): with many, fewer features are counted.
        texts: that will be counted, for their script.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    most = min(_MOST_FEATURES, max(20_000, _MOST_WEIGHTS // max(1, classes)))
    limit = {"sublinear_tf": True, "max_features": most, "dtype": np.float32}
    return [
        TfidfVectorizer(ngram_range=(1, 2), **limit),
        TfidfVectorizer(analyzer="char_wb", ngram_range=piece_lengths(texts, (2, 5)), **limit),
    ]


class CountedTeacher:
    """Words, pairs and character n-grams, weighted by how rare they are.

    Args:
        classes: how many labels (C).
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._model: Any = None

    def train(self, texts: Sequence[str], targets: NDArray[np.int64]) -> None:
        """Fits it; every label is in `targets`."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        self._words, self._chars = counters(self._classes, texts)
        self._words_used = True
        try:
            self._words.fit(texts)
        except ValueError:  # no words of two letters
            self._words_used = False
        try:
            self._chars.fit(texts)
        except ValueError:
            return
        # Stopped early, two labels lose half a point; with many, a turn takes seconds.
        turns, near = (100, 1e-4) if self._classes <= _FEW else (50, 1e-3)
        model = LogisticRegression(C=20.0, max_iter=turns, tol=near)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # near enough for a teacher
            self._model = model.fit(self._features(texts), targets)

    def _features(self, texts: Sequence[str]) -> Any:
        import scipy.sparse

        parts = [self._words.transform(texts)] if self._words_used else []
        return scipy.sparse.hstack([*parts, self._chars.transform(texts)]).tocsr()

    def shares(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Probabilities float32 [N, C]."""
        if self._model is None or not len(texts):
            return np.full((len(texts), self._classes), 1 / self._classes, np.float32)
        found = [
            self._model.predict_proba(self._features(texts[first : first + _BLOCK]))
            for first in range(0, len(texts), _BLOCK)
        ]
        shares = np.zeros((len(texts), self._classes), np.float32)
        shares[:, self._model.classes_] = np.concatenate(found)
        return shares
