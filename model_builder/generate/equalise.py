"""Rewrites a decoder, without changing what it computes, so that rounding costs least.

What a matrix reads is rounded to int8, and so is the matrix. Loud channels of the input are read
by small weights as often as not, and then one scale for all channels is wasted on both. A channel
that is divided by s where it is made, and its weights multiplied by s, give the same product. The
error is least where both are equally loud: s is the square root of the channel's root mean square
over the norm of its weights (Xiao et al., "SmoothQuant", 2023, with an exponent of a half).

The channels that can be divided at no cost: those between `up` and `down`, those of values
between `v` and `o`, and those behind the gain of a norm, where gains stay in the graph
(:mod:`model_builder.generate.fold`); a turned stream has no channels of its own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from model_builder.generate import reference
from model_builder.generate.fold import is_bound
from model_builder.generate.weights import Array, DecoderConfig, DecoderWeights
from model_builder.teachers.base import Progress, silent

Squares = dict[str, npt.NDArray[np.float64]]
"""Site (``"3.q"``, ``"head"``) -> sum of the squares of each channel that it reads."""

_READS = ("q", "o", "gate", "down", "head")
"""The first of the matrices that read the same."""
_QUIETEST = 1e-4
"""Of the loudest channel, or weights: what is below counts as that."""


def equalised(
    weights: DecoderWeights, texts: list[npt.NDArray[np.int64]], progress: Progress = silent
) -> DecoderWeights:
    """The decoder with channels that are as loud as the weights that read them.

    Args:
        weights: as they were imported.
        texts: token ids, each a text of its own, by which loudness is measured.
        progress: is told of each text.
    """
    squares = loudness(weights, texts, progress)
    bound, c = is_bound(weights), weights.config
    layers = []
    for index, layer in enumerate(weights.layers):
        s = factors(squares[f"{index}.down"], _columns(layer.down))
        up_bias = None if layer.up_bias is None else layer.up_bias / s
        layer = replace(layer, up=layer.up / s[:, None], up_bias=up_bias, down=layer.down * s)
        s = factors(_of_values(squares[f"{index}.o"], c), _of_values(_columns(layer.o), c))
        v_bias = None if layer.v_bias is None else layer.v_bias / s
        shared = np.repeat(s.reshape(c.kv_heads, 1, -1), c.heads // c.kv_heads, axis=1)
        layer = replace(layer, v=layer.v / s[:, None], v_bias=v_bias, o=layer.o * shared.ravel())
        if bound and layer.attention_norm is not None:
            s = factors(squares[f"{index}.q"], _columns(layer.q, layer.k, layer.v))
            gain = layer.attention_norm / s
            layer = replace(layer, attention_norm=gain, q=layer.q * s, k=layer.k * s, v=layer.v * s)
        if bound and layer.ffn_norm is not None:
            s = factors(squares[f"{index}.gate"], _columns(layer.gate, layer.up))
            layer = replace(
                layer, ffn_norm=layer.ffn_norm / s, gate=layer.gate * s, up=layer.up * s
            )
        layers.append(layer)
    if not bound:
        return replace(weights, layers=layers)
    s = factors(squares["head"], _columns(weights.head))
    return replace(weights, layers=layers, final_norm=weights.final_norm / s, head=weights.head * s)


def loudness(
    weights: DecoderWeights, texts: list[npt.NDArray[np.int64]], progress: Progress = silent
) -> Squares:
    """Runs texts through the float reference and sums the squares of what matrices read."""
    squares: Squares = {}

    def linear(x: Array, weight: Array, site: str) -> Array:
        name = site.rpartition(".")[2]
        if name in _READS:
            found = np.square(x, dtype=np.float64).sum(0)
            squares[site] = squares[site] + found if site in squares else found
        return x if name == "head" else reference.exact(x, weight, site)

    for number, ids in enumerate(texts, 1):
        reference.logits(weights, ids, linear)
        progress("equalising", number, len(texts))
    return squares


def factors(read: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]) -> Array:
    """What each channel is divided by, with a geometric mean of 1.

    Args:
        read: sums of the squares of what is read.
        columns: of the weights that read it.
    """
    loud, strong = (
        np.maximum(values, _QUIETEST**2 * values.max() + 1e-30) for values in (read, columns)
    )
    logarithms = np.log(loud / strong) / 4
    return np.asarray(np.exp(logarithms - logarithms.mean()), np.float32)


def _columns(*matrices: Array) -> npt.NDArray[np.float64]:
    """Sums of the squares of each column of matrices that read the same."""
    found: npt.NDArray[np.float64] = np.sum(
        [np.einsum("nk,nk->k", m, m, dtype=np.float64) for m in matrices], axis=0
    )
    return found


def _of_values(read: npt.NDArray[np.float64], c: DecoderConfig) -> npt.NDArray[np.float64]:
    """Of channels of values, which several heads of queries share, from those of the heads."""
    found: npt.NDArray[np.float64] = read.reshape(c.kv_heads, -1, c.head_size).sum(1).ravel()
    return found
