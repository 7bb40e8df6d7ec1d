"""Fake quantisation: train with the rounding that int8 will do.

Straight-through estimator: Y. Bengio et al., "Estimating or Propagating Gradients Through
Stochastic Neurons" (2013). Integer scheme: B. Jacob et al., "Quantization and Training of
Neural Networks for Efficient Integer-Arithmetic-Only Inference" (2018).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_builder import lazy_tensorflow as tf

LEVELS: Final = 127
"""Weights use -127..127, symmetric around 0."""


def fake_quant_weights(x: Any, limit: Any) -> Any:
    """Rounds to the int8 grid of ``[-limit, limit]``; gradients pass inside the range.

    Args:
        x: float32, any shape.
        limit: float32 scalar, or one value an output channel (last axis).
    """
    clipped = tf.clip_by_value(x, -limit, limit)
    step = limit / LEVELS
    return clipped + tf.stop_gradient(tf.round(clipped / step) * step - clipped)


def channel_limit(x: Any) -> Any:
    """The largest magnitude of each output channel (last axis), at least 1e-6."""
    axes = list(range(len(x.shape) - 1))
    return tf.stop_gradient(tf.maximum(tf.reduce_max(tf.abs(x), axis=axes), 1e-6))


def fake_quant_activations(x: Any) -> Any:
    """Rounds to the 256 levels of the batch's own range (with 0 in it), as an int8 tensor would.

    The converter takes the range of the representative set, of which a batch is a sample.
    """
    low = tf.stop_gradient(tf.minimum(tf.reduce_min(x), 0.0))
    high = tf.stop_gradient(tf.maximum(tf.reduce_max(x), 0.0))
    step = tf.maximum((high - low) / 255.0, 1e-8)
    zero = tf.round(-low / step)
    grid = (tf.clip_by_value(tf.round(x / step) + zero, 0.0, 255.0) - zero) * step
    return x + tf.stop_gradient(grid - x)


def on_grid(x: NDArray[Any], limit: float) -> NDArray[Any]:
    """A table as it will be in int8, with both extremes exactly at `limit`.

    The converter takes one scale and zero point for a gathered table from its extremes. Clipping
    and rounding here, as training did, makes its choice the same as ours: a zero point at 0, as
    :mod:`model_builder.rounding` needs it. Row 0 is padding and stays as it is.
    """
    step = np.float32(limit / LEVELS)
    grid = np.round(np.clip(x, -limit, limit) / step).astype(np.float32)
    rows = grid[1:].reshape(-1)  # a view
    highest, lowest = int(rows.argmax()), int(rows.argmin())
    if highest == lowest:  # all are the same
        lowest = len(rows) - 1
    if rows[highest] < LEVELS:
        rows[highest] = LEVELS
    if rows[lowest] > -LEVELS:
        rows[lowest] = -LEVELS
    return np.asarray(grid * step, np.float32)
