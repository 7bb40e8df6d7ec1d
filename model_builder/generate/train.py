"""Trains a student on pairs, with early stopping, and optionally on a teacher's token shares."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from model_builder import lazy_tensorflow as tf
from model_builder.generate.encoded import Encoded
from model_builder.generate.student import Variables, forward, new_variables
from model_builder.generate.weights import DecoderConfig
from model_builder.recipes.training import TrainOptions

_DECAY = 0.01
_CLIP = 1.0


class Trained(msgspec.Struct):
    """A trained student."""

    variables: Variables
    steps: int
    validation_loss: float
    seconds: float


def orthogonal(matrix: Any) -> Any:
    """About the orthogonal matrix nearest to one ``[M, N]``: singular values near 1.

    Source: a quintic Newton-Schulz iteration with the coefficients of Muon (Jordan et al., 2024).
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else tf.transpose(matrix)
    x = wide / (tf.norm(wide) + 1e-7)
    for _ in range(5):
        square = tf.matmul(x, x, transpose_b=True)
        x = 3.4445 * x + tf.matmul(-4.7750 * square + 2.0315 * tf.matmul(square, square), x)
    return x if matrix.shape[0] <= matrix.shape[1] else tf.transpose(x)


def train(
    config: DecoderConfig,
    data: Encoded,
    validation: Encoded,
    options: TrainOptions,
    progress: Callable[[int, float], None] = lambda step, loss: None,
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """Trains from scratch; the weights with the best validation loss are returned.

    Args:
        config: of the student.
        data: encoded pairs to learn.
        validation: encoded pairs to stop by.
        options: how.
        progress: told step and validation loss.
        clock: seconds.
    """
    started = clock()
    variables = new_variables(config, options.seed)
    listed = list(variables.values())
    first = [tf.Variable(tf.zeros_like(x)) for x in listed]
    second = [tf.Variable(tf.zeros_like(x)) for x in listed]
    tf.random.set_seed(options.seed)

    def loss_of(ids: Any, counts: Any, dropout: float, fake: bool) -> tuple[Any, Any]:
        # Of a prompt's tokens no logits are computed.
        counts = tf.reshape(counts, [-1])
        at = tf.where(counts > 0)[:, 0]
        logits = forward(
            variables, config, ids[:, :-1], dropout, fake=fake, half=options.half, at=at
        )
        wanted = tf.gather(tf.reshape(ids[:, 1:], [-1]), at)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits)
        return tf.reduce_sum(losses * tf.gather(counts, at)), tf.reduce_sum(counts)

    def make_step(fake: bool) -> Any:
        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def step(ids: Any, counts: Any, rate: Any, number: Any) -> Any:
            with tf.GradientTape() as tape:
                total, weight = loss_of(ids, counts, options.dropout, fake)
                loss = total / weight
            gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, listed), _CLIP)
            # Written out: no optimiser state in a bundle. Matrices by Muon (Jordan et al., 2024;
            # its update scaled to AdamW's as by Liu et al., 2025), the rest by AdamW
            # (Loshchilov and Hutter, 2019).
            for name, x, g, m, s in zip(variables, listed, gradients, first, second, strict=True):
                g = tf.convert_to_tensor(g)
                if options.optimizer == "muon" and "." in name and len(x.shape) == 2:
                    m.assign(0.95 * m + g)
                    update = 0.2 * float(max(x.shape)) ** 0.5 * orthogonal(g + 0.95 * m)
                else:
                    m.assign(0.9 * m + 0.1 * g)
                    s.assign(0.98 * s + 0.02 * g * g)
                    update = (m / (1 - 0.9**number)) / (tf.sqrt(s / (1 - 0.98**number)) + 1e-8)
                decay = _DECAY if len(x.shape) == 2 else 0.0
                x.assign_sub(rate * (update + decay * x))
            return loss

        return step

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def evaluate(ids: Any, counts: Any) -> tuple[Any, Any]:
        return loss_of(ids, counts, 0.0, options.quantize_aware > 0)

    rng = np.random.default_rng(options.seed)
    best, best_loss, looks, done = [x.numpy() for x in listed], float("inf"), 0, 0
    order = np.argsort((data.counts > 0).cumsum(1).argmax(1), kind="stable")
    aware_from = options.steps * (1 - options.quantize_aware)
    steps: dict[bool, Any] = {}
    for number in range(1, options.steps + 1):
        fake = options.quantize_aware > 0 and number > aware_from
        if fake not in steps:
            steps[fake] = make_step(fake)
        # Pairs of about one length travel together: less padding is computed.
        at = int(rng.integers(0, max(1, len(order) - options.batch * 4)))
        picked = rng.choice(order[at : at + options.batch * 4], options.batch)
        ids, counts = _cut(data.ids[picked], data.counts[picked])
        # What ends first, the steps or the time, ends the schedule.
        share = max(number / options.steps, (clock() - started) / 60 / options.minutes)
        rate = _rate(number, share, options)
        steps[fake](
            tf.constant(ids),
            tf.constant(counts),
            tf.constant(rate, tf.float32),
            tf.constant(number, tf.float32),
        )
        done = number
        late = (clock() - started) / 60 > options.minutes
        if number % options.evaluate_every == 0 or number == options.steps or late:
            loss = _validation_loss(evaluate, validation, options.batch * 2)
            progress(number, loss)
            looks += 1
            if loss < best_loss:
                best, best_loss, looks = [x.numpy() for x in listed], loss, 0
            if late or looks >= options.patience:
                break
    for x, value in zip(listed, best, strict=True):
        x.assign(value)
    return Trained(variables, done, best_loss, clock() - started)


def _cut(
    ids: npt.NDArray[np.int32], counts: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Drops padding that the whole batch has, in steps of 16 so that few shapes are traced."""
    used = int(np.flatnonzero(counts.any(0))[-1]) + 1
    size = min(counts.shape[1], -(-used // 16) * 16)
    return ids[:, : size + 1], counts[:, :size]


def _rate(number: int, share: float, options: TrainOptions) -> float:
    """Linear warm-up, then a cosine down to a twentieth at `share` 1."""
    if number < options.warmup:
        return options.learning_rate * number / options.warmup
    cosine = 0.5 * (1 + float(np.cos(np.pi * min(share, 1.0))))
    return options.learning_rate * (0.05 + 0.95 * cosine)


def _validation_loss(evaluate: Any, data: Encoded, batch: int) -> float:
    total = weight = 0.0
    for at in range(0, len(data.ids), batch):
        ids, counts = _cut(data.ids[at : at + batch], data.counts[at : at + batch])
        a, b = evaluate(tf.constant(ids), tf.constant(counts))
        total, weight = total + float(a), weight + float(b)
    return total / max(weight, 1.0)
