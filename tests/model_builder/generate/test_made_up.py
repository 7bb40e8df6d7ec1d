"""Made-up values of home commands: words that a base spells in two ways are among them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from model_builder.generate.home_commands import sample_commands
from model_builder.generate.inventor import Respelt
from model_builder.generate.vocabulary import train_tokenizer
from model_builder.recipes.tune import parse
from model_builder.tune.apart import words_apart
from model_builder.tune.data import load


def _spaced(*words: str, whole: tuple[str, ...] = ()) -> Tokenizer:
    """A tokenizer with a piece for a space and each word; `whole` words are pieces without, too."""
    merges = []
    for word in words:
        letters = word if word in whole else f"Ġ{word}"
        merges += [(letters[:end], letters[end]) for end in range(1, len(letters))]
        merges += [("Ġ", word)] if word in whole else []
    pieces = [*pre_tokenizers.ByteLevel.alphabet(), *(a + b for a, b in merges)]
    vocabulary = {piece: at for at, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def test_words_that_are_one_piece_behind_a_space_and_several_behind_a_quotation_mark() -> None:
    """Not those that are a piece in both places, and none where spaces are pieces of their own."""
    tokenizer = _spaced("attic", "lamp", whole=("lamp",))
    assert len(tokenizer.encode('"attic').ids) > 2
    assert len(tokenizer.encode('"lamp').ids) == 2
    assert words_apart(tokenizer) == ["att", "atti", "attic"]  # and the pieces on the way to it
    assert words_apart(train_tokenizer(["in the attic, lamp"] * 9, 300)) == []


def test_made_up_values_take_words_of_the_base_but_none_that_test_or_validation_ask_for() -> None:
    """What is measured is copied for the first time."""
    words = ["zanzibar", "quokka", "attic", "pantry"]
    split = sample_commands("en", 400, 60, 1, 0.5, 0.2, 0.8, Respelt(0.5, words), unseen=True)
    values = [json.loads(pair.completion)["slots"].values() for pair in split.train]
    made = " ".join(value for slots in values for value in slots).split()
    assert {"zanzibar", "quokka"} <= set(made)
    assert not {"attic", "pantry"} & {w for pair in split.train for w in pair.prompt.split()}
    assert any("attic" in pair.completion for pair in split.test)
    assert any('"pantry"' in pair.completion for pair in split.validation)


def test_a_recipe_says_how_many_words_are_such() -> None:
    """None unless it asks, and then the base is not asked for its words."""
    data = {"kind": "home-commands", "sentences": 200, "test": 20, "invented": 1.0}
    document = {"name": "home", "version": "1.0.0", "task": "generate", "student": {"base": "x"}}

    def prompts(respelt: float, apart: Callable[[], Sequence[str]]) -> str:
        recipe, _ = parse(document | {"data": data | {"respelt": respelt}}, Path())
        split, _ = load(recipe, Path(), apart=apart)
        return " ".join(pair.prompt for pair in split.train)

    some, all_of_them = (
        prompts(share, lambda: ["zanzibar"]).count("zanzibar") for share in (0.2, 1.0)
    )
    assert 0 < some < all_of_them / 2
    assert prompts(0.0, lambda: pytest.fail("asked")).count("zanzibar") == 0
