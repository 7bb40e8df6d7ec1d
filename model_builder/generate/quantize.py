"""Quantises a folded decoder's matrices to int8 or int4, one scale an output channel.

With statistics of the inputs (a Gram matrix a site), the rounding of each column makes up for
the errors of the columns before it: Frantar et al., "GPTQ" (2022). Without them, values are
rounded to the nearest. In four bits the largest inputs are rounded first, and each row's scale
is the one that costs least, with some values cut off.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import dpotrf, dtrtri

from model_builder.generate import reference
from model_builder.generate.fold import FoldedDecoder, turn_runs
from model_builder.generate.side_by_side import shares, side_by_side
from model_builder.generate.weights import Array, DecoderConfig, Layer
from model_builder.teachers.base import Progress, silent

Int8 = npt.NDArray[np.int8]
Grams = dict[str, Array]
"""Site (``"3.qkv"``, ``"head"``) -> sum of ``x x^T`` over calibration tokens, ``[K, K]``."""

_DAMPING = 0.01
_COLUMNS = 96
_SHARES = 26
"""Scales that are tried for a row of four bits."""
_MATRICES = {"q": "qkv", "gate": "gate_up", "o": "o", "down": "down", "head": "head"}


@dataclass(frozen=True)
class Quantized:
    """A matrix in int8, ``W = values * scales[:, None]``, and its float bias.

    `bits`: 4: values are from -8 to 7, to be stored in half a byte each.
    """

    values: Int8
    scales: Array
    bias: Array | None = None
    bits: int = 8

    def restore(self) -> Array:
        """The matrix in float32."""
        return self.values * self.scales[:, None]


@dataclass(frozen=True)
class QuantizedLayer:
    """A block; matrices that read the same input are joined by rows.

    `gain`: of the norms of queries and keys, if it has them: ``[heads + kv_heads, head_size]``,
    flat where all heads are normalised together. `pre_norms`: whether attention and feed-forward
    read the stream normalised, and `pre_gains`: by which gains, if those are not in the matrices;
    `post_norms`: gains of what they give, before it joins the stream.
    """

    qkv: Quantized
    o: Quantized
    gate_up: Quantized
    down: Quantized
    gain: Array | None = None
    pre_norms: tuple[bool, bool] = (True, True)
    pre_gains: tuple[Array | None, Array | None] = (None, None)
    post_norms: tuple[Array | None, Array | None] = (None, None)


@dataclass(frozen=True)
class QuantizedDecoder:
    """What the graph is made of.

    Attributes:
        config: the decoder's shape.
        embedding: rows to look up, outside the graph; turned by `stream_turn`.
        layers, head: the matrices.
        turn, stream_turn: as in :class:`model_builder.generate.fold.FoldedDecoder`.
        final_gain: of the last norm, if it is not in the head.
    """

    config: DecoderConfig
    embedding: Quantized
    layers: list[QuantizedLayer]
    head: Quantized
    turn: Array | None
    stream_turn: Array | None = None
    final_gain: Array | None = None


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
        x = folded.read(x, site)
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
    bits: int = 8,
) -> QuantizedDecoder:
    """Quantises every matrix.

    Args:
        folded: the decoder.
        grams: of :func:`calibrate`; None: round to nearest.
        bits: of the matrices, 8 or 4; the table of embeddings, which lies outside the graph,
            keeps 8.
        progress: is told of each layer.
    """
    weights = folded.weights
    known = grams or {}
    layers = []
    with side_by_side() as pool:

        def fitted(matrix: Array, site: str, bias: Array | None = None) -> Quantized:
            return quantize_matrix(matrix, known.get(site), bias, bits, pool)

        for index, layer in enumerate(weights.layers):
            bias = join_biases(
                (layer.q_bias, layer.q), (layer.k_bias, layer.k), (layer.v_bias, layer.v)
            )
            fed = join_biases((layer.gate_bias, layer.gate), (layer.up_bias, layer.up))
            qkv = np.concatenate([layer.q, layer.k, layer.v])
            gate_up = np.concatenate([layer.gate, layer.up])
            layers.append(
                layer_of(
                    folded,
                    layer,
                    fitted(qkv, f"{index}.qkv", bias),
                    fitted(layer.o, f"{index}.o", layer.o_bias),
                    fitted(gate_up, f"{index}.gate_up", fed),
                    fitted(layer.down, f"{index}.down", layer.down_bias),
                )
            )
            progress("quantising", index + 1, len(weights.layers))
        head = fitted(weights.head, "head")
    embedding = quantize_matrix(turn_runs(weights.embedding, folded.stream_turn), None)
    return assembled(folded, embedding, layers, head)


def assembled(
    folded: FoldedDecoder, embedding: Quantized, layers: list[QuantizedLayer], head: Quantized
) -> QuantizedDecoder:
    """The decoder of quantised parts."""
    return QuantizedDecoder(
        config=folded.weights.config,
        embedding=embedding,
        layers=layers,
        head=head,
        turn=folded.turn,
        stream_turn=folded.stream_turn,
        final_gain=folded.weights.final_norm if folded.gains else None,
    )


def layer_of(
    folded: FoldedDecoder,
    layer: Layer,
    qkv: Quantized,
    o: Quantized,
    gate_up: Quantized,
    down: Quantized,
) -> QuantizedLayer:
    """A block of quantised matrices and of what stays in float."""
    gain = None
    if layer.q_norm is not None and layer.k_norm is not None:
        c = folded.weights.config
        norms = [(layer.q_norm, c.heads), (layer.k_norm, c.kv_heads)]
        gain = np.concatenate(
            [norm if c.wide_norm else np.tile(norm, (heads, 1)) for norm, heads in norms]
        ).astype(np.float32)
    return QuantizedLayer(
        qkv,
        o,
        gate_up,
        down,
        gain=gain,
        pre_norms=(layer.attention_norm is not None, layer.ffn_norm is not None),
        pre_gains=(layer.attention_norm, layer.ffn_norm) if folded.gains else (None, None),
        post_norms=(layer.post_attention_norm, layer.post_ffn_norm),
    )


def join_biases(*parts: tuple[Array | None, Array]) -> Array | None:
    """Biases of matrices that become one; None where none of them has any."""
    if all(bias is None for bias, _ in parts):
        return None
    return np.concatenate(
        [np.zeros(len(matrix), np.float32) if bias is None else bias for bias, matrix in parts]
    )


def quantize_matrix(
    matrix: Array,
    gram: Array | None,
    bias: Array | None = None,
    bits: int = 8,
    pool: Executor | None = None,
) -> Quantized:
    """A matrix by rows; with `gram`, ``[K, K]`` of what it reads, the rounding is fitted to it.

    `pool` computes shares of the rows side by side.
    """
    bits = bits if matrix.shape[1] % 2 == 0 else 8
    weights = np.ones(matrix.shape[1], np.float32) if gram is None else np.diag(gram)
    order = np.arange(matrix.shape[1])
    if gram is not None and bits == 4:
        order = np.argsort(-weights, kind="stable")
    effects = None if gram is None else effects_of(gram[np.ix_(order, order)])

    def rounded(rows: slice) -> tuple[Int8, Array]:
        part = matrix[rows]
        if bits == 4:
            scales = least_costly(part, weights)
        else:
            largest = np.maximum(np.abs(part).max(axis=1), 1e-12)
            scales = largest.astype(np.float32) / np.float32(127)
        if effects is None:
            return nearest(part, scales, bits), scales
        values = np.empty(part.shape, np.int8)
        values[:, order] = compensated(part[:, order], scales, effects, bits)
        return values, scales

    if pool is None:
        return Quantized(*rounded(slice(None)), bias, bits)
    values, scales = zip(*pool.map(rounded, shares(len(matrix))), strict=True)
    return Quantized(np.concatenate(values), np.concatenate(scales), bias, bits)


def least_costly(matrix: Array, weights: Array) -> Array:
    """Scales ``[N]`` of the rows for four bits, by the least weighted square of errors.

    Args:
        matrix: float32 ``[N, K]``.
        weights: ``[K]``, of the columns' errors.
    """
    largest = np.maximum(np.abs(matrix).max(axis=1), 1e-12)
    best = np.full(len(matrix), np.inf)
    scales = np.zeros(len(matrix), np.float32)
    for share in np.linspace(0.5, 1.0, _SHARES):
        tried = (largest * share / 7).astype(np.float32)
        error = nearest(matrix, tried, 4) * tried[:, None] - matrix
        cost = (error * error) @ weights
        better = cost < best
        best[better], scales[better] = cost[better], tried[better]
    return scales


def _range(bits: int) -> tuple[int, int]:
    return (-127, 127) if bits == 8 else (-8, 7)


def nearest(matrix: Array, scales: Array, bits: int = 8) -> Int8:
    """``[N, K]`` rounded to the nearest step of each row."""
    return np.asarray(np.clip(np.rint(matrix / scales[:, None]), *_range(bits)), np.int8)


def effects_of(gram: Array) -> Array:
    """What the error of each column does to those after it, ``[K, K]``, float32.

    Args:
        gram: ``[K, K]``, of the inputs, in the order of the columns.

    Raises:
        LinAlgError: it is none, as some inputs are no numbers.
    """
    hessian = gram.astype(np.float64)
    hessian[np.diag_indices(len(gram))] += _DAMPING * np.mean(np.diag(hessian)) + 1e-8
    # The upper Cholesky factor of its inverse: H = R R^T for an upper R, so H^-1 = R^-T R^-1.
    lower, wrong = dpotrf(hessian[::-1, ::-1], lower=1, clean=1)
    if wrong:
        raise np.linalg.LinAlgError("the inputs' products are no positive definite matrix")
    inverse, _ = dtrtri(np.asfortranarray(lower[::-1, ::-1]), lower=0)
    return np.ascontiguousarray(inverse, np.float32)


def compensated(matrix: Array, scales: Array, effects: Array, bits: int = 8) -> Int8:
    """``[N, K]`` rounded column by column; later columns take up the error (GPTQ).

    Args:
        matrix: float32 ``[N, K]``.
        scales: of the rows.
        effects: of :func:`effects_of`.
        bits: 8 or 4.
    """
    lowest, highest = _range(bits)
    size = len(effects)
    steps = np.ascontiguousarray((matrix / scales[:, None]).T)  # [K, N], in units of a step
    values = np.empty(steps.shape, np.int8)
    for start in range(0, size, _COLUMNS):
        stop = min(start + _COLUMNS, size)
        errors = np.empty((stop - start, steps.shape[1]), np.float32)
        for j in range(start, stop):
            rounded = np.clip(np.rint(steps[j]), lowest, highest)
            values[j] = rounded
            error = (steps[j] - rounded) / effects[j, j]
            errors[j - start] = error
            if j + 1 < stop:
                steps[j + 1 : stop] -= np.outer(effects[j, j + 1 : stop], error)
        steps[stop:] -= effects[start:stop, stop:].T @ errors
    return np.ascontiguousarray(values.T)
