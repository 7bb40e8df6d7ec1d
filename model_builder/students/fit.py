"""The training loop of the n-gram students: soft targets, AdamW, warm-up and cosine decay.

Soft targets: G. Hinton et al., "Distilling the Knowledge in a Neural Network" (2015). Embedding
matching: A. Romero et al., "FitNets" (2015), with a linear map and the cosine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from model_builder import lazy_tensorflow as tf
from model_builder.checkpoint import Checkpoint, Saved
from model_builder.dropout import Dropout
from model_builder.recipes.students import FitConfig
from model_builder.schedule import schedule
from model_builder.students.ngram import NgramStudent
from model_builder.traced import Traced


class Matching(msgspec.Struct):
    """Embedding matching: the hidden layer, through a linear map, points where the teacher does.

    Attributes:
        embeddings: float32 [N, E] of the teacher, of length 1.
        weight: of its loss.
    """

    embeddings: NDArray[np.float32]
    weight: float


def fit(
    student: NgramStudent,
    ids: NDArray[np.int32],
    targets: NDArray[np.float32],
    config: FitConfig,
    seed: int,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    score: Callable[[], float] | None = None,
    matching: Matching | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[float]:
    """Trains `student` in place.

    Args:
        student: its variables are changed.
        ids: int32 [N, L].
        targets: float32 [N, C], rows sum to 1: labels as one-hot, or a teacher's probabilities.
        config: how.
        seed: of the order, of dropout.
        progress: called after each step with the steps done and all steps.
        score: of the student on validation data, called after each epoch; higher is better.
        matching: matches the teacher's embeddings too.
        checkpoint: where each epoch's state is kept; a run with the same key goes on from it.

    Returns:
        The validation score of each epoch; empty without `score`.
    """
    per_epoch = -(-len(ids) // config.batch)
    epochs = config.epochs or max(1, round(config.steps / per_epoch))
    trainer = _Trainer(student, config, seed, matching)
    state = trainer.state
    scores: list[float] = []
    best: list[NDArray[Any]] = []
    first = 0
    own = len(student.variables)
    saved = checkpoint.load([tuple(v.shape) for v in student.variables]) if checkpoint else None
    if saved is not None:
        best = saved.arrays[-own:]
        scores, first = [float(note) for note in saved.notes], saved.epoch
        if saved.finished:
            first = epochs
        else:
            for variable, value in zip(state, saved.arrays, strict=False):
                variable.assign(value)
    rounded_from = int(config.quantise_from * epochs)
    for epoch in range(first, epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(ids))
        rounded = epoch >= rounded_from
        for index in range(per_epoch):
            rows = order[index * config.batch : (index + 1) * config.batch]
            done = epoch * per_epoch + index
            rate = schedule(done, per_epoch * epochs, config.rate)
            trainer.step(ids[rows], targets[rows], rows, rate, rounded, done)
            progress(done + 1, per_epoch * epochs)
        current = score() if score else 0.0
        if not best or not rounded or not score or current >= max(scores[rounded_from:], default=0):
            best = [v.numpy() for v in student.variables]
        if score:
            scores.append(current)
        stale = (
            len(scores) - 1 - int(np.argmax(scores[rounded_from:])) - rounded_from
            if (score and rounded)
            else 0
        )
        stop = bool(config.patience and stale >= config.patience)
        last = stop or epoch + 1 == epochs
        if checkpoint:
            kept = [] if last else [v.numpy() for v in state]
            checkpoint.save(Saved(epoch + 1, last, [*kept, *best], scores))
        if stop:
            break
    for variable, value in zip(student.variables, best, strict=True):
        variable.assign(value)
    return scores


class _Trainer:
    """One compiled training step with its optimiser."""

    def __init__(
        self, student: NgramStudent, config: FitConfig, seed: int, matching: Matching | None
    ) -> None:
        self._config = config
        self._seed = seed
        self._matching = matching
        extra = []
        if matching is not None:
            width = student.config.hidden or student.config.dim
            size = (width, matching.embeddings.shape[1])
            initial = np.random.default_rng(seed).normal(size=size, scale=width**-0.5)
            extra.append(tf.Variable(initial.astype(np.float32), name="match"))
        variables = [*student.trainable_variables, *extra]
        optimizer = tf.keras.optimizers.AdamW(weight_decay=config.weight_decay, epsilon=1e-7)
        optimizer.build(variables)
        self._rate = optimizer.learning_rate
        self.state = [*student.variables, *extra, *optimizer.variables]
        stage = "hidden" if student.config.hidden else "mean"

        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def step(ids: Any, targets: Any, wanted: Any, draw: Any, rounded: bool) -> Any:
            dropout = Dropout(config.dropout, draw)
            if config.feature_dropout:
                ids = tf.where(dropout.keep(tf.shape(ids), config.feature_dropout), ids, 0)
            with tf.GradientTape() as tape:
                stages = student.stages(ids, quantise=rounded, dropout=dropout)
                loss = tf.reduce_mean(
                    tf.nn.softmax_cross_entropy_with_logits(targets, stages["logits"])
                )
                if matching is not None:
                    pointed = tf.math.l2_normalize(tf.matmul(stages[stage], extra[0]), axis=1)
                    cosine = tf.reduce_sum(pointed * wanted, axis=1)
                    loss += matching.weight * tf.reduce_mean(1.0 - cosine)
            gradients = tape.gradient(loss, variables)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            student.project()
            return loss

        self._trim = student.config.kind == "bag"
        # Of any batch, and where columns are cut off of any width: traced once, and once rounded.
        columns = None if self._trim else student.config.features.length
        shapes = ([None, columns], [None, None], [None, None], [2])
        kinds = (tf.int32, tf.float32, tf.float32, tf.int32)
        signature = [tf.TensorSpec(*one) for one in zip(shapes, kinds, strict=True)]
        weight = matching.weight if matching else 0.0
        key = ("fit", student.config, config.dropout, config.feature_dropout, weight)

        @functools.cache
        def traced(rounded: bool) -> Traced:
            trace = partial(step.get_concrete_function, *signature, rounded)
            return Traced((*key, config.weight_decay, rounded), self.state, trace)

        self._step = traced

    def step(
        self,
        ids: NDArray[np.int32],
        targets: NDArray[np.float32],
        rows: NDArray[np.int64],
        rate: float,
        rounded: bool,
        number: int,
    ) -> None:
        """One step on int32 [n, L] and float32 [n, C]."""
        if self._trim:
            # Columns that are padding in every row add nothing to a bag; one is kept, because
            # the maximum sees it. Multiples of 32 keep the number of compiled shapes small.
            used = int((ids != 0).sum(axis=1).max()) + 1
            ids = ids[:, : min(ids.shape[1], -(-used // 32) * 32)]
        wanted = self._matching.embeddings[rows] if self._matching else np.zeros((0, 0), np.float32)
        self._rate.assign(rate)
        self._step(rounded)(
            tf.constant(ids),
            tf.constant(targets),
            tf.constant(wanted),
            tf.constant([self._seed, number], tf.int32),
        )
