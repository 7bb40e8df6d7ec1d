"""Rewrites a decoder without changing what it computes, so that int8 suits it better.

Norm gains go into the matrices that read the normalised stream. Then the residual stream is
turned by an orthogonal matrix, which every reader undoes: a turned stream has no outlier
channels, so one int8 scale a row fits it (Ashkboos et al., "QuaRot", 2024). Values and the
output projection are turned within each head, and the input of `down` is turned in the graph,
both by a Hadamard matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from model_builder.generate.weights import Array, DecoderConfig, DecoderWeights, Layer

_LARGEST_TURN = 64
_SMALLEST_TURN = 16


@dataclass(frozen=True)
class FoldedDecoder:
    """A decoder whose norms have no gain.

    Attributes:
        weights: the scale of the scores is in q, or in its norm; the stream's norms have gain 1.
        turn: ``[size, size]``, orthogonal: each run of `size` inputs of `down` is multiplied by
            it first; None: they are used as they are.
    """

    weights: DecoderWeights
    turn: Array | None


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
    """Folds norms and, when `rotate`, turns the stream, the heads and the input of `down`.

    A stream whose parts are normalised before they join it stays as it is: the gains of those
    norms belong to its channels.
    """
    c = weights.config
    bound = any(norm is not None for norm in _joining(weights))
    basis = orthogonal(c.width, seed) if rotate and not bound else None
    turn_size = min(c.hidden & -c.hidden, _LARGEST_TURN)
    turn = hadamard(turn_size) if rotate and turn_size >= _SMALLEST_TURN else None
    head_size = c.head_size
    head_turn = hadamard(head_size) if rotate and head_size & (head_size - 1) == 0 else None
    ones = np.ones(c.width, np.float32)

    def reads(matrix: Array, gain: Array | None) -> Array:
        return _dot(matrix if gain is None else matrix * gain, basis)

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
                attention_norm=None if gain is None else ones,
                q=reads(layer.q * in_weights, gain),
                k=reads(layer.k, gain),
                v=reads(turned.v, gain),
                q_bias=None if layer.q_bias is None else layer.q_bias * in_weights,
                q_norm=None if layer.q_norm is None else layer.q_norm * scale,
                o=writes(turned.o),
                o_bias=None if layer.o_bias is None else writes(layer.o_bias),
                ffn_norm=None if layer.ffn_norm is None else ones,
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
        final_norm=ones,
        head=reads(weights.head, weights.final_norm),
    )
    return FoldedDecoder(folded, turn)


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
