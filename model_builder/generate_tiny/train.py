"""Trains the cell: teacher forcing, loss on the status line alone, one schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from model_builder.generate_tiny import task
from model_builder.generate_tiny.cell import Cell
from model_builder.recipes.status_lines import Settings


def encode(
    pairs: list[tuple[str, str]], alphabet: str
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Ids [N, T] padded with 0, and weights [N, T - 1] that are 1 where the line is predicted."""
    index = {char: i for i, char in enumerate(alphabet)}
    size = max(len(prompt) + len(status) + 1 for prompt, status in pairs)
    ids = np.zeros((len(pairs), size), np.int32)
    mask = np.zeros((len(pairs), size - 1), np.float32)
    for row, (prompt, status) in enumerate(pairs):
        text = prompt + status + task.END
        ids[row, : len(text)] = [index[char] for char in text]
        mask[row, len(prompt) - 1 : len(text) - 1] = 1
    return ids, mask


def train(settings: Settings, alphabet: str, say: Callable[[int, float], None]) -> Cell:
    """Trains a cell.

    Args:
        settings: see there.
        alphabet: characters by id.
        say: called now and then with the step and the loss.
    """
    import tensorflow as tf

    pairs = task.lines(settings.texts, seed=settings.seed, test=False)
    ids, mask = encode(pairs, alphabet)
    cell = Cell(len(alphabet), settings.width, settings.state, settings.seed)
    schedule = tf.keras.optimizers.schedules.CosineDecay(
        1e-5,
        settings.steps - settings.steps // 20,
        alpha=0.01,
        warmup_target=settings.rate,
        warmup_steps=settings.steps // 20,
    )
    optimizer = tf.keras.optimizers.Adam(schedule, global_clipnorm=1.0)

    @tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]
    def step(batch: Any, weight: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = cell.logits(batch[:, :-1])
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch[:, 1:], logits)
            # What the int8 logits cannot hold has to stay small.
            over = tf.nn.relu(tf.abs(logits) - 15.0)
            loss = tf.reduce_sum(losses * weight) / tf.reduce_sum(weight)
            total = loss + 0.01 * tf.reduce_mean(over * over)
        gradients = tape.gradient(total, cell.variables)
        optimizer.apply_gradients(zip(gradients, cell.variables, strict=True))
        return loss

    rng = np.random.default_rng(settings.seed)
    for number in range(settings.steps):
        rows = rng.integers(0, len(ids), settings.batch)
        loss = step(tf.constant(ids[rows]), tf.constant(mask[rows]))
        if number % 50 == 0 or number == settings.steps - 1:
            say(number, float(loss))
    return cell
