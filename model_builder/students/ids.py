"""Texts to the ids that n-gram students read, and ids to their answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contracts.text import NgramConfig, ngram_ids
from model_builder import lazy_tensorflow as tf
from model_builder.students.ngram import NgramStudent


def encode(texts: Sequence[str], features: NgramConfig) -> NDArray[np.int32]:
    """Ids int32 [N, L] of texts."""
    return np.array([ngram_ids(text, features)[0] for text in texts], np.int32).reshape(
        len(texts), features.length
    )


def predict(
    student: NgramStudent, ids: NDArray[np.int32], quantise: bool = False
) -> NDArray[np.float32]:
    """Logits float32 [N, C] of ids int32 [N, L]."""
    call = student.compiled(quantise)
    parts = [call(tf.constant(ids[i : i + 512])).numpy() for i in range(0, len(ids), 512)]
    return np.asarray(np.concatenate(parts), np.float32)
