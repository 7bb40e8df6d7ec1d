"""The bag students' own training loop, in NumPy: an order of magnitude faster than a graph.

A step touches a few thousand rows of the table; what costs is the optimiser over all of it, which
is a handful of passes over memory. A search that trains a dozen students needs that.

The arithmetic is that of :class:`model_builder.students.ngram.NgramStudent`, of kind ``bag``;
AdamW with warm-up and cosine decay as in :mod:`model_builder.students.fit`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from model_builder.recipes.students import NgramStudentConfig
from model_builder.students.fakequant import LEVELS
from model_builder.students.ngram import NgramStudent

Floats = NDArray[np.float32]
_BLOCK: Final = 512
_INITIAL: Final = 0.01
"""Deviation of the table's first values: a row that training hardly met says next to nothing."""

_BETAS: Final = (0.9, 0.999)
_NAMES: Final = ("table", "from_mean", "from_max", "first_bias", "out", "out_bias")


class BagFit(msgspec.Struct, frozen=True):
    """How a bag is trained.

    Attributes:
        steps: of training.
        batch: texts a step, drawn by weight.
        rate: highest learning rate.
        weight_decay: decoupled.
        dropout: of the pooled features.
        feature_dropout: share of a text's ids hidden in a step.
        rounded_from: share of the steps after which the table is rounded as int8 will be.
        several: a text may have several labels: each is learned for itself.
    """

    steps: int
    batch: int = 128
    rate: float = 3e-3
    weight_decay: float = 1e-4
    dropout: float = 0.1
    feature_dropout: float = 0.2
    rounded_from: float = 0.5
    several: bool = False


class Bag:
    """A bag student's weights as arrays.

    Args:
        config: of kind ``bag``.
        classes: how many labels (C).
        seed: of the initial weights.
    """

    def __init__(self, config: NgramStudentConfig, classes: int, seed: int) -> None:
        rng = np.random.default_rng(seed)

        def glorot(rows: int, columns: int) -> Floats:
            scale = np.sqrt(2.0 / (rows + columns))
            return np.asarray(rng.normal(size=(rows, columns), scale=scale), np.float32)

        features, hidden = config.features, config.hidden
        self.config = config
        size = (features.buckets, config.dim)
        table = rng.normal(size=size, scale=_INITIAL).astype(np.float32)
        table[0] = 0
        first = hidden or classes
        self.weights: dict[str, Floats] = {
            "table": table,
            "from_mean": glorot(config.dim, first),
            "first_bias": np.zeros(first, np.float32),
        }
        if config.max_pool:
            self.weights["from_max"] = glorot(config.dim, first)
        if hidden:
            self.weights["out"] = glorot(hidden, classes)
            self.weights["out_bias"] = np.zeros(classes, np.float32)
        self.limit = np.float32(config.clip * NgramStudent.INITIAL)
        # The sum of the rows times this is the mean over all ids times the student's gain.
        self.share = np.float32(1 / NgramStudent.USUAL)

    def rounded(self, rows: Floats) -> Floats:
        """Rows of the table on its int8 grid."""
        step = self.limit / np.float32(LEVELS)
        found: Floats = rows / step
        np.rint(found, out=found)
        found *= step
        return found

    def logits(self, ids: NDArray[np.int32]) -> Floats:
        """Float32 [N, C] of ids int32 [N, L], with the table rounded."""
        table = self.rounded(self.weights["table"])
        found = []
        for first in range(0, len(ids), _BLOCK):
            rows = table[_trimmed(ids[first : first + _BLOCK]).T]
            found.append(self._top(rows.sum(axis=0), rows.max(axis=0))[-1])
        return np.concatenate(found)

    def _top(self, total: Floats, largest: Floats) -> tuple[Any, Any]:
        """The first layer's sums, and the logits."""
        own = self.weights
        first = (total * self.share) @ own["from_mean"] + own["first_bias"]
        if "from_max" in own:
            first = first + largest @ own["from_max"]
        if "out" not in own:
            return first, first
        return first, np.maximum(first, 0) @ own["out"] + own["out_bias"]

    def student(self, classes: int) -> NgramStudent:
        """The same weights as a TensorFlow module, which is what is converted."""
        student = NgramStudent(self.config, classes, 0)
        for name in _NAMES:
            if name in self.weights:
                getattr(student, name).assign(self.weights[name])
        return student


def train_bag(
    bag: Bag,
    ids: NDArray[np.int32],
    targets: Floats,
    weights: NDArray[np.float64],
    fit: BagFit,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Trains `bag` in place.

    Args:
        bag: changed.
        ids: int32 [N, L].
        targets: float32 [N, C], rows sum to 1; with ``fit.several`` each is a chance.
        weights: float64 [N], how often a row is drawn, in any unit.
        fit: how.
        seed: of draws and dropout.
        progress: is told of the steps.
    """
    with threadpool_limits(1, "blas"):  # these products are too small to share out
        _steps(bag, ids, targets, weights, fit, seed, progress)


def _steps(
    bag: Bag,
    ids: NDArray[np.int32],
    targets: Floats,
    weights: NDArray[np.float64],
    fit: BagFit,
    seed: int,
    progress: Callable[[int, int], None],
) -> None:
    rng = np.random.default_rng(seed)
    used = (ids != 0).sum(axis=1)
    edges = np.cumsum(weights)
    edges /= edges[-1]
    optimiser = _Adam(bag.weights, fit)
    for step in range(fit.steps):
        rows = np.minimum(np.searchsorted(edges, rng.random(fit.batch)), len(ids) - 1)
        part = ids[rows, : int(used[rows].max(initial=0)) + 1]
        if fit.feature_dropout:
            part = np.where(rng.random(part.shape) < fit.feature_dropout, 0, part)
        rounded = step >= fit.rounded_from * fit.steps
        optimiser.step(_gradients(bag, part, targets[rows], fit, rng, rounded), step)
        table = bag.weights["table"]
        np.clip(table, -bag.limit, bag.limit, out=table)
        table[0] = 0
        if step % 50 == 49 or step + 1 == fit.steps:
            progress(step + 1, fit.steps)


def _gradients(
    bag: Bag,
    ids: NDArray[np.int32],
    targets: Floats,
    fit: BagFit,
    rng: np.random.Generator,
    rounded: bool,
) -> dict[str, Floats]:
    own, count = bag.weights, len(ids)
    kept = 1 / (1 - fit.feature_dropout)
    where = _where(ids, len(own["table"]))

    def mask() -> Floats:
        keep = rng.random((count, bag.config.dim)) >= fit.dropout
        return np.asarray(keep / (1 - fit.dropout), np.float32)

    masks = [mask(), mask()]
    largest, best = own["table"], None
    if "from_max" in own:
        rows = own["table"][ids.T]  # [L, n, D]: maxima then run along memory
        top = rows.max(axis=0)
        best = np.zeros(top.shape, np.int64)  # [n, D]: where it is
        for place, row in enumerate(rows):
            np.copyto(best, place, where=row == top)
        largest = (bag.rounded(top) if rounded else top) * masks[1]  # rounding keeps the order
    # Sparse, so that padding, which may be most of the ids, costs nothing.
    total = np.asarray(where @ (bag.rounded(own["table"]) if rounded else own["table"]))
    total = total * masks[0] * np.float32(kept)
    first, logits = bag._top(total, largest)
    if fit.several:
        shares = 0.5 * (1 + np.tanh(0.5 * logits))
    else:
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = powers / powers.sum(axis=1, keepdims=True)
    error = (shares - targets) / np.float32(count)
    found: dict[str, Floats] = {}
    if "out" in own:
        found["out"] = np.maximum(first, 0).T @ error
        found["out_bias"] = error.sum(axis=0)
        error = (error @ own["out"].T) * (first > 0)
    found["first_bias"] = error.sum(axis=0)
    found["from_mean"] = (total * bag.share).T @ error
    back = (error @ own["from_mean"].T) * masks[0] * (bag.share * np.float32(kept))
    found["table"] = np.asarray(where.T @ back, np.float32)  # [B, D]
    if best is not None:
        found["from_max"] = largest.T @ error
        back = (error @ own["from_max"].T) * masks[1]
        chosen = np.take_along_axis(ids, best, axis=1)
        flat = chosen.astype(np.int64) * bag.config.dim + np.arange(bag.config.dim)
        np.add.at(found["table"].reshape(-1), flat.reshape(-1), back.reshape(-1))
    return found


def _where(ids: NDArray[np.int32], size: int) -> Any:
    """Ids [n, L] as a sparse float32 [n, size] that counts them; no padding."""
    used = ids != 0
    edges = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    counts = np.ones(int(edges[-1]), np.float32)
    return scipy.sparse.csr_matrix((counts, ids[used], edges), shape=(len(ids), size))


def _trimmed(ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """Without the columns that are padding in every row, but one: the maximum sees it."""
    used = int((ids != 0).sum(axis=1).max(initial=0)) + 1
    return ids[:, : min(ids.shape[1], used)]


class _Adam:
    """AdamW over named arrays, in place."""

    def __init__(self, weights: dict[str, Floats], fit: BagFit) -> None:
        self._weights = weights
        self._fit = fit
        self._first = {name: np.zeros_like(value) for name, value in weights.items()}
        self._second = {name: np.zeros_like(value) for name, value in weights.items()}

    def step(self, gradients: dict[str, Floats], number: int) -> None:
        fit, (slow, slower) = self._fit, _BETAS
        warm = min(1.0, (number + 1) / max(1.0, 0.05 * fit.steps))
        rate = fit.rate * warm * 0.5 * (1 + np.cos(np.pi * number / fit.steps))
        size = np.float32(rate * np.sqrt(1 - slower ** (number + 1)) / (1 - slow ** (number + 1)))
        for name, gradient in gradients.items():
            first, second = self._first[name], self._second[name]
            weight = self._weights[name]
            first *= np.float32(slow)
            first += np.float32(1 - slow) * gradient
            second *= np.float32(slower)
            np.multiply(gradient, gradient, out=gradient)
            second += np.float32(1 - slower) * gradient
            np.sqrt(second, out=gradient)
            gradient += np.float32(1e-7)
            np.divide(first, gradient, out=gradient)
            gradient *= size
            weight *= np.float32(1 - rate * fit.weight_decay)
            weight -= gradient
