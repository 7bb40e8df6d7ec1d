"""A plain NumPy float32 decoder: the reference that a converted model is compared with.

Written for clearness, not speed; the whole text is one matrix product a step.
Sources: Touvron et al., "LLaMA" (2023); Su et al., "RoFormer" (2021); Zhang and Sennrich,
"Root Mean Square Layer Normalization" (2019).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from model_builder.generate.weights import Array, DecoderConfig, DecoderWeights, Layer

Linear = Callable[[Array, Array, str], Array]
"""``linear(x, weight, site)`` -> ``x @ weight.T``; a test of a quantisation passes its own."""


def exact(x: Array, weight: Array, site: str) -> Array:
    """The float32 product."""
    del site
    product: Array = x @ weight.T
    return product


def rms_norm(x: Array, gain: Array, epsilon: float) -> Array:
    """RMSNorm over the last axis."""
    out: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(epsilon)) * gain
    return out


def rotary_table(
    config: DecoderConfig, start: int, count: int, *, local: bool = False
) -> tuple[Array, Array]:
    """Cosines and sines, ``[count, head_size / 2]`` each, of positions from `start`."""
    half = config.head_size // 2
    inverse = config.rope_base ** (-np.arange(half, dtype=np.float64) / half)
    if config.frequencies:
        inverse = np.array(config.frequencies)
    if local:
        inverse = np.array(config.local_frequencies)
    angles = np.arange(start, start + count, dtype=np.float64)[:, None] * inverse
    scale = 1.0 if local else config.rope_scale
    return (np.cos(angles) * scale).astype(np.float32), (np.sin(angles) * scale).astype(np.float32)


def rotate(x: Array, cosines: Array, sines: Array) -> Array:
    """Rotary embedding in rotate-half layout; x ``[T, heads, head_size]``."""
    first, second = np.split(x, 2, axis=-1)
    c, s = cosines[:, None, :], sines[:, None, :]
    return np.concatenate([first * c - second * s, second * c + first * s], axis=-1)


def softmax(x: Array) -> Array:
    """Over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    out: Array = e / e.sum(-1, keepdims=True)
    return out


def _normed(x: Array, gain: Array | None, c: DecoderConfig) -> Array:
    return x if gain is None else rms_norm(x, gain, c.norm_epsilon)


def _plus(x: Array, bias: Array | None) -> Array:
    return x if bias is None else x + bias


def attention(
    layer: Layer,
    x: Array,
    c: DecoderConfig,
    linear: Linear,
    site: str,
    scale: float,
    *,
    rotated: bool = True,
    local: bool = False,
) -> Array:
    """Causal self-attention of a whole text; x ``[T, width]``, normalised already."""
    count = x.shape[0]
    cosines, sines = rotary_table(c, 0, count, local=local)
    q = _plus(linear(x, layer.q, f"{site}.q"), layer.q_bias)
    k = _plus(linear(x, layer.k, f"{site}.k"), layer.k_bias)
    if c.wide_norm:
        q, k = _normed(q, layer.q_norm, c), _normed(k, layer.k_norm, c)
    q = q.reshape(count, c.heads, -1)
    k = k.reshape(count, c.kv_heads, -1)
    v = _plus(linear(x, layer.v, f"{site}.v"), layer.v_bias).reshape(count, c.kv_heads, -1)
    if not c.wide_norm:
        q, k = _normed(q, layer.q_norm, c), _normed(k, layer.k_norm, c)
    if rotated:
        q, k = rotate(q, cosines, sines), rotate(k, cosines, sines)
    future = np.triu(np.full((count, count), -np.inf, np.float32), 1)
    mixed = np.empty((count, c.heads, c.head_size), np.float32)
    shared = c.heads // c.kv_heads
    for head in range(c.heads):
        scores = q[:, head] @ k[:, head // shared].T * np.float32(scale) + future
        mixed[:, head] = softmax(scores) @ v[:, head // shared]
    return _plus(linear(mixed.reshape(count, -1), layer.o, f"{site}.o"), layer.o_bias)


def activated(gate: Array, kind: str) -> Array:
    """SiLU, or GELU by its tanh formula (Hendrycks and Gimpel, 2016)."""
    with np.errstate(over="ignore"):
        if kind == "silu":
            out: Array = gate / (1 + np.exp(-gate))
            return out
        inner = np.float32(np.sqrt(2 / np.pi)) * (gate + np.float32(0.044715) * gate**3)
        return np.asarray(0.5 * gate * (1 + np.tanh(inner)), np.float32)


def feed_forward(layer: Layer, x: Array, linear: Linear, site: str, kind: str = "silu") -> Array:
    """Gated, by SiLU or another `kind`; x ``[T, width]``, normalised already."""
    gate = _plus(linear(x, layer.gate, f"{site}.gate"), layer.gate_bias)
    up = _plus(linear(x, layer.up, f"{site}.up"), layer.up_bias)
    product = activated(gate, kind) * up
    return _plus(linear(product, layer.down, f"{site}.down"), layer.down_bias)


def logits(
    weights: DecoderWeights,
    ids: npt.NDArray[np.int64],
    linear: Linear = exact,
    *,
    scaled: bool = False,
) -> Array:
    """Logits of the next token after each of T ids, ``[T, vocabulary]``.

    Args:
        weights: the decoder.
        ids: one text.
        linear: the product to use.
        scaled: the queries' scale is folded into the weights already.
    """
    c = weights.config
    scale = 1.0 if scaled else c.score_scale
    x = weights.embedding[ids].astype(np.float32)
    for index, layer in enumerate(weights.layers):
        site = str(index)
        turned = {"rotated": index not in c.unrotated, "local": index in c.local_layers}
        normed = _normed(x, layer.attention_norm, c)
        mixed = attention(layer, normed, c, linear, site, scale, **turned)
        x = x + _normed(mixed, layer.post_attention_norm, c)
        normed = _normed(x, layer.ffn_norm, c)
        fed = feed_forward(layer, normed, linear, site, c.activation)
        x = x + _normed(fed, layer.post_ffn_norm, c)
    return linear(rms_norm(x, weights.final_norm, c.norm_epsilon), weights.head, "head")
