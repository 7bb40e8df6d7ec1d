"""``self:``: a larger n-gram student, trained on the true labels, teaches the small one.

For languages that no encoder at hand knows. ``self:`` trains four times the table and twice the
width of the recipe's student; its soft labels carry what a small table cannot find by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from model_builder.checkpoint import Checkpoint
from model_builder.recipes.students import FitConfig, NgramStudentConfig
from model_builder.students.fit import fit
from model_builder.students.ids import encode, predict
from model_builder.students.ngram import NgramStudent
from model_builder.teachers.base import Progress

_TABLE = 4
_WIDTH = 2


class LargerStudent:
    """A larger bag over the same n-grams.

    Args:
        shape: of the recipe's student.
        classes: C.
        cache: folder of the checkpoint.
        seed: of its training.
        progress: is told of the steps.
    """

    open_ended = True

    def __init__(
        self,
        shape: NgramStudentConfig,
        classes: int,
        cache: Path,
        seed: int,
        progress: Progress,
    ) -> None:
        features = msgspec.structs.replace(
            shape.features, buckets=min(2**20, shape.features.buckets * _TABLE)
        )
        self._shape = msgspec.structs.replace(
            shape,
            kind="bag",
            features=features,
            dim=shape.dim * _WIDTH,
            hidden=shape.hidden * _WIDTH,
        )
        self._student = NgramStudent(self._shape, classes, seed)
        self._cache, self._seed, self._progress = cache, seed, progress
        self.name = f"self: {features.buckets} x {self._shape.dim} bag"
        self.digest = ""
        self.size_bytes = 4 * sum(int(np.prod(v.shape)) for v in self._student.variables)

    def train(self, texts: Sequence[str], targets: NDArray[np.float32], fitting: FitConfig) -> None:
        """Fits it: texts [N], targets float32 [N, C]."""
        ids = encode(texts, self._shape.features)
        config = msgspec.structs.replace(fitting, quantise_from=1.0, patience=0)
        key = msgspec.json.encode([self._shape, config, self._seed, "self"])
        digest = hashlib.sha256(key + ids.tobytes() + targets.tobytes()).hexdigest()
        fit(
            self._student,
            ids,
            targets,
            config,
            self._seed,
            progress=partial(self._progress, "teacher learns"),
            checkpoint=Checkpoint(self._cache, digest),
        )
        weights = b"".join(v.numpy().tobytes() for v in self._student.variables)
        self.digest = hashlib.sha256(weights).hexdigest()

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See :class:`model_builder.teachers.base.Teacher`."""
        return predict(self._student, encode(texts, self._shape.features))

    def embeddings(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """None: its hidden layer is of its own making."""
        return None

    def neighbours(self, texts: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """None known."""
        return {}
