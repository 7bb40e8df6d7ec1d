"""Dropout whose mask depends on the step alone, so that a resumed run draws what it would have."""

from __future__ import annotations

from typing import Any

from model_builder import lazy_tensorflow as tf


class Dropout:
    """Drops activations in one training step.

    Args:
        rate: share that is dropped; 0: none.
        seed: int32 [2]: of the run, and the step.
    """

    def __init__(self, rate: float = 0.0, seed: Any = None) -> None:
        self.rate = rate
        self._seed = seed
        self._site = 0

    def __call__(self, x: Any) -> Any:
        """`x` with `rate` of its values zero and the others scaled up."""
        if not self.rate:
            return x
        return tf.where(self.keep(tf.shape(x), self.rate), x / (1.0 - self.rate), 0.0)

    def keep(self, shape: Any, rate: float) -> Any:
        """A mask that is True for ``1 - rate`` of its places; each call has its own."""
        self._site += 1
        seed = self._seed + tf.constant([self._site * 7919, 0], tf.int32)
        return tf.random.stateless_uniform(shape, seed) >= rate


NONE = Dropout()
