"""A recipe of a later version says so, whatever else is in it."""

from __future__ import annotations

import pytest

from contracts.errors import InputError
from model_builder.recipes import file
from model_builder.recipes.classify import Recipe


def test_a_newer_recipe_says_so() -> None:
    """And not that a key of it is unknown."""
    with pytest.raises(InputError, match=r"schema 9.*install a newer version") as caught:
        file.convert({"schema": 9, "later": 1}, Recipe, "the recipe")
    assert caught.value.code == "newer-format"
