"""The small transformer for single-board computers: the teacher's first layers, trained again.

V. Sanh et al., "DistilBERT" (2019): a student that starts from the teacher's own layers needs
few epochs. It is exported as :class:`model_builder.students.encoder.EncoderStudent`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from model_builder import lazy_tensorflow as tf
from model_builder.checkpoint import Checkpoint
from model_builder.encoders.encoder import Encoder
from model_builder.encoders.finetune import finetune
from model_builder.recipes.teachers import TeacherConfig
from model_builder.seeds import derive
from model_builder.teachers.base import Progress
from model_builder.teachers.sentence import SentenceTeacher

if TYPE_CHECKING:
    from model_builder.recipes.classify import Recipe


def train_transformer(
    teacher: SentenceTeacher,
    texts: Sequence[str],
    targets: NDArray[np.float32],
    recipe: Recipe,
    cache: Path,
    progress: Progress,
) -> tuple[Encoder, Any, Any]:
    """Trains the first layers of a copy of the teacher on its soft labels.

    Args:
        teacher: trained.
        texts: N texts.
        targets: float32 [N, C], the teacher's probabilities.
        recipe: its student section gives the shape.
        cache: folder of the checkpoint.
        progress: is told of the steps.

    Returns:
        The encoder with `layers` layers, the head's weight and bias.
    """
    shape = recipe.student.transformer
    encoder = teacher.files.load()
    for mine, theirs in zip(encoder.variables, teacher.encoder.variables, strict=True):
        mine.assign(theirs)
    encoder.blocks = encoder.blocks[: shape.layers]
    weight = tf.Variable(teacher.weight.numpy(), name="head")
    bias = tf.Variable(teacher.bias.numpy(), name="head_bias")
    seed = derive(recipe.seed, "transformer")
    config = TeacherConfig(epochs=shape.epochs, batch=shape.batch, rate=shape.rate)
    key = hashlib.sha256(
        msgspec.json.encode([teacher.digest, shape, seed, list(texts)]) + targets.tobytes()
    ).hexdigest()
    finetune(
        encoder,
        weight,
        bias,
        teacher.tokens(texts),
        targets,
        config,
        seed,
        Checkpoint(cache, key),
        lambda: None,
        partial(progress, "student learns"),
    )
    return encoder, weight, bias
