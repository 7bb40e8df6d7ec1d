"""A BERT-style sentence encoder as plain TensorFlow: the teacher, and the quality student.

Architecture: J. Devlin et al., "BERT" (2019), post-layer-norm encoder; sentence embedding by
mean pooling as in N. Reimers, I. Gurevych, "Sentence-BERT" (2019). Reads Hugging Face
safetensors (``BertModel`` names).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts.errors import InputError
from model_builder import lazy_tensorflow as tf
from model_builder.dropout import NONE, Dropout

_MASKED: Final = -1e4
"""Added to the attention scores of padding; small enough for bfloat16 and int8 ranges."""


class EncoderConfig(msgspec.Struct, frozen=True):
    """The fields of ``config.json`` that shape the encoder."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"

    @property
    def work(self) -> int:
        """Products with weights that one token takes."""
        inner = 4 * self.hidden_size + 2 * self.intermediate_size
        return self.num_hidden_layers * self.hidden_size * inner


class Block(tf.Module):  # type: ignore[misc]
    """One encoder layer: self-attention and feed-forward, each with residual and layer norm."""

    def __init__(self, config: EncoderConfig, weights: Mapping[str, Any], prefix: str) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.eps = config.layer_norm_eps

        def matrix(*names: str) -> Any:
            parts = [np.asarray(weights[f"{prefix}.{name}.weight"], np.float32) for name in names]
            return tf.Variable(np.concatenate(parts).T, name=names[0])

        def vector(kind: str, *names: str) -> Any:
            parts = [np.asarray(weights[f"{prefix}.{name}.{kind}"], np.float32) for name in names]
            return tf.Variable(np.concatenate(parts), name=names[0])

        inputs = ("attention.self.query", "attention.self.key", "attention.self.value")
        self.w_qkv, self.b_qkv = matrix(*inputs), vector("bias", *inputs)
        self.w_out = matrix("attention.output.dense")
        self.b_out = vector("bias", "attention.output.dense")
        self.w_up, self.b_up = matrix("intermediate.dense"), vector("bias", "intermediate.dense")
        self.w_down, self.b_down = matrix("output.dense"), vector("bias", "output.dense")
        self.norm1 = [
            vector("weight", "attention.output.LayerNorm"),
            vector("bias", "attention.output.LayerNorm"),
        ]
        self.norm2 = [vector("weight", "output.LayerNorm"), vector("bias", "output.LayerNorm")]

    def __call__(self, x: Any, bias: Any, dropout: Dropout = NONE, dtype: Any = tf.float32) -> Any:
        """Runs the layer.

        Args:
            x: float32 [B, T, H].
            bias: float32 [B, 1, 1, T], added to the attention scores.
            dropout: applied after each projection, while training.
            dtype: of the matrix products (bfloat16 trains at twice the speed on AVX512-BF16).

        Returns:
            float32 [B, T, H].
        """
        tokens = tf.shape(x)[1] if x.shape[1] is None else x.shape[1]
        hidden = x.shape[2]
        size = hidden // self.heads
        rows = tf.reshape(x, [-1, hidden])  # [B*T, H]
        qkv = dense(rows, self.w_qkv, self.b_qkv, dtype)
        query, key, value = (
            tf.transpose(tf.reshape(part, [-1, tokens, self.heads, size]), [0, 2, 1, 3])
            for part in tf.split(qkv, 3, axis=1)
        )  # each [B, heads, T, size]
        scores = tf.matmul(query * (size**-0.5), key, transpose_b=True) + bias
        mixed = tf.matmul(tf.nn.softmax(scores), value)
        mixed = tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, hidden])
        mixed = dense(mixed, self.w_out, self.b_out, dtype)
        rows = layer_norm(rows + dropout(mixed), self.norm1, self.eps)
        wide = tf.nn.gelu(dense(rows, self.w_up, self.b_up, dtype), approximate=True)
        down = dense(wide, self.w_down, self.b_down, dtype)
        rows = layer_norm(rows + dropout(down), self.norm2, self.eps)
        return tf.reshape(rows, [-1, tokens, hidden])


class Encoder(tf.Module):  # type: ignore[misc]
    """Token ids to a sentence embedding.

    Args:
        config: the shape.
        weights: name -> array, names of Hugging Face's ``BertModel``.

    Raises:
        InputError: ``bad-teacher``; a tensor is missing or has another shape.
    """

    def __init__(self, config: EncoderConfig, weights: Mapping[str, Any]) -> None:
        super().__init__()
        if config.hidden_act != "gelu":
            raise InputError(
                "bad-teacher", f"expected an encoder with gelu, found {config.hidden_act[:40]!r}"
            )
        self.config = config
        try:
            words = np.asarray(weights["embeddings.word_embeddings.weight"], np.float32)
            positions = np.asarray(weights["embeddings.position_embeddings.weight"], np.float32)
            kinds = np.asarray(weights["embeddings.token_type_embeddings.weight"], np.float32)
            self.words = tf.Variable(words, trainable=False, name="words")
            self.positions = tf.Variable(positions + kinds[:1], trainable=False, name="positions")
            self.norm = [
                tf.Variable(np.asarray(weights[f"embeddings.LayerNorm.{kind}"], np.float32))
                for kind in ("weight", "bias")
            ]
            self.blocks = [
                Block(config, weights, f"encoder.layer.{index}")
                for index in range(config.num_hidden_layers)
            ]
        except KeyError as error:
            raise InputError("bad-teacher", f"the encoder's weights lack {error}") from None
        if words.shape != (config.vocab_size, config.hidden_size):
            raise InputError(
                "bad-teacher",
                f"expected word embeddings {(config.vocab_size, config.hidden_size)}, "
                f"found {words.shape}",
            )

    def embed(self, ids: Any) -> Any:
        """Token ids int32 [B, T] to the first hidden state float32 [B, T, H]."""
        length = tf.shape(ids)[1] if ids.shape[1] is None else ids.shape[1]
        x = tf.nn.embedding_lookup(self.words, ids) + self.positions[:length]
        return layer_norm(x, self.norm, self.config.layer_norm_eps)

    def __call__(
        self, ids: Any, mask: Any, dropout: Dropout = NONE, dtype: Any = tf.float32
    ) -> Any:
        """Encodes and pools.

        Args:
            ids: int32 [B, T].
            mask: float32 [B, T]; 1 for a token, 0 for padding.
            dropout: see :class:`Block`.
            dtype: see :class:`Block`.

        Returns:
            float32 [B, H]: the mean over the tokens, of length 1.
        """
        x = self.embed(ids)
        bias = masked_bias(mask)
        for block in self.blocks:
            x = block(x, bias, dropout, dtype)
        return pool(x, mask)


def masked_bias(mask: Any) -> Any:
    """float32 [B, T] (1: token, 0: padding) to what is added to the scores, [B, 1, 1, T]."""
    return ((1.0 - mask) * _MASKED)[:, None, None, :]


def pool(x: Any, mask: Any) -> Any:
    """Mean over the tokens, scaled to length 1: float32 [B, T, H], [B, T] -> [B, H]."""
    total = tf.reduce_sum(x * mask[:, :, None], axis=1)
    mean = total / tf.maximum(tf.reduce_sum(mask, axis=1, keepdims=True), 1.0)
    return mean / tf.sqrt(tf.reduce_sum(mean * mean, axis=1, keepdims=True) + 1e-12)


def dense(x: Any, weight: Any, bias: Any, dtype: Any) -> Any:
    """``x @ weight + bias`` with the product in `dtype`, the result in float32."""
    if dtype == tf.float32:
        return tf.matmul(x, weight) + bias
    return tf.cast(tf.matmul(tf.cast(x, dtype), tf.cast(weight, dtype)), tf.float32) + bias


def layer_norm(x: Any, affine: list[Any], eps: float) -> Any:
    """Layer normalisation over the last axis; `affine` is gain and offset, float32 [H] each."""
    gain, offset = affine
    mean = tf.reduce_mean(x, axis=-1, keepdims=True)
    centred = x - mean
    variance = tf.reduce_mean(centred * centred, axis=-1, keepdims=True)
    return centred * (tf.math.rsqrt(variance + eps) * gain) + offset


def pad_batch(rows: list[list[int]], multiple: int = 8) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pads token ids to a common length.

    Returns:
        ids int32 [B, T] and mask float32 [B, T], T a multiple of `multiple`.
    """
    longest = max(len(row) for row in rows)
    length = -(-longest // multiple) * multiple
    ids = np.zeros((len(rows), length), np.int32)
    mask = np.zeros((len(rows), length), np.float32)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1.0
    return ids, mask
