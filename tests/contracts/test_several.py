"""Several labels for one text, where one is read: said, and never taken for something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contracts.errors import InputError
from contracts.labelled.load import load_rows, load_table
from contracts.labelled.rows import Log
from contracts.labelled.several import joined, marked, parts


def csv_of(path: Path, header: str, cells: list[str]) -> Path:
    """A table whose texts are all different."""
    rows = [f"some words of row {n},{cell}" for n, cell in enumerate(cells)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("cells", "separator"),
    [
        (["a|b", "a", "b|c", "c"], "|"),
        (["a;b", "b; a", "b"], ";"),
        (["a, b", "b,c", "c, a"], ","),
        (["a#b", "a", "c#b#a", "c"], "#"),
        (["a+b", "a", "c + b", "c"], "+"),
        (["['a', 'b']", "['b', 'c']", "['c']", "['a']"], ","),
    ],
)
def test_labels_that_come_again_apart_were_joined(cells: list[str], separator: str) -> None:
    """Whatever joins them, in whatever order."""
    found = joined(cells)
    assert found is not None
    assert found.separator == separator
    assert found.labels == sorted({part for cell in cells for part in parts(cell, separator)})
    assert all(len(label) == 1 for label in found.labels)


@pytest.mark.parametrize(
    "cells",
    [
        ["joy", "anger"],
        ["food; drink", "card; lost", "card; arrived"],
        ["yes, please", "no, thanks", "yes"],
        ["a|b", "a", "b"],
        ["news/sport", "news/politics", "sport/politics"],
        ["C#", "C++", "C", "F#", "F"],
        ["|", ";", ",,", ""],
    ],
)
def test_names_with_a_mark_in_them_stay_names(cells: list[str]) -> None:
    """A warning about what is right would be read once and never again."""
    assert joined(cells) is None


def test_a_table_with_joined_labels_is_read_and_says_so(tmp_path: Path) -> None:
    """Each combination is learned as a label, which nobody may find out after a build only."""
    path = csv_of(tmp_path / "a.csv", "text,label", ["a|b", "a", "b|c", "c", "a|b"] * 4)
    log = Log()
    rows = load_rows(path, log=log)
    assert len(rows) == 20
    assert [n for n in log.notes if "12 rows seem to have several labels" in n and "'a|b'" in n]


def test_a_column_for_each_label_is_told_as_such(tmp_path: Path) -> None:
    """It is no choice between columns."""
    cells = [f"{n % 2},{n // 2 % 2},{n // 3 % 2}" for n in range(40)]
    path = csv_of(tmp_path / "a.csv", "text,joy,anger,fear", cells)
    with pytest.raises(InputError, match=r"3 columns hold 0 and 1.*joy, anger, fear.*--label"):
        load_table(path)
    assert {row.label for row in load_rows(path, label="joy")} == {"0", "1"}


def test_other_columns_of_few_values_are_a_choice_still(tmp_path: Path) -> None:
    """Beside a column of words, 0 and 1 may say anything."""
    cells = [f"{n % 2},{n // 2 % 2},{'red' if n % 3 else 'blue'}" for n in range(40)]
    path = csv_of(tmp_path / "a.csv", "text,paid,seen,colour", cells)
    with pytest.raises(InputError, match=r"several columns could be the label.*colour"):
        load_table(path)


def test_a_list_of_one_label_is_that_label(tmp_path: Path) -> None:
    """Rows with none or several are left out with their places; what else is in a list, too."""
    labels: list[object] = [["a"], ["b"], ["a", "b"], [], [["a"]], [None], ["b"], ["a"], ["b"], "a"]
    path = tmp_path / "a.jsonl"
    path.write_text(
        "\n".join(
            json.dumps({"text": f"row {n}", "labels": found}) for n, found in enumerate(labels)
        )
    )
    log = Log()
    assert [row.label for row in load_rows(path, log=log)] == ["a", "b", "b", "a", "b", "a"]
    assert [problem.place for problem in log.problems] == [f"line {n}" for n in (3, 4, 5, 6)]
    assert "is a list; one label a text" in log.problems[0].what


def test_columns_of_zeros_and_ones_are_known_however_they_are_written() -> None:
    """As a spreadsheet, a program or a Parquet file writes them; an empty cell makes it another."""
    rows = [
        {"a": "0", "b": 1, "c": True, "d": "1.0", "e": "0", "f": 1, "g": "1"},
        {"a": "1", "b": 0, "c": False, "d": "0.0", "e": "2", "f": 1, "g": None},
    ]
    assert marked(list("abcdefg"), rows) == ["a", "b", "c", "d"]
