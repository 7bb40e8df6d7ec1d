"""Small int8 models of the microcontroller shapes, made by the TensorFlow converter.

The weights are random: what is tested is arithmetic, not quality.
"""

from __future__ import annotations

import os
import warnings
from typing import Any, Literal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import numpy as np


def build(
    shape: Literal["conv", "bag"],
    *,
    buckets: int = 256,
    length: int = 24,
    width: int = 16,
    channels: int = 24,
    kernel: int = 3,
    labels: int = 7,
    padding: str = "SAME",
    softmax: bool = False,
    seed: int = 1,
) -> bytes:
    """A classifier: ids int32[1, length] -> int8 logits [1, labels].

    ``conv``: gather, 1 x k convolution with ReLU, mean and max, fully connected.
    ``bag``: gather, mean, two fully connected layers.
    """
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    table = tf.constant(np.clip(rng.normal(0, 0.4, (buckets, width)), -1, 1), tf.float32)
    filters = tf.constant(rng.normal(0, 0.3, (1, kernel, width, channels)), tf.float32)
    bias = tf.constant(rng.normal(0, 0.1, channels), tf.float32)
    dense = tf.constant(rng.normal(0, 0.3, (2 * channels, labels)), tf.float32)
    hidden = tf.constant(rng.normal(0, 0.3, (width, 2 * channels)), tf.float32)
    dense_bias = tf.constant(rng.normal(0, 0.2, labels), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([1, length], tf.int32, name="ids")])
    def run(ids: Any) -> Any:
        embedded = tf.gather(table, ids)  # [1, L, width]
        if shape == "conv":
            image = tf.reshape(embedded, [1, 1, length, width])
            image = tf.nn.relu(tf.nn.conv2d(image, filters, 1, padding) + bias)
            pooled = tf.concat(
                [tf.reduce_mean(image, [1, 2]), tf.reduce_max(image, [1, 2])], axis=1
            )
        else:
            pooled = tf.nn.relu(tf.matmul(tf.reduce_mean(embedded, 1), hidden))
        logits = tf.matmul(pooled, dense) + dense_bias
        return tf.nn.softmax(logits) if softmax else logits

    converter = tf.lite.TFLiteConverter.from_concrete_functions([run.get_concrete_function()])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_output_type = tf.int8

    def samples() -> Any:
        for _ in range(64):
            yield [rng.integers(0, buckets, (1, length), dtype=np.int32)]

    converter.representative_dataset = samples
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter wonders about the int32 input
        return bytes(converter.convert())
