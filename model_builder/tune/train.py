"""Trains factors (or matrices) on packed pairs: early stopping, and a state that a kill leaves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from contracts.errors import InputError, RefusedError
from model_builder import lazy_tensorflow as tf
from model_builder.checkpoint import Checkpoint, Saved
from model_builder.generate.weights import Array, DecoderWeights
from model_builder.recipes.tune import BaseStudent
from model_builder.teachers.base import Progress, silent
from model_builder.tune.forward import Decoder, Variables, new_factors, new_matrices
from model_builder.tune.packing import Batch, Coded, Packer

_CLIP: Final = 1.0
_WARM_UP: Final = 0.06
_LEAST_RATE: Final = 0.1
_SAVE_S: Final = 45.0
"""Seconds between two states on disk; that is what a kill costs."""


class Tuned(msgspec.Struct):
    """What was trained.

    Attributes:
        arrays: by the names of :data:`~model_builder.tune.forward.Variables`.
        scale: of the factors.
        steps, tokens: that were trained, in this run or before it.
        losses: of the validation pairs, after 0 steps and at each look.
        seconds: of this run.
        resumed: steps that an earlier run had done.
    """

    arrays: dict[str, Array]
    scale: float
    steps: int
    tokens: int
    losses: list[tuple[int, float]]
    seconds: float
    resumed: int = 0

    @property
    def best_loss(self) -> float:
        """Of the arrays."""
        return min(loss for _, loss in self.losses)


class _Run:
    """The variables, the optimiser's state and the two compiled functions."""

    def __init__(
        self, weights: DecoderWeights, student: BaseStudent, seed: int, length: int
    ) -> None:
        if student.adapt == "lora":
            self.variables: Variables = new_factors(
                weights, tuple(student.targets), student.rank, seed
            )
        else:
            self.variables = new_matrices(weights, tuple(student.targets))
        self.listed = list(self.variables.values())
        self.first = [tf.Variable(tf.zeros_like(x)) for x in self.listed]
        self.second = [tf.Variable(tf.zeros_like(x)) for x in self.listed]
        decoder = Decoder(weights, self.variables, student.scale, half=student.half, length=length)

        def loss_of(batch: Any) -> tuple[Any, Any]:
            ids, positions, segments, at, wanted, counts = batch
            logits = decoder(ids, positions, segments, at)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits)
            return tf.reduce_sum(losses * counts), tf.reduce_sum(counts)

        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def step(batch: Any, rate: Any, number: Any) -> Any:
            with tf.GradientTape() as tape:
                total, weight = loss_of(batch)
                loss = total / weight
            gradients, norm = tf.clip_by_global_norm(tape.gradient(loss, self.listed), _CLIP)
            # Adam (Kingma and Ba, 2015), written out: its state goes into the checkpoint.
            for x, g, m, s in zip(self.listed, gradients, self.first, self.second, strict=True):
                m.assign(0.9 * m + 0.1 * g)
                s.assign(0.99 * s + 0.01 * g * g)
                update = (m / (1 - 0.9**number)) / (tf.sqrt(s / (1 - 0.99**number)) + 1e-8)
                x.assign_sub(rate * update)
            return loss, norm

        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def evaluate(batch: Any) -> tuple[Any, Any]:
            return loss_of(batch)

        self.step, self._evaluate = step, evaluate

    def validation(self, batches: Sequence[Any]) -> float:
        """Mean loss of a token."""
        total = weight = 0.0
        for batch in batches:
            a, b = self._evaluate(batch)
            total, weight = total + float(a), weight + float(b)
        return total / max(weight, 1.0)

    def arrays(self) -> list[Array]:
        """Copies of what is trained."""
        return [np.asarray(x.numpy(), np.float32) for x in self.listed]

    def state(self) -> list[Array]:
        """What is trained and the optimiser's state."""
        return [x.numpy() for x in (*self.listed, *self.first, *self.second)]

    def load(self, arrays: Sequence[Array]) -> None:
        """Takes what :meth:`state` gave."""
        for x, value in zip((*self.listed, *self.first, *self.second), arrays, strict=True):
            x.assign(value)


def _tensors(batch: Batch) -> tuple[Any, ...]:
    fields = (batch.ids, batch.positions, batch.segments, batch.at, batch.wanted, batch.counts)
    return tuple(tf.constant(value) for value in fields)


def tune(
    weights: DecoderWeights,
    train: Sequence[Coded],
    validation: Sequence[Coded],
    student: BaseStudent,
    seed: int,
    checkpoint: Checkpoint | None = None,
    progress: Progress = silent,
    clock: Callable[[], float] = time.monotonic,
    start: Mapping[str, Array] | None = None,
) -> Tuned:
    """Trains on pairs; what had the best validation loss is returned.

    Args:
        weights: of the base, float32.
        train: coded pairs.
        validation: coded pairs to stop by.
        student: how.
        seed: of the start and the order.
        checkpoint: where the state is kept; None: nowhere.
        progress: told steps.
        clock: seconds.
        start: factors to go on from.

    Raises:
        InputError: ``bad-data``, a pair is too long; ``disk-full``, the state cannot be written.
        RefusedError: ``training-diverged``; a loss is no number.
    """
    started = clock()
    packer = Packer([*train, *validation], student.batch_tokens, weights.config.trained_context)
    run = _Run(weights, student, seed, packer.length)
    for name, value in (start or {}).items():
        run.variables[name].assign(value)
    looks = [_tensors(batch) for batch in packer.batches(validation)]
    epochs = [_epoch(packer, train, seed, number) for number in range(student.epochs)]
    order = [batch for epoch in epochs for batch in epoch]
    total = len(order)
    every = max(1, min(total // max(1, student.looks), len(epochs[0]) if epochs else 1))
    names = list(run.variables)
    done, tokens, losses, best, before = 0, 0, [], run.arrays(), 0.0
    saved = checkpoint.load([x.shape for x in run.listed]) if checkpoint else None
    count = len(run.listed)
    if saved is not None and len(saved.arrays) == 4 * count:
        done = saved.epoch
        tokens, losses = int(saved.notes[0]), [(int(a), float(b)) for a, b in saved.notes[1]]
        before = float(saved.notes[2]) if len(saved.notes) > 2 else 0.0
        run.load(saved.arrays[: 3 * count])
        best = saved.arrays[3 * count :]
    resumed = done
    if not losses:
        losses.append((0, _number(run.validation(looks))))
    finished = bool(saved and saved.finished)
    last = clock()

    def spent() -> float:
        return before + clock() - started

    def part() -> float:
        """Of the training that is done, by steps or by the time that it may take."""
        limit = 60 * student.minutes
        return max(done / total, spent() / limit if limit else 0.0)

    def reached() -> int:
        """Steps that there will be, as far as is known."""
        return min(total, max(done, round(done / part()))) if done else total

    def save(finished: bool) -> None:
        if checkpoint is not None:
            notes: list[Any] = [tokens, losses, spent()]
            try:
                checkpoint.save(Saved(done, finished, [*run.state(), *best], notes))
            except OSError as error:
                raise InputError(
                    "disk-full",
                    f"the training's state cannot be written ({error.strerror}); make room and "
                    "run it again: it goes on from the last state that was",
                ) from None

    progress("training", done, total)
    while done < total and not finished:
        batch = order[done]
        rate = student.rate * _share(done + 1, total, part())
        loss, _ = run.step(
            _tensors(batch), tf.constant(rate, tf.float32), tf.constant(done + 1, tf.float32)
        )
        _number(float(loss))
        done += 1
        tokens += int((batch.segments >= 0).sum())
        progress("training", done, reached())
        ended = part() >= 1
        if done % every == 0 or ended:
            losses.append((done, _number(run.validation(looks))))
            if losses[-1][1] <= min(loss for _, loss in losses):
                best = run.arrays()
            finished = ended or _worse(losses, student.patience)
        if clock() - last >= _SAVE_S or finished:
            save(finished)
            last = clock()
    arrays = dict(zip(names, best, strict=True))
    return Tuned(arrays, student.scale, done, tokens, losses, clock() - started, resumed)


def _epoch(packer: Packer, pairs: Sequence[Coded], seed: int, number: int) -> list[Batch]:
    order = np.random.default_rng([seed, number]).permutation(len(pairs))
    return packer.batches([pairs[i] for i in order])


def _share(number: int, total: int, part: float) -> float:
    """Of the rate: a linear warm-up, then a cosine down to the end of all parts."""
    rise = max(number / max(1, round(_WARM_UP * total)), part / _WARM_UP)
    if rise < 1:
        return rise
    part = min(1.0, max(0.0, (part - _WARM_UP) / (1 - _WARM_UP)))
    return _LEAST_RATE + (1 - _LEAST_RATE) * 0.5 * (1 + math.cos(math.pi * part))


def _worse(losses: list[tuple[int, float]], patience: int) -> bool:
    best = min(range(len(losses)), key=lambda at: losses[at][1])
    return len(losses) - 1 - best >= patience


def _number(loss: float) -> float:
    if not math.isfinite(loss):
        raise RefusedError(
            "training-diverged",
            "the loss is no number any more: a smaller student.rate, or student.half: false, "
            "may help; the state before it is kept",
        )
    return loss
