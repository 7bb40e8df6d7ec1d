"""An update-gate recurrent cell whose training computes as the int8 kernels do.

``h' = h + z * (n - h)`` with ``z = clip(W_z [e, h] + b_z, 0, 1)`` and
``n = clip(W_n [e, h] + b_n, -1, 1)``: J. Collins, J. Sohl-Dickstein, D. Sussillo, "Capacity and
Trainability in Recurrent Neural Networks" (2017), UGRNN, with piecewise-linear gates: saturation
of int8 is the clip, so that no look-up of a sigmoid is needed.

The state has the scale 1/127 as input and as output. In training every tensor is rounded to its
int8 grid and the rounding's gradient is passed straight through.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

STEP: Final = 1 / 127
GATE_STEP: Final = 1 / 255
LOGIT_STEP: Final = 0.125
"""Scales of state and embedding, of the gate, and of the logits."""


def _snap(value: Any, step: float, low: float, high: float) -> Any:
    import tensorflow as tf

    clipped = tf.clip_by_value(value, low, high)
    return clipped + tf.stop_gradient(tf.round(clipped / step) * step - clipped)


def _weights(value: Any) -> Any:
    """A weight matrix on its int8 grid: one scale, symmetric."""
    import tensorflow as tf

    step = tf.stop_gradient(tf.reduce_max(tf.abs(value)) / 127 + 1e-9)
    return value + tf.stop_gradient(tf.round(value / step) * step - value)


class Cell:
    """Variables and the training pass.

    Args:
        characters: size of the alphabet V.
        width: of the embedding E.
        state: H.
        seed: of the initial values.
    """

    def __init__(self, characters: int, width: int, state: int, seed: int) -> None:
        import tensorflow as tf

        rng = np.random.default_rng(seed)

        def matrix(rows: int, columns: int) -> Any:
            values = rng.normal(0, 1 / np.sqrt(columns), (rows, columns))
            return tf.Variable(values.astype(np.float32))

        self.state = state
        self.table = tf.Variable(rng.uniform(-0.7, 0.7, (characters, width)).astype(np.float32))
        self.update = matrix(state, width + state)
        # Gates begin nearly closed and spread, so that some units remember from the start.
        start = rng.uniform(-0.3, 0.5, state).astype(np.float32)
        self.update_bias = tf.Variable(start)
        self.candidate = matrix(state, width + state)
        self.candidate_bias = tf.Variable(np.zeros(state, np.float32))
        self.output = matrix(characters, state)
        self.output_bias = tf.Variable(np.zeros(characters, np.float32))

    @property
    def variables(self) -> list[Any]:
        """All that is trained."""
        return [
            self.table,
            self.update,
            self.update_bias,
            self.candidate,
            self.candidate_bias,
            self.output,
            self.output_bias,
        ]

    @property
    def parameters(self) -> int:
        """How many weights there are."""
        return sum(int(np.prod(v.shape)) for v in self.variables)

    def logits(self, ids: Any) -> Any:
        """Teacher forcing: ids int32 [N, T] to logits float32 [N, T, V]."""
        import tensorflow as tf

        table = _snap(self.table, STEP, -1.0, 1.0)
        update, candidate = _weights(self.update), _weights(self.candidate)
        output = _weights(self.output)
        embedded = tf.gather(table, ids)  # [N, T, E]
        width = embedded.shape[-1]
        # The input's part of both gates needs no recurrence: one product for all steps.
        drive_z = tf.einsum("nte,he->tnh", embedded, update[:, :width]) + self.update_bias
        drive_n = tf.einsum("nte,he->tnh", embedded, candidate[:, :width]) + self.candidate_bias
        recurrent = tf.concat([update[:, width:], candidate[:, width:]], 0)  # [2H, H]

        def step(state: Any, drive: Any) -> Any:
            both = tf.matmul(state, recurrent, transpose_b=True)
            z = _snap(drive[0] + both[:, : self.state], GATE_STEP, 0.0, 1.0)
            n = _snap(drive[1] + both[:, self.state :], STEP, -1.0, 1.0)
            move = _snap(z * _snap(n - state, 2 * STEP, -2.0, 2.0), 2 * STEP, -2.0, 2.0)
            return _snap(state + move, STEP, -1.0, 1.0)

        start = tf.zeros([tf.shape(ids)[0], self.state])
        states = tf.scan(step, (drive_z, drive_n), start)  # [T, N, H]
        return tf.einsum("tnh,vh->ntv", states, output) + self.output_bias
