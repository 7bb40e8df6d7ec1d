"""The training loop of the students: soft targets, AdamW, warm-up and cosine decay.

Soft targets: G. Hinton et al., "Distilling the Knowledge in a Neural Network" (2015).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from model_builder.students.ngram import NgramStudent


class FitConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a student is trained.

    Attributes:
        epochs: passes over the data.
        batch: texts a step.
        rate: highest learning rate.
        weight_decay: decoupled (I. Loshchilov, F. Hutter, 2019).
        dropout: of the pooled features.
        feature_dropout: share of a text's ids hidden in a step, so that no single n-gram decides.
        quantise_from: share of the steps after which the weights are rounded as int8 will.
    """

    epochs: int = 10
    batch: int = 128
    rate: float = 3e-3
    weight_decay: float = 1e-4
    dropout: float = 0.1
    feature_dropout: float = 0.1
    quantise_from: float = 0.5


def schedule(step: int, steps: int, peak: float) -> float:
    """Learning rate of a step: 5 % linear warm-up, then cosine to zero."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return float(peak * 0.5 * (1 + np.cos(np.pi * (step - warm) / max(1, steps - warm))))


def fit(
    student: NgramStudent,
    ids: NDArray[np.int32],
    targets: NDArray[np.float32],
    config: FitConfig,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Trains `student` in place.

    Args:
        student: its variables are changed.
        ids: int32 [N, L].
        targets: float32 [N, C], rows sum to 1: labels as one-hot, or a teacher's probabilities.
        config: how.
        seed: of the order, of dropout.
        progress: called after each step with the steps done and all steps.
    """
    rng = np.random.default_rng(seed)
    generator = tf.random.Generator.from_seed(seed)
    variables = list(student.trainable_variables)
    optimizer = tf.keras.optimizers.AdamW(weight_decay=config.weight_decay, epsilon=1e-7)
    optimizer.build(variables)
    count = len(ids)
    per_epoch = -(-count // config.batch)
    steps = per_epoch * config.epochs

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(batch_ids: Any, batch_targets: Any, quantise: bool) -> Any:
        if config.feature_dropout:
            keep = generator.uniform(tf.shape(batch_ids)) >= config.feature_dropout
            batch_ids = tf.where(keep, batch_ids, 0)
        with tf.GradientTape() as tape:
            logits = student(batch_ids, quantise=quantise, dropout=config.dropout)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(batch_targets, logits))
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    done = 0
    for _ in range(config.epochs):
        order = rng.permutation(count)
        for first in range(0, count, config.batch):
            rows = order[first : first + config.batch]
            optimizer.learning_rate.assign(schedule(done, steps, config.rate))
            late = done >= config.quantise_from * steps
            step(tf.constant(ids[rows]), tf.constant(targets[rows]), late)
            student.clear_padding()
            done += 1
            progress(done, steps)
