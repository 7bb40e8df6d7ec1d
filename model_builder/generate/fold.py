"""Rewrites a decoder without changing what it computes, so that int8 suits it better.

Norm gains go into the matrices that read the normalised stream. Then the residual stream is
turned by an orthogonal matrix, which every reader undoes: a turned stream has no outlier
channels, so one int8 scale a row fits it (Ashkboos et al., "QuaRot", 2024). Values and the
output projection are turned within each head, and the input of `down` is turned in the graph,
both by a Hadamard matrix.

Where parts are normalised before they join the stream, those norms' gains belong to its channels
and it cannot be turned. Then the other norms keep their gains, which take outliers out of the
channels that have them, and what a matrix reads of the stream is turned in the graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from model_builder.generate.weights import Array, DecoderConfig, DecoderWeights, Layer

_LARGEST_TURN = 64
_LARGEST_STREAM_TURN = 128
_SMALLEST_TURN = 16


@dataclass(frozen=True)
class FoldedDecoder:
    """A decoder that int8 suits.

    Attributes:
        weights: the scale of the scores is in q, or in its norm; the norms of a turned stream
            have gain 1.
        turn: ``[size, size]``, orthogonal: each run of `size` inputs of `down` is multiplied by
            it first; None: they are used as they are.
        stream_turn: the same for what other matrices read of the stream.
        gains: the norms of the stream have gains.
    """

    weights: DecoderWeights
    turn: Array | None
    stream_turn: Array | None = None
    gains: bool = False

    def read(self, x: Array, site: str) -> Array:
        """What the matrix of a site (``"3.down"``) reads: `x`, turned where the graph does it."""
        name = site.rpartition(".")[2]
        if name == "down":
            return turn_runs(x, self.turn)
        return x if name == "o" else turn_runs(x, self.stream_turn)


def hadamard(size: int) -> Array:
    """The orthonormal Hadamard matrix of a power of two (Sylvester's construction)."""
    matrix = np.ones((1, 1))
    while matrix.shape[0] < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(matrix / np.sqrt(size), np.float32)


def orthogonal(size: int, seed: int) -> Array:
    """A random orthogonal matrix, ``[size, size]``."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return np.asarray(q, np.float32)


def fold(weights: DecoderWeights, *, rotate: bool = True, seed: int = 0) -> FoldedDecoder:
    """Folds norms and, when `rotate`, turns the stream, the heads and the input of `down`."""
    c = weights.config
    bound = any(norm is not None for norm in _joining(weights))
    basis = orthogonal(c.width, seed) if rotate and not bound else None
    turn = _runs(c.hidden, _LARGEST_TURN) if rotate else None
    stream_turn = _runs(c.width, _LARGEST_STREAM_TURN) if rotate and bound else None
    head_size = c.head_size
    head_turn = hadamard(head_size) if rotate and head_size & (head_size - 1) == 0 else None
    ones = np.ones(c.width, np.float32)

    def reads(matrix: Array, gain: Array | None) -> Array:
        if bound:
            return turn_runs(matrix, stream_turn)
        return _dot(matrix if gain is None else matrix * gain, basis)

    def kept(gain: Array | None) -> Array | None:
        return gain if gain is None or bound else ones

    def writes(matrix: Array) -> Array:
        return matrix if basis is None else basis.T @ matrix

    layers = []
    for layer in weights.layers:
        turned = _turn_heads(layer, c, head_turn)
        scale = np.float32(c.score_scale)
        gain = layer.attention_norm
        # A norm of the queries takes their scale out again; there it goes into the norm's gain.
        in_weights = scale if layer.q_norm is None else np.float32(1)
        layers.append(
            replace(
                turned,
                attention_norm=kept(gain),
                q=reads(layer.q * in_weights, gain),
                k=reads(layer.k, gain),
                v=reads(turned.v, gain),
                q_bias=None if layer.q_bias is None else layer.q_bias * in_weights,
                q_norm=None if layer.q_norm is None else layer.q_norm * scale,
                o=writes(turned.o),
                o_bias=None if layer.o_bias is None else writes(layer.o_bias),
                ffn_norm=kept(layer.ffn_norm),
                gate=reads(layer.gate, layer.ffn_norm),
                up=reads(layer.up, layer.ffn_norm),
                down=writes(turn_runs(layer.down, turn)),
                down_bias=None if layer.down_bias is None else writes(layer.down_bias),
            )
        )
    folded = DecoderWeights(
        config=c,
        embedding=_dot(weights.embedding, basis),
        layers=layers,
        final_norm=weights.final_norm if bound else ones,
        head=reads(weights.head, weights.final_norm),
    )
    return FoldedDecoder(folded, turn, stream_turn, gains=bound)


def _runs(size: int, largest: int) -> Array | None:
    """A Hadamard matrix for runs of an axis, the largest that divides it and is worth it."""
    run = min(size & -size, largest)
    return hadamard(run) if run >= _SMALLEST_TURN else None


def _joining(weights: DecoderWeights) -> list[Array | None]:
    pairs = ((layer.post_attention_norm, layer.post_ffn_norm) for layer in weights.layers)
    return [norm for pair in pairs for norm in pair]


def turn_runs(values: Array, turn: Array | None) -> Array:
    """Each run of the last axis times `turn`, which is symmetric (Hadamard)."""
    if turn is None:
        return values
    shape = values.shape
    return np.asarray((values.reshape(-1, turn.shape[0]) @ turn).reshape(shape), np.float32)


def _dot(matrix: Array, basis: Array | None) -> Array:
    return matrix if basis is None else np.asarray(matrix @ basis, np.float32)


def _turn_heads(layer: Layer, c: DecoderConfig, turn: Array | None) -> Layer:
    """Values times `turn` in each head, and the output projection times its inverse."""
    if turn is None:
        return layer
    v: npt.NDArray[np.float32] = layer.v.reshape(c.kv_heads, c.head_size, c.width)
    bias = layer.v_bias
    return replace(
        layer,
        v=np.matmul(turn, v).reshape(layer.v.shape),
        v_bias=None if bias is None else (bias.reshape(-1, c.head_size) @ turn).reshape(-1),
        o=(layer.o.reshape(-1, c.head_size) @ turn).reshape(layer.o.shape),
    )
