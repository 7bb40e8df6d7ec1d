"""The pairs of a recipe, checked and split; without TensorFlow, so that errors come at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from contracts.errors import InputError
from model_builder.generate.answers import as_answer
from model_builder.generate.home_commands import sample_commands
from model_builder.generate.pairs import Pair, Split, read_pairs, split_pairs
from model_builder.generate.teachers import complete
from model_builder.recipes.generate import GenerateRecipe


def load_data(
    recipe: GenerateRecipe, folder: Path, progress: Callable[[str], None] = lambda step: None
) -> Split:
    """What a recipe trains and measures with.

    Args:
        recipe: names the data.
        folder: of the recipe.
        progress: told each step.

    Raises:
        InputError: ``no-such-file``; ``bad-data``, with the row.
        RefusedError, UnavailableError: the teacher cannot be used.
    """
    d = recipe.data
    if d.kind == "home-commands":
        return sample_commands(
            d.language, d.sentences, d.test, d.seed, d.rephrased, d.spoken, d.invented
        )
    constrained = recipe.constrain == "prompt-values"

    def checked(pair: Pair) -> Pair:
        if pair.completion:
            return as_answer(pair) if constrained else pair
        if recipe.teacher is None:
            raise InputError("bad-data", "no completion; write one, or give the recipe a teacher")
        return pair

    given = read_pairs(folder / d.path, checked)
    if recipe.teacher is None:
        return split_pairs(given, d.seed)
    progress("asking the teacher")
    written = complete(given, recipe.teacher, folder)
    pairs = [p for p in map(_usable if constrained else _same, written) if p is not None]
    if len(pairs) < len(written):
        progress(f"left out {len(written) - len(pairs)} completions that are no such answers")
    return split_pairs(pairs, d.seed)


def _usable(pair: Pair) -> Pair | None:
    """A teacher errs now and then: what the grammar cannot write is left out."""
    try:
        return as_answer(pair)
    except InputError:
        return None


def _same(pair: Pair) -> Pair | None:
    return pair if pair.completion else None
