"""A recipe is read strictly: what it does not know, it refuses, and says what is near."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from contracts.errors import InputError
from model_builder.recipes import classify as recipes

EXAMPLES = Path(__file__).parents[3] / "examples"


def write(folder: Path, text: str) -> Path:
    """A recipe file with `text`."""
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


OTHERS = {"home-commands", "home-commands-smollm2", "status-lines", "rehearsal"}
"""Recipes of generators, and a scenario of the simulator: their own tests load them."""

CLASSIFIERS = [path for path in sorted(EXAMPLES.glob("*.yaml")) if path.stem not in OTHERS]


@pytest.mark.parametrize("path", CLASSIFIERS, ids=lambda p: p.stem)
def test_every_classification_example_is_a_valid_recipe(path: Path) -> None:
    """The examples that a user copies load."""
    assert recipes.load(path).name


@pytest.mark.parametrize(
    ("text", "wrong", "near"),
    [
        ("name: a\nstudnet: {}", "studnet", "student"),
        ("name: a\nteacher: {sorce: x}", "teacher.sorce", "teacher.source"),
        (
            "name: a\nstudent: {ngram: {features: {bucket: 9}}}",
            "student.ngram.features.bucket",
            "student.ngram.features.buckets",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(
    tmp_path: Path, text: str, wrong: str, near: str
) -> None:
    """At every depth."""
    with pytest.raises(InputError) as caught:
        recipes.load(write(tmp_path, text))
    assert caught.value.code == "unknown-key"
    assert f"unknown key {wrong};" in str(caught.value)
    assert f"did you mean {near}?" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "name: [",
        "name: 'a b'",
        "name: a\nseed: -1",
        "name: a\ndata: 3",
        "\x00",
        "version: 1",
    ],
)
def test_a_malformed_recipe_is_one_clear_error(tmp_path: Path, text: str) -> None:
    """Never another exception than ours."""
    with pytest.raises(InputError):
        recipes.load(write(tmp_path, text))


def test_a_missing_recipe_says_so(tmp_path: Path) -> None:
    """With its path."""
    with pytest.raises(InputError, match=r"none\.yaml"):
        recipes.load(tmp_path / "none.yaml")


def test_changes_reach_nested_keys_and_are_checked_like_the_file(tmp_path: Path) -> None:
    """``--set`` sets any depth; a bad one is refused."""
    path = write(tmp_path, "name: a")
    changed = recipes.load(path, ["data.sentences=123", "version=1.2.3", "budget.boards=[x, y]"])
    assert (changed.data.sentences, changed.version) == (123, "1.2.3")
    assert changed.budget.boards == ["x", "y"]
    for change in ("data.sentenses=1", "data.sentences=no", "novalue", "name.a=1"):
        with pytest.raises(InputError):
            recipes.load(path, [change])


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    """So that a recipe works from any folder."""
    loaded = recipes.load(write(tmp_path, "name: a\ndata: {train: rows.csv}"))
    assert loaded.data.train == str(tmp_path / "rows.csv")


def test_the_document_of_the_schema_is_up_to_date() -> None:
    """Run ``python docs/generate_recipes.py`` when this fails."""
    docs = Path(__file__).parents[3] / "docs"
    spec = importlib.util.spec_from_file_location("gen", docs / "generate_recipes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (docs / "recipes.md").read_text(encoding="utf-8") == module.render()
