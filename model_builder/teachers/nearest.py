"""The nearest description: what can be said of a text without any row and any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from model_builder.recipes.teachers import TeacherConfig
from model_builder.teachers.base import Progress

ENCODERS = ("pypi", "path", "hf")


class NearestMeaning:
    """Compares texts with what labels mean, by a frozen sentence encoder.

    Args:
        config: the recipe's teacher; its source is an encoder.
        meanings: of the labels.
        cache: folder of the encoder's rows.
        progress: is told of long work.
    """

    def __init__(
        self, config: TeacherConfig, meanings: Mapping[str, str], cache: Path, progress: Progress
    ) -> None:
        from model_builder.encoders.weights import fetch
        from model_builder.teachers.sentence import SentenceTeacher

        files = fetch(config.source, config.sha256, cache)
        frozen = msgspec.structs.replace(config, mode="probe")
        self.labels = list(meanings)
        self._encoder = SentenceTeacher(files, frozen, len(self.labels), cache, 0, progress)
        told = [f"{label.replace('_', ' ')}: {meaning}" for label, meaning in meanings.items()]
        self._meanings = _unit(self._encoder.embeddings(told))

    def scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Cosines with each label's meaning, float32 [N, C]."""
        if not texts:
            return np.zeros((0, len(self.labels)), np.float32)
        return np.asarray(_unit(self._encoder.embeddings(texts)) @ self._meanings.T, np.float32)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))
