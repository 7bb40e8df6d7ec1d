"""Cleaning: duplicates, texts with two labels, leaks between splits, likely label noise."""

from __future__ import annotations

from collections import Counter

import msgspec

from contracts.errors import InputError
from contracts.text import normalize
from model_builder.data.rows import Row


class CleanReport(msgspec.Struct):
    """What cleaning found.

    Attributes:
        rows: before.
        duplicates: rows dropped because the same normalised text had the same label.
        conflicts: normalised texts with more than one label, with those labels (at most 50).
        conflict_rows: rows dropped for that.
        leaked: validation or test rows dropped because training has the text.
        noise: rows whose label a cross-validated classifier doubts: text, label, suggestion.
        warnings: sentences for people.
    """

    rows: int = 0
    duplicates: int = 0
    conflicts: list[tuple[str, list[str]]] = []
    conflict_rows: int = 0
    leaked: int = 0
    noise: list[dict[str, str]] = []
    warnings: list[str] = []


def clean(rows: list[Row], report: CleanReport, *, deduplicate: bool, conflicts: str) -> list[Row]:
    """The rows without duplicates and without texts of two labels.

    Args:
        rows: labelled.
        report: is filled.
        deduplicate: keep the first of equal rows.
        conflicts: ``drop`` or ``error``.

    Raises:
        InputError: ``conflicting-labels``.
    """
    report.rows += len(rows)
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(normalize(row.text), set()).add(row.label)
    torn = {text: sorted(names) for text, names in labels.items() if len(names) > 1}
    if torn and conflicts == "error":
        text, names = next(iter(torn.items()))
        raise InputError(
            "conflicting-labels",
            f"{len(torn)} texts have more than one label, for example {text[:80]!r}: "
            f"{', '.join(names)}; correct them or set clean.conflicts: drop",
        )
    report.conflicts += list(torn.items())[: 50 - len(report.conflicts)]
    kept: list[Row] = []
    seen: set[str] = set()
    for row in rows:
        key = normalize(row.text)
        if key in torn:
            report.conflict_rows += 1
        elif deduplicate and key in seen:
            report.duplicates += 1
        else:
            seen.add(key)
            kept.append(row)
    return kept


def drop_leaks(held: list[Row], other: list[Row], report: CleanReport, what: str) -> list[Row]:
    """`other` without the rows whose normalised text is in the `held` split; `what` names both."""
    known = {normalize(row.text) for row in held}
    kept = [row for row in other if normalize(row.text) not in known]
    lost = len(other) - len(kept)
    if lost:
        report.leaked += lost
        report.warnings.append(f"{lost} {what} too: left out")
    return kept


def check_classes(train: list[Row], report: CleanReport) -> list[str]:
    """The labels, sorted.

    Raises:
        InputError: ``too-few-classes``, ``class-too-small``.
    """
    counts = Counter(row.label for row in train)
    if len(counts) < 2:
        found = ", ".join(counts) or "none"
        raise InputError(
            "too-few-classes", f"a classifier needs two labels or more; found {found[:80]}"
        )
    lonely = sorted(label for label, count in counts.items() if count == 1)
    if lonely:
        raise InputError(
            "class-too-small",
            f"{len(lonely)} labels have a single training text: {', '.join(lonely)[:200]}; "
            "add texts or remove them",
        )
    small = sorted(label for label, count in counts.items() if count < 10)
    if small:
        report.warnings.append(
            f"{len(small)} labels have fewer than 10 training texts: {', '.join(small)[:200]}"
        )
    return sorted(counts)


def noise_report(
    rows: list[Row], labels: list[str], seed: int, most: int = 50
) -> list[dict[str, str]]:
    """Rows whose own label a classifier trained on the others finds very unlikely.

    C. Northcutt et al., "Confident Learning" (2021), with TF-IDF and a linear model, which
    takes seconds. The most doubtful come first.
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    counts = Counter(row.label for row in rows)
    folds = min(3, *counts.values())
    if folds < 2:
        return []
    index = {label: i for i, label in enumerate(labels)}
    target = np.array([index[row.label] for row in rows])
    matrix = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=30_000)
    features = matrix.fit_transform([normalize(row.text) or "-" for row in rows])
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
        {"text": rows[i].text[:200], "label": rows[i].label, "suggestion": labels[int(best[i])]}
        for i in doubtful
    ]
