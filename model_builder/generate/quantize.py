"""Quantises a folded decoder's matrices to int8, one scale an output channel.

With statistics of the inputs (a Gram matrix a site), the rounding of each column makes up for
the errors of the columns before it: Frantar et al., "GPTQ" (2022). Without them, values are
rounded to the nearest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_builder.generate import reference
from model_builder.generate.fold import FoldedDecoder, turn_runs
from model_builder.generate.weights import Array, DecoderConfig
from model_builder.teachers.base import Progress, silent

Int8 = npt.NDArray[np.int8]
Grams = dict[str, Array]
"""Site (``"3.qkv"``, ``"head"``) -> sum of ``x x^T`` over calibration tokens, ``[K, K]``."""

_DAMPING = 0.01
_COLUMNS = 96
_MATRICES = {"q": "qkv", "gate": "gate_up", "o": "o", "down": "down", "head": "head"}


@dataclass(frozen=True)
class Quantized:
    """A matrix in int8, ``W = values * scales[:, None]``, and its float bias."""

    values: Int8
    scales: Array
    bias: Array | None = None

    def restore(self) -> Array:
        """The matrix in float32."""
        return self.values * self.scales[:, None]


@dataclass(frozen=True)
class QuantizedLayer:
    """A block; matrices that read the same input are joined by rows.

    `gain`: of the norms of queries and keys, if it has them: ``[heads + kv_heads, head_size]``,
    flat where all heads are normalised together. `pre_norms`: whether attention and feed-forward
    read the stream normalised; `post_norms`: gains of what they give, before it joins the stream.
    """

    qkv: Quantized
    o: Quantized
    gate_up: Quantized
    down: Quantized
    gain: Array | None = None
    pre_norms: tuple[bool, bool] = (True, True)
    post_norms: tuple[Array | None, Array | None] = (None, None)


@dataclass(frozen=True)
class QuantizedDecoder:
    """What the graph is made of.

    Attributes:
        config: the decoder's shape.
        embedding: rows to look up, outside the graph.
        layers, head: the matrices.
        turn: as in :class:`model_builder.generate.fold.FoldedDecoder`.
    """

    config: DecoderConfig
    embedding: Quantized
    layers: list[QuantizedLayer]
    head: Quantized
    turn: Array | None


def calibrate(
    folded: FoldedDecoder,
    texts: list[npt.NDArray[np.int64]],
    progress: Progress = silent,
) -> Grams:
    """Runs texts through the float reference and sums what every matrix reads.

    Args:
        folded: the decoder.
        texts: token ids, each a text of its own.
        progress: is told of each text.
    """
    grams: Grams = {}

    def linear(x: Array, weight: Array, site: str) -> Array:
        where, _, name = site.rpartition(".")
        if name == "down":
            x = turn_runs(x, folded.turn)
        joined = _MATRICES.get(name)
        if joined is not None:
            key = f"{where}.{joined}" if where else joined
            gram = x.T @ x
            grams[key] = grams[key] + gram if key in grams else gram
        return x @ weight.T if name != "head" else x

    for number, ids in enumerate(texts, 1):
        reference.logits(folded.weights, ids, linear, scaled=True)
        progress("calibrating", number, len(texts))
    return grams


def quantize(
    folded: FoldedDecoder,
    grams: Grams | None = None,
    progress: Progress = silent,
) -> QuantizedDecoder:
    """Quantises every matrix.

    Args:
        folded: the decoder.
        grams: of :func:`calibrate`; None: round to nearest.
        progress: is told of each layer.
    """
    weights = folded.weights
    known = grams or {}
    layers = []
    for index, layer in enumerate(weights.layers):
        bias = _joined((layer.q_bias, layer.q), (layer.k_bias, layer.k), (layer.v_bias, layer.v))
        gain = None
        if layer.q_norm is not None and layer.k_norm is not None:
            c = weights.config
            gain = (
                np.concatenate([layer.q_norm, layer.k_norm])
                if c.wide_norm
                else np.concatenate(
                    [np.tile(layer.q_norm, (c.heads, 1)), np.tile(layer.k_norm, (c.kv_heads, 1))]
                )
            ).astype(np.float32)
        layers.append(
            QuantizedLayer(
                qkv=_matrix(
                    np.concatenate([layer.q, layer.k, layer.v]), known.get(f"{index}.qkv"), bias
                ),
                o=_matrix(layer.o, known.get(f"{index}.o"), layer.o_bias),
                gate_up=_matrix(
                    np.concatenate([layer.gate, layer.up]),
                    known.get(f"{index}.gate_up"),
                    _joined((layer.gate_bias, layer.gate), (layer.up_bias, layer.up)),
                ),
                down=_matrix(layer.down, known.get(f"{index}.down"), layer.down_bias),
                gain=gain,
                pre_norms=(layer.attention_norm is not None, layer.ffn_norm is not None),
                post_norms=(layer.post_attention_norm, layer.post_ffn_norm),
            )
        )
        progress("quantising", index + 1, len(weights.layers))
    return QuantizedDecoder(
        config=weights.config,
        embedding=_matrix(weights.embedding, None),
        layers=layers,
        head=_matrix(weights.head, known.get("head")),
        turn=folded.turn,
    )


def _joined(*parts: tuple[Array | None, Array]) -> Array | None:
    """Biases of matrices that become one; None where none of them has any."""
    if all(bias is None for bias, _ in parts):
        return None
    return np.concatenate(
        [np.zeros(len(matrix), np.float32) if bias is None else bias for bias, matrix in parts]
    )


def _matrix(matrix: Array, gram: Array | None, bias: Array | None = None) -> Quantized:
    scales = np.maximum(np.abs(matrix).max(axis=1), 1e-12).astype(np.float32) / np.float32(127)
    values = nearest(matrix, scales) if gram is None else compensated(matrix, scales, gram)
    return Quantized(values, scales, bias)


def nearest(matrix: Array, scales: Array) -> Int8:
    """``[N, K]`` rounded to the nearest step of each row."""
    return np.asarray(np.clip(np.rint(matrix / scales[:, None]), -127, 127), np.int8)


def compensated(matrix: Array, scales: Array, gram: Array) -> Int8:
    """``[N, K]`` rounded column by column; later columns take up the error (GPTQ).

    Args:
        matrix: float32 ``[N, K]``.
        scales: of the rows.
        gram: ``[K, K]``, of the inputs.
    """
    size = len(gram)
    hessian = gram.astype(np.float64)
    hessian[np.diag_indices(size)] += _DAMPING * np.mean(np.diag(hessian)) + 1e-8
    inverse = np.linalg.inv(hessian)
    # Row j of the upper Cholesky factor holds what column j's error does to those after it.
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)
    steps = np.ascontiguousarray((matrix / scales[:, None]).T)  # [K, N], in units of a step
    values = np.empty(steps.shape, np.int8)
    for start in range(0, size, _COLUMNS):
        stop = min(start + _COLUMNS, size)
        errors = np.empty((stop - start, steps.shape[1]), np.float32)
        for j in range(start, stop):
            rounded = np.clip(np.rint(steps[j]), -127, 127)
            values[j] = rounded
            error = (steps[j] - rounded) / factor[j, j]
            errors[j - start] = error
            if j + 1 < stop:
                steps[j + 1 : stop] -= np.outer(factor[j, j + 1 : stop], error)
        steps[stop:] -= factor[start:stop, stop:].T @ errors
    return np.ascontiguousarray(values.T)
