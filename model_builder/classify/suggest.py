"""What a recipe's teacher says of texts that have no label, beside people who give them one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from contracts.errors import InputError
from model_builder.classify.described import written_for
from model_builder.data.dataset import prepare
from model_builder.recipes.classify import Recipe, with_encoder
from model_builder.seeds import make_deterministic
from model_builder.teachers.base import Progress
from model_builder.teachers.resolve import make_teacher


class Suggestion(msgspec.Struct, frozen=True):
    """A label, and how sure the teacher is of it, 0 to 1."""

    label: str
    confidence: float


def suggest(
    recipe: Recipe, texts: Sequence[str], cache: Path, progress: Progress
) -> tuple[str, list[Suggestion]]:
    """The teacher's name, and what it says of each text; it is trained first where it needs that.

    Raises:
        InputError: ``bad-teacher``; the recipe has none, or one that knows its own texts alone.
    """
    if recipe.teacher.source.partition(":")[0] in ("none", "labels"):
        raise InputError(
            "bad-teacher",
            f"teacher.source is {recipe.teacher.source[:80]}: it says nothing of other texts; "
            "name one with --set teacher.source=openai:MODEL, pypi:..., path:..., hf:... or self:",
        )
    make_deterministic(recipe.seed)
    dataset = prepare(recipe, written_for(recipe, cache, progress))
    recipe = with_encoder(recipe, english=dataset.language.english)
    teacher = make_teacher(recipe, dataset, cache, progress)
    assert teacher is not None
    logits = teacher.logits(texts)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances = shifted / shifted.sum(axis=1, keepdims=True)
    best = chances.argmax(axis=1)
    return teacher.name, [
        Suggestion(dataset.labels[place], round(float(chances[row, place]), 4))
        for row, place in enumerate(best)
    ]
