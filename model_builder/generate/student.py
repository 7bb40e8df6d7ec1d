"""A small decoder that TensorFlow trains: the family of the imported ones, from scratch.

Written as plain functions on a dictionary of variables, so that what is trained is what
:mod:`model_builder.generate.decoder_graph` writes. With `fake` the matrices and the inputs of
the products are rounded to int8 on the way forward (quantisation-aware training; Jacob et al.,
"Quantization and Training of Neural Networks", 2018).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model_builder import lazy_tensorflow as tf
from model_builder.generate.reference import rotary_table
from model_builder.generate.weights import DecoderConfig, DecoderWeights, Layer

Variables = dict[str, Any]
_MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


def new_variables(c: DecoderConfig, seed: int) -> Variables:
    """Random weights; matrices are ``[inputs, outputs]`` here."""
    rng = np.random.default_rng(seed)
    queries, keys = c.heads * c.head_size, c.kv_heads * c.head_size
    shapes = {
        "q": (c.width, queries),
        "k": (c.width, keys),
        "v": (c.width, keys),
        "o": (queries, c.width),
        "gate": (c.width, c.hidden),
        "up": (c.width, c.hidden),
        "down": (c.hidden, c.width),
    }

    def normal(shape: tuple[int, ...], scale: float) -> Any:
        return tf.Variable(rng.normal(0, scale, shape).astype(np.float32))

    made: Variables = {"embedding": normal((c.vocabulary, c.width), 0.05)}
    for i in range(c.layers):
        for name, shape in shapes.items():
            depth = np.sqrt(2 * c.layers) if name in ("o", "down") else 1.0
            made[f"{i}.{name}"] = normal(shape, float(1 / np.sqrt(shape[0]) / depth))
        made[f"{i}.attention_norm"] = tf.Variable(tf.ones(c.width))
        made[f"{i}.ffn_norm"] = tf.Variable(tf.ones(c.width))
    made["final_norm"] = tf.Variable(tf.ones(c.width))
    return made


def _straight_through(exact: Any, rounded: Any) -> Any:
    """`rounded` on the way forward, the gradient of `exact` on the way back."""
    return exact + tf.stop_gradient(rounded - exact)


def fake_weight(w: Any) -> Any:
    """As int8 with one scale an output channel: ``[inputs, outputs]``."""
    scale = tf.maximum(tf.reduce_max(tf.abs(w), 0, keepdims=True), 1e-8) / 127
    return _straight_through(w, tf.round(w / scale) * scale)


def fake_input(x: Any) -> Any:
    """As int8 with one scale and zero point a row, like the runtime's dynamic kernels."""
    low = tf.minimum(tf.reduce_min(x, -1, keepdims=True), 0)
    high = tf.maximum(tf.reduce_max(x, -1, keepdims=True), 0)
    scale = tf.maximum(high - low, 1e-8) / 255
    return _straight_through(x, tf.round(x / scale) * scale)


def forward(
    v: Variables,
    c: DecoderConfig,
    ids: Any,
    dropout: float = 0.0,
    *,
    fake: bool,
    half: bool = False,
    at: Any = None,
) -> Any:
    """Logits float32 ``[batch, T, vocabulary]`` of the next token; ``[N, vocabulary]`` with `at`.

    Args:
        v: the variables.
        c: their shapes.
        ids: int32 ``[batch, T]``.
        dropout: share.
        fake: simulate int8 products.
        half: compute the other products in bfloat16.
        at: integers ``[N]``, the places in ``[batch * T]`` whose logits are wanted; None: all.
    """
    batch, count = tf.shape(ids)[0], ids.shape[1]
    cosines, sines = rotary_table(c, 0, count)
    future = np.triu(np.full((count, count), -1e9, np.float32), 1)

    def rounded(x: Any) -> Any:
        return tf.cast(x, tf.bfloat16) if half else x

    def linear(x: Any, w: Any) -> Any:
        if fake:
            return tf.matmul(fake_input(x), fake_weight(w))
        return tf.cast(tf.matmul(rounded(x), rounded(w)), tf.float32)

    def product(equation: str, x: Any, y: Any) -> Any:
        return tf.cast(tf.einsum(equation, rounded(x), rounded(y)), tf.float32)

    def norm(x: Any, gain: Any) -> Any:
        mean = tf.reduce_mean(x * x, -1, keepdims=True)
        return x * tf.math.rsqrt(mean + c.norm_epsilon) * gain

    def turn(x: Any) -> Any:
        first, second = tf.split(x, 2, -1)
        cos, sin = cosines[:, None], sines[:, None]
        return tf.concat([first * cos - second * sin, second * cos + first * sin], -1)

    def drop(x: Any) -> Any:
        return tf.nn.dropout(x, dropout) if dropout else x

    def heads(x: Any, number: int) -> Any:
        return tf.reshape(x, (batch, count, number, c.head_size))

    x = drop(tf.gather(v["embedding"], ids))
    for i in range(c.layers):
        w = {name: v[f"{i}.{name}"] for name in _MATRICES}
        y = norm(x, v[f"{i}.attention_norm"])
        q = turn(heads(linear(y, w["q"]), c.heads))
        k = turn(heads(linear(y, w["k"]), c.kv_heads))
        values = heads(linear(y, w["v"]), c.kv_heads)
        shared = c.heads // c.kv_heads
        if shared > 1:
            k, values = tf.repeat(k, shared, 2), tf.repeat(values, shared, 2)
        scores = product("bthd,bshd->bhts", q, k) / float(np.sqrt(c.head_size)) + future
        mixed = product("bhts,bshd->bthd", tf.nn.softmax(scores), values)
        mixed = tf.reshape(mixed, (batch, count, c.heads * c.head_size))
        x += drop(linear(mixed, w["o"]))
        y = norm(x, v[f"{i}.ffn_norm"])
        x += drop(linear(tf.nn.silu(linear(y, w["gate"])) * linear(y, w["up"]), w["down"]))
    if at is not None:
        x = tf.gather(tf.reshape(x, (-1, c.width)), at)
    head = tf.transpose(v["embedding"])
    return linear(norm(x, v["final_norm"]), head)


def to_weights(v: Variables, c: DecoderConfig) -> DecoderWeights:
    """The trained decoder as the importer knows it; the output head is the embedding table."""

    def get(name: str) -> Any:
        return np.asarray(v[name].numpy(), np.float32)

    layers = [
        Layer(
            attention_norm=get(f"{i}.attention_norm"),
            ffn_norm=get(f"{i}.ffn_norm"),
            **{name: np.ascontiguousarray(get(f"{i}.{name}").T) for name in _MATRICES},
        )
        for i in range(c.layers)
    ]
    embedding = get("embedding")
    weights = DecoderWeights(c, embedding, layers, get("final_norm"), embedding)
    weights.check()
    return weights
