"""A pretrained decoder in TensorFlow, as it is trained: packed rows, frozen weights, factors.

The same families as :func:`model_builder.generate.reference.logits`, to which tests hold it equal.
A matrix that is trained has two factors beside it: ``y = x W + (x A B) * scale`` (Hu et al.,
"LoRA: Low-Rank Adaptation of Large Language Models", 2021). Nothing is computed for a frozen
matrix on the way back but what reaches the layers below it.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from model_builder import lazy_tensorflow as tf
from model_builder.generate.reference import rotary_table
from model_builder.generate.weights import DecoderWeights
from model_builder.tune.packing import SHARED

MATRICES: Final = ("q", "k", "v", "o", "gate", "up", "down")
_NORMS: Final = (
    "attention_norm",
    "ffn_norm",
    "q_norm",
    "k_norm",
    "post_attention_norm",
    "post_ffn_norm",
)
_BIASES: Final = tuple(f"{name}_bias" for name in MATRICES)
_NEVER: Final = -1e9

Variables = dict[str, Any]
"""``"LAYER.MATRIX.a"`` and ``".b"`` of factors; ``"LAYER.MATRIX"`` of whole matrices."""


def new_factors(
    weights: DecoderWeights, targets: tuple[str, ...], rank: int, seed: int
) -> Variables:
    """Factors that change nothing yet: `a` ``[inputs, rank]`` is random, `b` is 0."""
    rng = np.random.default_rng(seed)
    made: Variables = {}
    for i, layer in enumerate(weights.layers):
        for name in targets:
            outputs, inputs = getattr(layer, name).shape
            # As PEFT starts: uniform, by Kaiming with a = sqrt(5).
            bound = 1 / math.sqrt(inputs)
            a = rng.uniform(-bound, bound, (inputs, rank)).astype(np.float32)
            made[f"{i}.{name}.a"] = tf.Variable(a)
            made[f"{i}.{name}.b"] = tf.Variable(np.zeros((rank, outputs), np.float32))
    return made


def new_matrices(weights: DecoderWeights, targets: tuple[str, ...]) -> Variables:
    """The matrices themselves, ``[inputs, outputs]``."""
    return {
        f"{i}.{name}": tf.Variable(np.ascontiguousarray(getattr(layer, name).T))
        for i, layer in enumerate(weights.layers)
        for name in targets
    }


class Decoder:
    """A frozen decoder with what is trained beside it.

    Args:
        weights: float32.
        variables: what is trained.
        scale: of the factors.
        half: products in bfloat16.
        length: tokens of a row.
    """

    def __init__(
        self,
        weights: DecoderWeights,
        variables: Variables,
        scale: float,
        *,
        half: bool,
        length: int,
    ) -> None:
        self.config = weights.config
        self._v = variables
        self._scale = scale
        self._kind = tf.bfloat16 if half else tf.float32
        self._fixed: dict[str, Any] = {}
        for i, layer in enumerate(weights.layers):
            for name in MATRICES:
                if f"{i}.{name}" not in variables:
                    matrix = np.ascontiguousarray(getattr(layer, name).T)
                    self._fixed[f"{i}.{name}"] = tf.cast(tf.constant(matrix), self._kind)
            for name in (*_NORMS, *_BIASES):
                value = getattr(layer, name)
                if value is not None:
                    self._fixed[f"{i}.{name}"] = tf.constant(value)
        self._embedding = tf.constant(weights.embedding)
        self._final = tf.constant(weights.final_norm)
        self._head = tf.cast(tf.constant(weights.head), self._kind)  # [vocabulary, width]
        self._turns = [
            tuple(map(tf.constant, rotary_table(self.config, 0, length, local=local)))
            for local in ((False, True) if self.config.local_layers else (False,))
        ]

    def _linear(self, x: Any, site: str) -> Any:
        """``[rows, inputs]`` -> ``[rows, outputs]``, float32."""
        whole = self._v.get(site)
        matrix = self._fixed[site] if whole is None else tf.cast(whole, self._kind)
        x = tf.cast(x, self._kind)
        y = tf.cast(tf.matmul(x, matrix), tf.float32)
        if f"{site}.a" in self._v:
            a, b = (tf.cast(self._v[f"{site}.{side}"], self._kind) for side in "ab")
            y += tf.cast(tf.matmul(tf.matmul(x, a), b), tf.float32) * self._scale
        bias = self._fixed.get(f"{site}_bias")
        return y if bias is None else y + bias

    def _norm(self, x: Any, site: str) -> Any:
        gain = self._fixed.get(site)
        return x if gain is None else self._scaled(x, gain)

    def _scaled(self, x: Any, gain: Any) -> Any:
        mean = tf.reduce_mean(x * x, -1, keepdims=True)
        return x * tf.math.rsqrt(mean + self.config.norm_epsilon) * gain

    def _attention(self, x: Any, i: int, cos: Any, sin: Any, hidden: Any) -> Any:
        c = self.config
        rows, count = hidden.shape[0], hidden.shape[-1]
        q, k = (self._linear(x, f"{i}.{name}") for name in "qk")
        if c.wide_norm:
            q, k = self._norm(q, f"{i}.q_norm"), self._norm(k, f"{i}.k_norm")
        q = tf.reshape(q, (rows, count, c.heads, c.head_size))
        k = tf.reshape(k, (rows, count, c.kv_heads, c.head_size))
        v = tf.reshape(self._linear(x, f"{i}.v"), (rows, count, c.kv_heads, c.head_size))
        if not c.wide_norm:
            q, k = self._norm(q, f"{i}.q_norm"), self._norm(k, f"{i}.k_norm")
        if i not in c.unrotated:
            q, k = _turned(q, cos, sin), _turned(k, cos, sin)
        # [rows, kv_heads, shared * count, head_size]: heads that share keys stand in one matrix.
        shared = c.heads // c.kv_heads
        q = tf.reshape(q, (rows, count, c.kv_heads, shared, c.head_size))
        q = tf.reshape(tf.transpose(q, (0, 2, 3, 1, 4)), (rows, c.kv_heads, -1, c.head_size))
        k, v = (tf.transpose(each, (0, 2, 1, 3)) for each in (k, v))
        q, k, v = (tf.cast(each, self._kind) for each in (q * c.score_scale, k, v))
        scores = tf.cast(tf.matmul(q, k, transpose_b=True), tf.float32)
        scores = tf.reshape(scores, (rows, c.kv_heads, shared, count, count))
        shares = tf.nn.softmax(scores + hidden[:, None, None])
        shares = tf.reshape(shares, (rows, c.kv_heads, shared * count, count))
        mixed = tf.cast(tf.matmul(tf.cast(shares, self._kind), v), tf.float32)
        mixed = tf.reshape(mixed, (rows, c.kv_heads, shared, count, c.head_size))
        mixed = tf.reshape(tf.transpose(mixed, (0, 3, 1, 2, 4)), (rows * count, -1))
        return self._linear(mixed, f"{i}.o")

    def __call__(self, ids: Any, positions: Any, segments: Any, at: Any) -> Any:
        """Logits float32 ``[N, vocabulary]`` of the token after each place in `at`.

        Args:
            ids: int32 ``[rows, count]``, see :mod:`.packing`.
            positions: alike.
            segments: alike.
            at: integers ``[N]``, of the ``rows * count`` places.
        """
        c = self.config
        count = ids.shape[1]
        mine, theirs = segments[:, :, None], segments[:, None, :]
        seen = (mine == theirs) | (theirs == SHARED)
        seen &= np.tril(np.ones((count, count), np.bool_))
        hidden = tf.where(seen, 0.0, _NEVER)
        turns = [
            (tf.gather(cos, positions)[:, :, None], tf.gather(sin, positions)[:, :, None])
            for cos, sin in self._turns
        ]
        x = tf.gather(self._embedding, tf.reshape(ids, [-1]))
        for i in range(c.layers):
            cos, sin = turns[1 if i in c.local_layers else 0]
            mixed = self._attention(self._norm(x, f"{i}.attention_norm"), i, cos, sin, hidden)
            x += self._norm(mixed, f"{i}.post_attention_norm")
            y = self._norm(x, f"{i}.ffn_norm")
            gate, up = self._linear(y, f"{i}.gate"), self._linear(y, f"{i}.up")
            act = tf.nn.silu(gate) if c.activation == "silu" else tf.nn.gelu(gate, approximate=True)
            x += self._norm(self._linear(act * up, f"{i}.down"), f"{i}.post_ffn_norm")
        x = tf.cast(self._scaled(tf.gather(x, at), self._final), self._kind)
        return tf.cast(tf.matmul(x, self._head, transpose_b=True), tf.float32)


def _turned(x: Any, cos: Any, sin: Any) -> Any:
    first, second = tf.split(x, 2, -1)
    return tf.concat([first * cos - second * sin, second * cos + first * sin], -1)
