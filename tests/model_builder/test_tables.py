"""Spreadsheets and exports as people bring them: read, with notes on what was assumed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import openpyxl
import pytest

from contracts.errors import InputError
from contracts.labelled.columns import guess
from contracts.labelled.load import load_rows
from contracts.labelled.rows import Log, Row
from model_builder.classify.initial import write
from model_builder.recipes.classify import load as load_recipe

EXPORT = (
    " Nachricht ;Kategorie;Datum\r\n"
    "Wo ist mein Paket?;Lieferung;1.2.\r\n"
    '"Die Rechnung; zweimal";Größe;\r\n'
    ";Lieferung;3.2.\r\n"
    "Für später;;4.2.\r\n"
    ";;\r\n"
    "Zurück geben;Rückgabe;5.2.;x\r\n"
    "Schöne Grüße;Größe;6.2.\r\n"
)
WANTED = [
    ("Wo ist mein Paket?", "Lieferung"),
    ("Die Rechnung; zweimal", "Größe"),
    ("Schöne Grüße", "Größe"),
]


def pairs(rows: list[Row]) -> list[tuple[str, str]]:
    """Text and label, without where they stood."""
    return [(row.text, row.label) for row in rows]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_an_export_of_a_spreadsheet_is_read(tmp_path: Path, encoding: str) -> None:
    """Semicolons, blanks in the header, empty cells; nothing is left out in silence."""
    path = tmp_path / "export.csv"
    path.write_bytes(EXPORT.encode(encoding))
    log = Log()
    assert pairs(load_rows(path, text="nachricht", label="Kategorie", log=log)) == WANTED
    said = "\n".join(log.notes)
    assert "cells apart by ';'" in said
    assert "2 rows of export.csv were left out" in said
    assert "1 of 4 rows of export.csv have no label" in said
    for place in ("line 4", "line 5", "line 7"):
        assert place in said
    assert ("was read as" in said) == (encoding not in ("utf-8", "utf-8-sig"))


def test_a_workbook_is_read_as_it_is_shown(tmp_path: Path) -> None:
    """Numbers as text, only the first sheet that is shown, formulas by their last value."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Daten"
    for cells in (["message ", "intent"], ["hello", 3], ["bye", "x"], [None, None], [None, "x"]):
        sheet.append(cells)
    book.create_sheet("more").append(["nothing"])
    book.save(tmp_path / "a.xlsx")
    log = Log()
    rows = load_rows(tmp_path / "a.xlsx", log=log)
    assert pairs(rows) == [("hello", "3"), ("bye", "x")]
    assert "only 'Daten' was read" in "\n".join(log.notes)
    assert "'message' was taken for the text" in "\n".join(log.notes)


def test_tabs_are_read(tmp_path: Path) -> None:
    """With commas in the text."""
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\none, two\ta\n")
    assert pairs(load_rows(path)) == [("one, two", "a")]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["Text", "Label"], ("Text", "Label")),
        (["id", "sentence", "category"], ("sentence", "category")),
        (["Beschwerde", "intent"], ("Beschwerde", "intent")),
        (["query", "Art"], ("query", "Art")),
        (["a", "b"], None),
        (["text", "a", "b"], None),
    ],
)
def test_columns_are_known_by_their_usual_names(
    names: list[str], wanted: tuple[str, str] | None
) -> None:
    """Where they are not, nobody guesses."""
    found = guess(names)
    assert (None if found is None else (found.text, found.label)) == wanted


def test_a_name_that_was_asked_for_is_not_guessed(tmp_path: Path) -> None:
    """A recipe that names a column means it."""
    path = tmp_path / "a.csv"
    path.write_text("sentence,category\na,b\n")
    assert pairs(load_rows(path)) == [("a", "b")]
    with pytest.raises(InputError, match="no 'utterance'; found sentence, category"):
        load_rows(path, text="utterance")


def test_a_file_of_which_most_rows_are_no_good_is_refused(tmp_path: Path) -> None:
    """The wrong columns, most often; the first places are named."""
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + ",x\n" * 30 + "a,b\n" * 20)
    with pytest.raises(InputError, match=r"30 of 50 rows cannot be used.*lines 2, 3"):
        load_rows(path)


def test_a_workbook_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is unpacked."""
    book = openpyxl.Workbook()
    book.active.append(["text", "label"])
    book.save(tmp_path / "a.xlsx")
    monkeypatch.setattr("contracts.labelled.workbook.MAX_SHEET_BYTES", 100)
    with pytest.raises(InputError, match="unpacks to over"):
        load_rows(tmp_path / "a.xlsx")


def test_a_recipe_is_written_for_a_table(tmp_path: Path) -> None:
    """It parses, names the columns as the table spells them, and is never written over."""
    path = tmp_path / "Meine Daten.csv"
    path.write_bytes((EXPORT + "noch eins;Größe;\r\nund eins;Lieferung;\r\n" * 3).encode("cp1252"))
    recipe = tmp_path / "r.yaml"
    notes = write(path, recipe, "nachricht", "Kategorie")
    loaded = load_recipe(recipe)
    assert loaded.name == "meine-daten"
    assert (loaded.data.columns.text, loaded.data.columns.label) == ("Nachricht", "Kategorie")
    assert loaded.data.train == str(path)
    assert '"Meine Daten.csv"' in recipe.read_text(), "both can be moved together"
    assert any("cp1252" in note for note in notes)
    assert any("fewer than 3 rows" in note for note in notes)
    with pytest.raises(InputError, match="there already"):
        write(path, recipe)


NO_STYLES = '<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"/>'


@pytest.mark.filterwarnings("error")
def test_a_workbook_without_styles_is_read_in_silence(tmp_path: Path) -> None:
    """As pyexcelerate writes it: a warning of the library's is no word for who brings a table."""
    book = openpyxl.Workbook()
    for cells in [("text", "label"), ("too dark", "light"), ("too cold", "heat")]:
        book.active.append(cells)
    book.save(tmp_path / "whole.xlsx")
    with (
        zipfile.ZipFile(tmp_path / "whole.xlsx") as whole,
        zipfile.ZipFile(tmp_path / "bare.xlsx", "w") as bare,
    ):
        for name in whole.namelist():
            bare.writestr(name, NO_STYLES if name == "xl/styles.xml" else whole.read(name))
    rows = load_rows(tmp_path / "bare.xlsx", log=Log())
    assert pairs(rows) == [("too dark", "light"), ("too cold", "heat")]
