"""One source of randomness: same seed, same bytes."""

from __future__ import annotations

import hashlib
import random

import numpy as np
from numpy.typing import NDArray

from model_builder import lazy_tensorflow as tf


def derive(seed: int, purpose: str) -> int:
    """A seed for one purpose, independent of the others and of their order (31 bits)."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def make_deterministic(seed: int) -> None:
    """Seeds every library and asks TensorFlow for kernels that give the same bits again."""
    random.seed(seed)
    np.random.seed(seed)  # for libraries that take no generator
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def some_of_each(targets: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """Indices of about `most` rows, among them one of every target: int64, ascending."""
    if len(targets) <= most:
        return np.arange(len(targets))
    drawn = np.random.default_rng(seed).permutation(len(targets))
    _, first = np.unique(targets[drawn], return_index=True)
    return np.asarray(np.union1d(drawn[first], drawn[:most]), np.int64)
