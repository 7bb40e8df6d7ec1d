"""Rows whose label is probably wrong."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from contracts.labelled.rows import Row
from contracts.text import normalize
from model_builder.data.language import Writing, writing

_MOST_ROWS: Final = 30_000
"""Rows that are looked at, so that it does not take long."""


def noise_report(rows: list[Row], seed: int, most: int = 50) -> list[dict[str, Any]]:
    """Rows whose own label a classifier trained on the others finds very unlikely.

    C. Northcutt et al., "Confident Learning" (2021), with TF-IDF and a linear model. The most
    doubtful come first.
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    if len(rows) > _MOST_ROWS:
        chosen = np.random.default_rng(seed).permutation(len(rows))[:_MOST_ROWS]
        rows = [rows[int(i)] for i in np.sort(chosen)]
    counts = Counter(row.label for row in rows)
    rows = [row for row in rows if counts[row.label] > 1]
    folds = min(3, *(count for count in counts.values() if count > 1))
    labels = sorted({row.label for row in rows})
    if len(labels) < 2:
        return []
    index = {label: i for i, label in enumerate(labels)}
    target = np.array([index[row.label] for row in rows])
    texts = [normalize(row.text) or "-" for row in rows]
    matrix = TfidfVectorizer(
        analyzer="word" if writing(texts) is Writing.ALPHABET else "char_wb",
        ngram_range=(1, 2), sublinear_tf=True, max_features=30_000,
    )  # fmt: skip
    features = matrix.fit_transform(texts)
    scores = cross_val_predict(
        RidgeClassifier(alpha=1.0),
        features,
        target,
        cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
        method="decision_function",
    )
    if scores.ndim == 1:
        scores = np.stack([-scores, scores], axis=1)
    own = scores[np.arange(len(rows)), target]
    best = scores.argmax(axis=1)
    margin = scores.max(axis=1) - own
    doubtful = [i for i in np.argsort(-margin) if margin[i] > 0.5][:most]
    return [
        {
            "text": rows[i].text[:200],
            "label": rows[i].label,
            "suggestion": labels[int(best[i])],
            "place": rows[i].place,
        }
        for i in doubtful
    ]
