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

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

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


@dataclass(frozen=True)
class Turns:
    """How the matrices of a folded decoder are turned, each on the side that is named.

    A matrix is ``[outputs, inputs]``. One with other outputs, or inputs, than the decoder's may
    be turned on the side that it shares: a factor of a change of a matrix, for instance.

    Attributes:
        basis: ``[width, width]``, orthogonal, of the stream; None: it is as it was.
        stream_turn: of runs of what is read of the stream.
        turn: of runs of what `down` reads.
        head_turn: within each head of the values.
        bound: the stream cannot be turned, and its norms keep their gains.
    """

    basis: Array | None
    stream_turn: Array | None
    turn: Array | None
    head_turn: Array | None
    bound: bool

    @classmethod
    def of(cls, c: DecoderConfig, *, bound: bool, rotate: bool, seed: int) -> Turns:
        """Those of a decoder of this shape."""
        size = c.head_size
        return cls(
            basis=orthogonal(c.width, seed) if rotate and not bound else None,
            stream_turn=_runs(c.width, _LARGEST_STREAM_TURN) if rotate and bound else None,
            turn=_runs(c.hidden, _LARGEST_TURN) if rotate else None,
            head_turn=hadamard(size) if rotate and size & (size - 1) == 0 else None,
            bound=bound,
        )

    def reads(self, matrix: Array, gain: Array | None) -> Array:
        """Inputs are the normalised stream, `gain` that of its norm."""
        if self.bound:
            return turn_runs(matrix, self.stream_turn)
        return _dot(matrix if gain is None else matrix * gain, self.basis)

    def writes(self, matrix: Array) -> Array:
        """Outputs join the stream."""
        return matrix if self.basis is None else np.asarray(self.basis.T @ matrix, np.float32)

    def values(self, matrix: Array) -> Array:
        """Outputs are the values of heads."""
        if self.head_turn is None:
            return matrix
        heads = matrix.reshape(-1, len(self.head_turn), matrix.shape[1])
        return np.asarray(np.matmul(self.head_turn, heads).reshape(matrix.shape), np.float32)

    def mixed(self, matrix: Array) -> Array:
        """Inputs are the mixed values of heads."""
        return turn_runs(matrix, self.head_turn)

    def fed(self, matrix: Array) -> Array:
        """Inputs are the product of gate and up."""
        return turn_runs(matrix, self.turn)


def is_bound(weights: DecoderWeights) -> bool:
    """Whether parts are normalised before they join the stream, so that it cannot be turned."""
    pairs = ((layer.post_attention_norm, layer.post_ffn_norm) for layer in weights.layers)
    return any(norm is not None for pair in pairs for norm in pair)


def query_scale(c: DecoderConfig, layer: Layer) -> float:
    """What the scores' scale multiplies the matrix of the queries by.

    A norm of the queries takes it out again; there it goes into the norm's gain.
    """
    return c.score_scale if layer.q_norm is None else 1.0


def fold(weights: DecoderWeights, *, rotate: bool = True, seed: int = 0) -> FoldedDecoder:
    """Folds norms and, when `rotate`, turns the stream, the heads and the input of `down`."""
    c = weights.config
    bound = is_bound(weights)
    turns = Turns.of(c, bound=bound, rotate=rotate, seed=seed)
    ones = np.ones(c.width, np.float32)
    reads, writes = turns.reads, turns.writes

    def kept(gain: Array | None) -> Array | None:
        return gain if gain is None or bound else ones

    def bias(value: Array | None, side: Callable[[Array], Array]) -> Array | None:
        return None if value is None else side(value[:, None])[:, 0]

    layers = []
    for layer in weights.layers:
        scale = np.float32(c.score_scale)
        gain = layer.attention_norm
        in_weights = np.float32(query_scale(c, layer))
        layers.append(
            replace(
                layer,
                attention_norm=kept(gain),
                q=reads(layer.q * in_weights, gain),
                k=reads(layer.k, gain),
                v=reads(turns.values(layer.v), gain),
                q_bias=None if layer.q_bias is None else layer.q_bias * in_weights,
                v_bias=bias(layer.v_bias, turns.values),
                q_norm=None if layer.q_norm is None else layer.q_norm * scale,
                o=writes(turns.mixed(layer.o)),
                o_bias=bias(layer.o_bias, writes),
                ffn_norm=kept(layer.ffn_norm),
                gate=reads(layer.gate, layer.ffn_norm),
                up=reads(layer.up, layer.ffn_norm),
                down=writes(turns.fed(layer.down)),
                down_bias=bias(layer.down_bias, writes),
            )
        )
    folded = DecoderWeights(
        config=c,
        embedding=_dot(weights.embedding, turns.basis),
        layers=layers,
        final_norm=weights.final_norm if bound else ones,
        head=reads(weights.head, weights.final_norm),
    )
    return FoldedDecoder(folded, turns.turn, turns.stream_turn, gains=bound)


def _runs(size: int, largest: int) -> Array | None:
    """A Hadamard matrix for runs of an axis, the largest that divides it and is worth it."""
    run = min(size & -size, largest)
    return hadamard(run) if run >= _SMALLEST_TURN else None


def turn_runs(values: Array, turn: Array | None) -> Array:
    """Each run of the last axis times `turn`, which is symmetric (Hadamard)."""
    if turn is None:
        return values
    shape = values.shape
    return np.asarray((values.reshape(-1, turn.shape[0]) @ turn).reshape(shape), np.float32)


def _dot(matrix: Array, basis: Array | None) -> Array:
    return matrix if basis is None else np.asarray(matrix @ basis, np.float32)
