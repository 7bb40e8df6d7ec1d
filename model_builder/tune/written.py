"""Pairs that a model writes for a fine-tuning, beside those that a person gives."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from contracts.errors import InputError
from model_builder.generate.answers import as_answer
from model_builder.generate.pairs import Pair, read_pairs
from model_builder.recipes.tune import TuneRecipe
from model_builder.recipes.written import Example
from model_builder.seeds import derive
from model_builder.teachers.base import Progress
from model_builder.writing.pairs import WrittenPairs, write_pairs

_LEAST_GROUPS: Final = 10
"""Requests from which the prompts of one stay together in a split: they are kin."""


class Made(msgspec.Struct):
    """Pairs to learn, those of a person first; and what the writing says of those among them."""

    pairs: list[Pair]
    written: WrittenPairs


def written(
    recipe: TuneRecipe,
    folder: Path,
    given: list[Pair],
    cache: Path,
    progress: Progress,
    pause: Callable[[float], None] = time.sleep,
) -> Made:
    """Writes what a recipe asks for.

    Args:
        recipe: with ``data.written``.
        folder: of the recipe.
        given: pairs of a person; those without a completion are answered.
        cache: folder in which every answer is kept.
        progress: is told of the requests.
        pause: sleeps some seconds; tests pass their own.

    Raises:
        InputError, RefusedError, UnavailableError: see
            :func:`model_builder.writing.pairs.write_pairs`.
    """
    config = recipe.data.written
    assert config is not None
    config = config.resolved(folder)
    examples = config.examples
    if isinstance(examples, str):
        rows = read_pairs(folder / examples, _whole)
        examples = [Example(pair.prompt, pair.completion) for pair in rows]
    whole = [pair for pair in given if pair.completion]
    answered = {pair.prompt for pair in whole}
    unanswered = [p.prompt for p in given if not p.completion and p.prompt not in answered]
    seed = derive(recipe.seed, "written")
    made = write_pairs(config, examples, unanswered, seed, cache, progress, pause)
    whole += [Pair(one.prompt, one.completion) for one in examples if one.prompt not in answered]
    known = {pair.prompt for pair in whole}
    grouped = len({request for *_, request in made.pairs if request}) >= _LEAST_GROUPS
    unusable, added = 0, []
    for prompt, completion, request in made.pairs:
        if prompt in known:
            continue
        pair = Pair(prompt, completion, f"request {request}" if grouped and request else "")
        try:
            whole.append(as_answer(pair) if recipe.constrain == "prompt-values" else pair)
            added.append((prompt, completion, request))
        except InputError:
            unusable += 1
    made.pairs = added
    if unusable:
        made.warnings.append(
            f"{unusable} written answers are none that `constrain: prompt-values` can give"
        )
    if not recipe.handwritten:
        made.warnings.append(
            f"no pair by hand was measured: the figures are on prompts that {made.facts['by']} "
            f"wrote and answers of {made.facts['answered_by']}, and may be far too good; give "
            "pairs of your own with handwritten"
        )
    return Made(whole, made)


def _whole(pair: Pair) -> Pair:
    if not pair.completion:
        raise InputError("bad-data", "an example without a completion")
    return pair
