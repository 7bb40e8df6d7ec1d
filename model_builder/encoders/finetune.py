"""Training an encoder with its head: the fine-tuned teacher, and the small transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_builder import lazy_tensorflow as tf
from model_builder.checkpoint import Checkpoint, Saved
from model_builder.dropout import Dropout
from model_builder.encoders.encoder import Encoder, pad_batch
from model_builder.recipes.teachers import TeacherConfig
from model_builder.schedule import schedule
from model_builder.traced import Traced


def length_batches(
    lengths: Sequence[int], size: int, rng: np.random.Generator | None
) -> list[NDArray[np.int64]]:
    """Batches of rows of about one length, so that little is padding.

    Args:
        lengths: of the rows.
        size: rows a batch.
        rng: shuffles; rows are sorted by length within runs of 50 batches, and the batches are
            shuffled. None: sorted by length, in order.
    """
    count = len(lengths)
    size_of = np.asarray(lengths)
    if rng is None:
        order = np.argsort(size_of, kind="stable")
        return [order[i : i + size] for i in range(0, count, size)]
    order = rng.permutation(count)
    batches = []
    for first in range(0, count, size * 50):
        run = order[first : first + size * 50]
        run = run[np.argsort(size_of[run], kind="stable")]
        batches += [run[i : i + size] for i in range(0, len(run), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def finetune(
    encoder: Encoder,
    weight: Any,
    bias: Any,
    rows: Sequence[Sequence[int]],
    targets: NDArray[np.float32],
    config: TeacherConfig,
    seed: int,
    checkpoint: Checkpoint,
    start: Callable[[], None],
    progress: Callable[[int, int], None],
) -> None:
    """Trains `encoder`, `weight` and `bias` in place; a killed run goes on at its last epoch.

    Args:
        encoder: changed in place.
        weight: variable float32 [H, C].
        bias: variable float32 [C].
        rows: token ids of each text.
        targets: float32 [N, C], rows sum to 1.
        config: epochs, batch, rate, dropout, precision.
        seed: of order and dropout.
        checkpoint: keeps the state of each epoch, and the result.
        start: called before the first epoch of a run that has no checkpoint.
        progress: called with the steps done and all steps.
    """
    variables = [*encoder.trainable_variables, weight, bias]
    saved = checkpoint.load([tuple(v.shape) for v in variables])
    if saved is None or not saved.finished:
        if saved is None:
            start()
        _epochs(encoder, variables, rows, targets, config, seed, checkpoint, saved, progress)
        saved = Saved(config.epochs, True, [v.numpy() for v in variables], [])
        checkpoint.save(saved)
    for variable, value in zip(variables, saved.arrays, strict=True):
        variable.assign(value)


def _epochs(
    encoder: Encoder,
    variables: list[Any],
    rows: Sequence[Sequence[int]],
    targets: NDArray[np.float32],
    config: TeacherConfig,
    seed: int,
    checkpoint: Checkpoint,
    saved: Saved | None,
    progress: Callable[[int, int], None],
) -> None:
    optimizer = tf.keras.optimizers.AdamW(weight_decay=0.01, beta_2=0.98)
    optimizer.build(variables)
    state = [*variables, *optimizer.variables]
    if saved is not None:
        for variable, value in zip(state, saved.arrays, strict=True):
            variable.assign(value)
    lengths = [len(row) for row in rows]
    per_epoch = -(-len(rows) // config.batch)
    steps = per_epoch * config.epochs
    dtype = getattr(tf, config.precision)
    *_, weight, bias = variables

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None], tf.float32),
            tf.TensorSpec([None, None], tf.float32),
            tf.TensorSpec([2], tf.int32),
        ],
        autograph=False,
    )
    def step(ids: Any, mask: Any, goal: Any, draw: Any) -> None:
        with tf.GradientTape() as tape:
            dropout = Dropout(config.dropout, draw)
            hidden = encoder(ids, mask, dropout, dtype)
            logits = tf.matmul(dropout(hidden), weight) + bias
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(goal, logits))
        gradients = tape.gradient(loss, variables)
        gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    # All folds of a cross-validation train the same graph.
    key = ("finetune", encoder.config, config.dropout, config.precision)
    every = [*encoder.variables, weight, bias, *optimizer.variables]
    traced = Traced(key, every, step.get_concrete_function)
    first = saved.epoch if saved else 0
    done = first * per_epoch
    for epoch in range(first, config.epochs):
        rng = np.random.default_rng([seed, epoch])
        for batch in length_batches(lengths, config.batch, rng):
            ids, mask = pad_batch([list(rows[i]) for i in batch], 4)
            optimizer.learning_rate.assign(schedule(done, steps, config.rate))
            draw = tf.constant([seed, done], tf.int32)
            traced(tf.constant(ids), tf.constant(mask), tf.constant(targets[batch]), draw)
            done += 1
            progress(done, steps)
        if epoch + 1 < config.epochs:
            checkpoint.save(Saved(epoch + 1, False, [v.numpy() for v in state], []))
