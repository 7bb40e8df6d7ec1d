"""The microcontroller students: a bag, or a small convolution, over hashed n-grams.

Operators, all of which TensorFlow Lite Micro has: GATHER, RESHAPE, CONV_2D (convolution only),
MEAN, REDUCE_MAX, FULLY_CONNECTED, ADD.

The bag is A. Joulin et al., "Bag of Tricks for Efficient Text Classification" (2017), with a
second pooling and a hidden layer; the convolution is Y. Kim, "Convolutional Neural Networks for
Sentence Classification" (2014): the largest response over the text, beside the bag's mean. Row 0
of the table is padding and stays zero.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from model_builder import lazy_tensorflow as tf
from model_builder.dropout import NONE, Dropout
from model_builder.recipes.students import NgramStudentConfig
from model_builder.students.fakequant import (
    channel_limit,
    fake_quant_activations,
    fake_quant_weights,
    on_grid,
)
from model_builder.traced import Traced


class NgramStudent(tf.Module):  # type: ignore[misc]
    """Hashed ids to logits.

    Args:
        config: the shape.
        classes: how many labels (C).
        seed: of the initial weights.
    """

    INITIAL = 0.1
    """Standard deviation of the table's initial values."""

    USUAL = 30.0
    """Ids that a short text has."""

    def __init__(self, config: NgramStudentConfig, classes: int, seed: int) -> None:
        super().__init__()
        self.config = config
        rng = np.random.default_rng(seed)

        def glorot(*shape: int, name: str) -> Any:
            fan = int(np.prod(shape[:-1])) + shape[-1]
            value = rng.normal(size=shape, scale=np.sqrt(2.0 / fan))
            return tf.Variable(value.astype(np.float32), name=name)

        def zeros(size: int, name: str) -> Any:
            return tf.Variable(np.zeros(size, np.float32), name=name)

        rows, dim = config.features.buckets, config.dim
        table = rng.normal(size=(rows, dim), scale=self.INITIAL).astype(np.float32)
        table[0] = 0.0
        self.table = tf.Variable(table, name="table")
        self.limit = config.clip * self.INITIAL
        # A text of usual length fills a small part of the ids; this brings its mean back to the
        # size that the initial weights expect. The converter folds it into the weights.
        self.gain = config.features.length / self.USUAL
        self.kernel: Any = None
        if config.kind == "cnn":
            self.kernel = glorot(1, config.kernel, dim, config.channels, name="kernel")
            self.kernel_bias = zeros(config.channels, "kernel_bias")
        width = config.channels if config.kind == "cnn" else dim
        first = config.hidden or classes
        self.from_mean = glorot(dim, first, name="from_mean")
        largest = config.max_pool or config.kind == "cnn"
        self.from_max = glorot(width, first, name="from_max") if largest else None
        self.first_bias = zeros(first, "first_bias")
        self.out: Any = None
        if config.hidden:
            self.out = glorot(config.hidden, classes, name="out")
            self.out_bias = zeros(classes, "out_bias")

        compiled = tf.function(
            lambda ids, quantise: self(ids, quantise=quantise),
            autograph=False,  # the code branches on settings alone: there is nothing to convert
        )
        ids = tf.TensorSpec([None, config.features.length], tf.int32)
        self.compiled = functools.cache(
            lambda quantise: Traced(
                ("predict", config, quantise),
                self.variables,
                lambda: compiled.get_concrete_function(ids, quantise),
            )
        )
        """By whether weights are rounded: int32 [N, L] to logits float32 [N, C]."""

    def gathered(self, ids: Any, quantise: bool) -> Any:
        """The rows of `ids` int32 [N, L]: float32 [N, L, D], zero where the id is 0."""
        rows = tf.nn.embedding_lookup(self.table, ids)
        if quantise:
            rows = fake_quant_weights(rows, self.limit)
        return rows

    def __call__(self, ids: Any, *, quantise: bool = False, dropout: Dropout = NONE) -> Any:
        """Runs the student.

        Args:
            ids: int32 [N, L] of the front end.
            quantise: with the weights' int8 rounding.
            dropout: of the pooled features, while training.

        Returns:
            float32 [N, C]: logits.
        """
        return self.stages(ids, quantise=quantise, dropout=dropout)["logits"]

    def stages(
        self, ids: Any, *, quantise: bool = False, dropout: Dropout = NONE
    ) -> dict[str, Any]:
        """The same, with what is between: name -> float32 tensor, in the order of the graph."""

        def weight(x: Any) -> Any:
            return fake_quant_weights(x, channel_limit(x)) if quantise else x

        def rounded(x: Any) -> Any:
            return fake_quant_activations(x) if quantise else x

        found: dict[str, Any] = {}
        length = self.config.features.length
        batch = ids.shape[0] or -1
        x = found["gather"] = self.gathered(ids, quantise)  # [N, L, D]
        # Of the table's rows, not of the convolution: XNNPACK adds a mean's zero point in float32,
        # and only near 0 does every sum stay exact (model_builder/rounding.py).
        if ids.shape[1] == length:
            mean = tf.reduce_mean(x, axis=1)  # [N, D]
        else:  # columns that were all padding are cut off
            mean = tf.reduce_sum(x, axis=1) / length
        mean = found["mean"] = rounded(mean)
        if self.kernel is not None:
            x = tf.reshape(x, [batch, 1, length, self.config.dim])
            x = tf.nn.conv2d(x, weight(self.kernel), strides=1, padding="SAME")
            x = rounded(tf.nn.relu(x + self.kernel_bias))
            x = tf.reshape(x, [batch, length, self.config.channels])
            found["convolution"] = x
        y = tf.matmul(dropout(mean), weight(self.from_mean * self.gain)) + self.first_bias
        if self.from_max is not None:
            largest = found["max"] = tf.reduce_max(x, axis=1)
            y += tf.matmul(dropout(largest), weight(self.from_max))
        if self.out is not None:
            y = found["hidden"] = rounded(tf.nn.relu(y))
            y = tf.matmul(y, weight(self.out)) + self.out_bias
        found["logits"] = y
        return found

    def locate(self, operators: list[tuple[str, int]]) -> dict[str, int]:
        """The stages in a converted model: name -> tensor index.

        Args:
            operators: name and first output of each operator, in the order of the graph.
        """

        def last(name: str) -> int:
            return [index for operator, index in operators if operator == name][-1]

        found = {"gather": last("GATHER"), "mean": last("MEAN"), "logits": operators[-1][1]}
        if self.kernel is not None:
            found["convolution"] = last("CONV_2D")
        if self.from_max is not None:
            found["max"] = last("REDUCE_MAX")
            if self.out is not None:
                found["hidden"] = last("ADD")
        return found

    def project(self) -> None:
        """Puts the table back into its range, and row 0 to zero, after a training step.

        The float model then has the range of the int8 one, and rounding is all that differs.
        """
        self.table.assign(tf.clip_by_value(self.table, -self.limit, self.limit))
        self.table.scatter_nd_update([[0]], tf.zeros([1, self.config.dim]))

    def freeze(self) -> None:
        """Puts the table on its int8 grid, so that the converter picks the same grid."""
        self.project()
        table = self.table.numpy()
        # A table that was trained for a short time uses a part of its range: its grid is finer.
        limit = min(self.limit, float(np.abs(table).max())) or self.limit
        self.table.assign(on_grid(table, limit))
