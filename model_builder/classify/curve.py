"""A learning curve: would more labelled rows help?

The real recipe would take its whole time for each point, so a model that takes a second stands
for it: TF-IDF of words and characters with a ridge classifier. Its height is not the bundle's;
its slope says what more rows are worth.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from contracts.text import normalize
from model_builder.data.dataset import Dataset
from model_builder.data.language import piece_lengths
from model_builder.seeds import derive

_MOST_ROWS: Final = 16_000
_MOST_HELD: Final = 4_000
_SHARES: Final = (0.125, 0.25, 0.5, 1.0)
_LEAST_ROWS: Final = 40


def learning_curve(dataset: Dataset, seed: int) -> dict[str, Any]:
    """Accuracy of the stand-in at an eighth to all of the training rows.

    Returns:
        ``points`` of rows and accuracy, and ``doubling``: what twice the rows would add, by the
        last two steps of the curve; None where there are too few rows to tell.
    """
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import RidgeClassifier

    rng = np.random.default_rng(derive(seed, "curve"))
    texts, targets = dataset.train.texts, dataset.train.targets
    held = [*dataset.validation.texts, *dataset.test.texts]
    held_targets = np.concatenate([dataset.validation.targets, dataset.test.targets])
    order = rng.permutation(len(texts))[:_MOST_ROWS]
    judged = rng.permutation(len(held))[:_MOST_HELD]
    if len(order) < _LEAST_ROWS or not len(judged):
        return {"points": [], "doubling": None}
    cleaned = [normalize(text) or "-" for text in texts]
    wanted = [normalize(held[i]) or "-" for i in judged]
    lengths = piece_lengths(texts, (3, 4))
    points: list[dict[str, Any]] = []
    for share in _SHARES:
        found = []
        for turn in range(3 if share < 1 else 1):
            part = np.roll(order, turn * len(order) // 3)[: max(2, int(share * len(order)))]
            if len(set(targets[part].tolist())) < 2:
                continue
            own = [cleaned[i] for i in part]
            words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=30_000)
            pieces = TfidfVectorizer(
                analyzer="char_wb", ngram_range=lengths, sublinear_tf=True, max_features=30_000
            )
            try:
                features = hstack([words.fit_transform(own), pieces.fit_transform(own)]).tocsr()
            except ValueError:  # no words at all
                continue
            model = RidgeClassifier(alpha=1.0).fit(features, targets[part])
            test = hstack([words.transform(wanted), pieces.transform(wanted)]).tocsr()
            found.append(float((model.predict(test) == held_targets[judged]).mean()))
        if found:
            points.append(
                {"rows": int(share * len(order)), "accuracy": round(float(np.mean(found)), 4)}
            )
    return {"points": points, "doubling": _doubling([float(p["accuracy"]) for p in points])}


def _doubling(accuracies: list[float]) -> float | None:
    """The gain of the next doubling: the last gain, shrunk as it shrank from the one before."""
    if len(accuracies) < 3:
        return None
    before, last = accuracies[-2] - accuracies[-3], accuracies[-1] - accuracies[-2]
    if last <= 0:
        return 0.0
    shrink = min(0.9, max(0.3, last / before)) if before > 0 else 0.5
    return round(min(last * shrink, 1 - accuracies[-1]), 4)
