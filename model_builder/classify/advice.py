"""What a report means for whoever decides: good at what, confused by what, what to label next."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

_STRONG: Final = 0.9
_WEAK: Final = 0.75
_FEW: Final = 30
"""Rows of a label below which more of them are the first thing to try."""


class Confusion(msgspec.Struct, frozen=True):
    """How often texts of `label` are answered with `answer`, of how many."""

    label: str
    answer: str
    times: int
    of: int


class Wish(msgspec.Struct, frozen=True):
    """A label that more or better rows would help, and why."""

    label: str
    why: str


def confusions(report: dict[str, Any], most: int = 12) -> list[Confusion]:
    """The largest ones first."""
    labels = report["confusion"]["labels"]
    matrix = np.array(report["confusion"]["matrix"])
    totals = matrix.sum(axis=1)
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:most]
    places = [np.unravel_index(i, matrix.shape) for i in order]
    return [
        Confusion(labels[int(r)], labels[int(c)], int(matrix[r, c]), int(totals[r]))
        for r, c in places
        if matrix[r, c]
    ]


def strong(report: dict[str, Any]) -> list[str]:
    """Labels that it knows well, best first."""
    rows = [r for r in report["per_class"] if r["support"] and r["f1"] >= _STRONG]
    return [r["label"] for r in sorted(rows, key=lambda r: (-r["f1"], -r["support"], r["label"]))]


def weak(report: dict[str, Any]) -> list[str]:
    """Labels that it does not, worst first."""
    rows = [r for r in report["per_class"] if r["support"] and r["f1"] < _WEAK]
    return [r["label"] for r in sorted(rows, key=lambda r: (r["f1"], r["label"]))]


def one_sided(report: dict[str, Any]) -> list[str]:
    """Warnings where a model says little more than the most frequent label; empty: none."""
    matrix = np.array(report["confusion"]["matrix"])
    rows, said = matrix.sum(axis=1), matrix.sum(axis=0)
    labels = report["confusion"]["labels"]
    if not rows.any():
        return []
    found = []
    never = [labels[i] for i in np.nonzero((rows > 0) & (said == 0))[0]]
    if never:
        named = ", ".join(never[:8]) + (" and others" if len(never) > 8 else "")
        found.append(f"never answered, though there are rows of them: {named}; label more of them")
    right, always = matrix.trace() / rows.sum(), rows.max() / rows.sum()
    if right <= always:
        largest = labels[int(rows.argmax())]
        found.append(
            f"always answering {largest!r} would be right on {always:.1%} of the rows, "
            f"and the model is on {right:.1%}: it is of no use yet"
        )
    return found


def label_next(report: dict[str, Any], most: int = 8) -> list[Wish]:
    """Labels in the order in which rows of them promise most: errors that they are part of."""
    counts = report["data"].get("rows_by_label", {})
    matrix = np.array(report["confusion"]["matrix"])
    labels = report["confusion"]["labels"]
    missed = matrix.sum(axis=1) - matrix.diagonal()
    taken = matrix.sum(axis=0) - matrix.diagonal()
    order = np.argsort(-(missed + 0.5 * taken), kind="stable")
    found = []
    for i in order[:most]:
        if not missed[i] + taken[i]:
            break
        rows = counts.get(labels[i])
        row = matrix[i].copy()
        row[i] = 0
        said = f"{missed[i]} of {matrix[i].sum()} missed"
        if row.any():
            said += f", most as {labels[int(row.argmax())]}"
        elif taken[i]:
            said = f"{taken[i]} texts of others are taken for it"
        if rows is not None:
            said += f"; {rows} training rows" + (", which is few" if rows < _FEW else "")
        found.append(Wish(labels[i], said))
    return found


def by_cluster(matrix: NDArray[Any]) -> NDArray[np.int64]:
    """Indices of the labels, those next to each other that are taken for one another.

    Average linkage over the share of answers that two labels exchange.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    count = len(matrix)
    if count < 3:
        return np.arange(count)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    near = (shares + shares.T) / 2
    distance = 1 - np.minimum(near, 1)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=count <= 200)
    return np.asarray(leaves_list(tree), np.int64)
