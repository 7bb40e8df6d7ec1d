"""A linear bag by convex fitting: what TF-IDF with logistic regression is, as an int8 student.

Features are weighted by how rare they are, words and pairs apart from pieces of words, since a
text has several pieces for each word and they would drown it. Texts have one length while the
weights are fitted: then a text's length changes how sure an answer is, and hardly which it is. So
the weights can be folded into the table: a device adds up its rows and needs neither the weighting
nor the length. With few labels a bias is fitted too, as a feature that is as small in a long text
as it is beside the sum on a device. Where a table of one column a label would have too few rows,
the weights are split into a product of two narrower matrices.

G. Salton, C. Buckley, "Term-weighting approaches in automatic text retrieval" (1988); D. C. Liu,
J. Nocedal, "On the limited memory BFGS method for large scale optimization" (1989).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from model_builder.students.bag import Bag

Floats = NDArray[np.float32]

_CUT: Final = 0.9999
"""Share of a column's weights that keep their size: one outlier would take the int8 grid."""

_PRIOR: Final = 0.1
"""Part of the labels' log frequencies that is the bias: it answers text that has no known word."""


_FEW: Final = 3
"""Labels up to which the bias is fitted; of many, rare ones are lost by it."""


class LinearFit(msgspec.Struct, frozen=True):
    """How a linear student is fitted.

    Attributes:
        strength: inverse of the penalty on the weights' squares.
        words: how much words and pairs count beside pieces of words.
        bias: how large the feature is whose weight is the bias: the smaller, the nearer to none.
        several: a text may have several labels: each is learned for itself. Whether it has one is
            asked of texts of any length, so they keep theirs, and each label has a bias.
    """

    strength: float = 30.0
    words: float = 1.4
    bias: float = 0.3
    several: bool = False


def fit_linear(
    bag: Bag,
    ids: NDArray[np.int32],
    words: NDArray[np.int32],
    targets: Floats,
    weights: NDArray[np.float64],
    fit: LinearFit,
    turns: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Fits `bag` in place; its shape has no hidden layer and no maximum.

    Args:
        bag: changed.
        ids: int32 [N, L].
        words: int32 [N, L], of the same texts with the same table, words and pairs alone.
        targets: float32 [N, C], rows sum to 1; with ``fit.several`` each is a chance.
        weights: float64 [N], how much a text counts, in any unit.
        fit: how.
        turns: of the optimiser, at most.
        progress: is told of the turns.
    """
    size = len(bag.weights["table"])
    counts = _counted(ids, size)
    used = np.asarray((counts > 0).sum(axis=0)).ravel()
    of_words = np.asarray((_counted(words, size) > 0).sum(axis=0)).ravel() * 2 > used
    where = np.nonzero(used)[0]
    counts, scale = counts[:, where], _rarity(used[where], len(ids))
    for kind, factor in ((of_words[where], fit.words), (~of_words[where], 1.0)):
        scale[kind] *= factor / (_lengths(counts[:, kind], scale[kind]).mean() or 1.0)
    lengths = _lengths(counts, scale)
    some = lengths > 0
    unit = np.zeros(len(ids))
    unit[some] = float(np.sqrt(1 + fit.words**2)) / lengths[some]
    if fit.several and some.any():
        unit[:] = unit[some].mean()
    features = scipy.sparse.diags(unit) @ counts @ scipy.sparse.diags(scale)
    features = features.astype(np.float32)
    share = weights * len(ids) / weights.sum()
    # A device reads no length: of a usual one, where the mean of the unit is.
    usual = float(unit[some].mean()) if some.any() else 1.0
    width = min(bag.config.dim, targets.shape[1])
    with threadpool_limits(1, "blas"):
        if fit.several:
            found, codes, bias = _fitted_each(
                features.tocsr(), targets, share, fit.strength, width, turns, progress
            )
        else:
            biased = targets.shape[1] <= _FEW
            if biased:
                column = (fit.bias / usual * unit[:, None]).astype(np.float32)
                features = scipy.sparse.hstack([features, column])
            found, codes = _fitted(
                features.tocsr(), targets, share, fit.strength, width, turns, progress
            )
            if biased:
                bias, found = fit.bias * (found[-1] @ codes), found[:-1]
            else:
                often = np.log(np.maximum(share @ targets, 1e-6))
                bias = _PRIOR * (often - often.mean())
    found *= (scale * usual)[:, None]
    _fold(bag, where, found, codes, bias)


def blend(bag: Bag, other: Bag, share: float) -> None:
    """Makes `bag` answer with its own logits and, by `share`, those of `other`: one linear student.

    Args:
        bag: changed.
        other: of the same shape; both fitted with columns for all labels, or all but one, which
            say the same of each label but for their size.
        share: between 0 and 1, of `other`.
    """
    own, beside = bag.weights, other.weights
    own["first_bias"][:] = (1 - share) * own["first_bias"] + share * beside["first_bias"]
    for column in range(len(own["from_mean"])):
        says, there = own["from_mean"][column], beside["from_mean"][column]
        if not says.any():  # nothing was learned, or the column is to spare
            says[:] = there
            ratio = 1.0 if there.any() else 0.0
        else:
            ratio = float(there @ says / (says @ says))
        mixed = (1 - share) * own["table"][:, column] + share * ratio * beside["table"][:, column]
        used = np.abs(mixed[mixed != 0])
        if not used.size:
            continue
        scale = float(bag.limit) / float(np.quantile(used, _CUT))
        own["table"][:, column] = np.clip(mixed * scale, -bag.limit, bag.limit)
        says /= scale


def _counted(ids: NDArray[np.int32], size: int) -> Any:
    used = ids != 0
    edges = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    found = scipy.sparse.csr_matrix(
        (np.ones(int(edges[-1]), np.float32), ids[used], edges), shape=(len(ids), size)
    )
    found.sum_duplicates()
    return found


def _rarity(used: NDArray[Any], texts: int) -> NDArray[np.float64]:
    return np.asarray(np.log((1 + texts) / (1 + used)) + 1, np.float64)


def _lengths(counts: Any, scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each text, float64 [N]."""
    return np.asarray(np.sqrt(counts.multiply(counts) @ scale**2), np.float64).ravel()


def _fitted(
    features: Any,
    targets: Floats,
    share: NDArray[np.float64],
    strength: float,
    width: int,
    turns: int,
    progress: Callable[[int, int], None],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights float64 [F, D] and what a column says of each label, float64 [D, C].

    Their product has the least surprise with small weights. As many columns as labels, but one,
    hold any weights; then what the columns say is fixed. Fewer are found with them.
    """
    rows, classes = features.shape[1], targets.shape[1]
    turned = features.T.tocsr()
    counts = share.astype(np.float32)[:, None]
    found = width < classes - 1
    # All labels alike change no answer: columns say how labels differ.
    directions = np.random.default_rng(0).normal(size=(classes, classes))
    directions[:, 0] = 1
    width = min(width, classes - 1)
    codes = np.linalg.qr(directions)[0][:, 1 : 1 + width].T  # [D, C]
    cut = rows * width
    done = 0

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        own = flat[:cut].reshape(rows, width)
        say = flat[cut:].reshape(width, classes) if found else codes
        inner = features @ own.astype(np.float32)
        logits = inner @ say.astype(np.float32)
        logits -= logits.max(axis=1, keepdims=True)
        log = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        error = (np.exp(log) - targets) * counts
        size, shape = own.T @ own, say @ say.T  # the product's squares are theirs
        value = float((size * shape).sum()) / (2 * strength) - float((targets * log * counts).sum())
        slope = turned @ (error @ say.T.astype(np.float32)) + own @ (shape / strength)
        if not found:
            return value, slope.ravel()
        other = inner.T @ error + size @ say / strength
        return value, np.concatenate([slope.ravel(), other.ravel()])

    def told(_: object) -> None:
        nonlocal done
        done = min(done + 1, turns)
        progress(done, turns)

    start = np.zeros(cut + codes.size * found)
    if found:
        start[cut:] = codes.ravel()
    options = {"maxiter": turns}
    best = minimize(loss, start, jac=True, method="L-BFGS-B", callback=told, options=options).x
    progress(turns, turns)
    return best[:cut].reshape(rows, width), best[cut:].reshape(width, classes) if found else codes


def _fitted_each(
    features: Any,
    targets: Floats,
    share: NDArray[np.float64],
    strength: float,
    width: int,
    turns: int,
    progress: Callable[[int, int], None],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """As :func:`_fitted`, each label for itself; and a bias of each, float64 [C].

    As many columns as labels hold any weights; fewer are found with what they say of each label.
    """
    rows, classes = features.shape[1], targets.shape[1]
    turned = features.T.tocsr()
    counts = share.astype(np.float32)[:, None]
    found = width < classes
    codes = np.eye(classes)
    if found:
        codes = np.linalg.qr(np.random.default_rng(0).normal(size=(classes, classes)))[0][:width]
    cut, end = rows * width, rows * width + codes.size * found
    done = 0

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        own, bias = flat[:cut].reshape(rows, width), flat[end:]
        say = flat[cut:end].reshape(width, classes) if found else codes
        inner = features @ own.astype(np.float32)
        logits = inner @ say.astype(np.float32) + bias.astype(np.float32)
        error = (0.5 * (1 + np.tanh(0.5 * logits)) - targets) * counts
        size, shape = own.T @ own, say @ say.T
        missed = (np.logaddexp(0, logits) - targets * logits) * counts
        value = float((size * shape).sum()) / (2 * strength) + float(missed.sum())
        slope = turned @ (error @ say.T.astype(np.float32)) + own @ (shape / strength)
        other = (inner.T @ error + size @ say / strength).ravel() if found else []
        return value, np.concatenate([slope.ravel(), other, error.sum(axis=0)]).astype(np.float64)

    def told(_: object) -> None:
        nonlocal done
        done = min(done + 1, turns)
        progress(done, turns)

    often = np.clip(share @ targets / share.sum(), 1e-4, 1 - 1e-4)
    start = np.concatenate(
        [np.zeros(cut), codes.ravel() if found else [], np.log(often / (1 - often))]
    )
    options = {"maxiter": turns}
    best = minimize(loss, start, jac=True, method="L-BFGS-B", callback=told, options=options).x
    progress(turns, turns)
    say = best[cut:end].reshape(width, classes) if found else codes
    return best[:cut].reshape(rows, width), say, best[end:]


def _fold(
    bag: Bag,
    where: NDArray[Any],
    found: NDArray[np.float64],
    codes: NDArray[np.float64],
    bias: NDArray[np.float64],
) -> None:
    """Puts the weights into the bag's table and first layer, each column in the table's range."""
    own, width = bag.weights, found.shape[1]
    own["table"][:] = 0
    own["from_mean"][:] = 0
    own["first_bias"][:] = bias
    if not len(found):  # no text had a word
        return
    tops = np.array([np.quantile(np.abs(column), _CUT) or 1.0 for column in found.T])
    scale = float(bag.limit) / tops
    own["table"][where, :width] = np.clip(found * scale, -bag.limit, bag.limit)
    own["from_mean"][:width] = codes / scale[:, None] / bag.share
