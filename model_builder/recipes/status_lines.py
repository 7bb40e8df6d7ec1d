"""Recipes of ``kind: status-lines``. Imports nothing that trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from contracts.messages import Name, Version
from model_builder.recipes import file as recipe_file


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is trained, and for how long.

    Attributes:
        width: of the embedding.
        state: of the recurrent state.
        texts: training lines.
        batch: lines of one step.
        steps: of the optimiser.
        rate: highest learning rate; it rises for the first 5 % and then falls as a cosine.
        seed: of data and initial values.
    """

    width: Annotated[int, msgspec.Meta(ge=1, le=256)] = 24
    state: Annotated[int, msgspec.Meta(ge=1, le=512)] = 160
    texts: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 40_000
    batch: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 128
    steps: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 2500
    rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 4e-3
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 7


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``status-lines.yaml``.

    Attributes:
        kind: always ``status-lines``.
        name: of the bundle.
        version: of the bundle.
        settings: of the training.
        test_lines: held-out lines that are scored.
        min_exact: share of them that must be right, or there is no bundle.
    """

    kind: Literal["status-lines"]
    name: Name
    version: Version
    settings: Settings = Settings()
    test_lines: Annotated[int, msgspec.Meta(ge=10, le=100_000)] = 500
    min_exact: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.9


def load(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and applies ``key=value`` changes.

    Raises:
        InputError: what :func:`recipe_file.read` and :func:`parse` raise.
    """
    return parse(recipe_file.read(path, changes), path)


def parse(document: dict[str, Any], path: Path) -> Recipe:
    """The keys and values of the file `path` as a recipe.

    Raises:
        InputError: ``unknown-key``, ``bad-recipe``.
    """
    return recipe_file.convert(document, Recipe, str(path))
