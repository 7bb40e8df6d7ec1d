"""Tables that break readers: each is one clear error or a note with its place, in seconds."""

from __future__ import annotations

import io
import json
import time
import zipfile
from pathlib import Path

import openpyxl
import pytest

from contracts.errors import InputError
from contracts.labelled.load import load_rows, load_table
from contracts.labelled.rows import Log
from model_builder.classify.initial import compose
from model_builder.data.dataset import prepare
from model_builder.data.examine import examine
from model_builder.recipes import file as recipe_file
from model_builder.recipes.classify import parse


def csv_of(path: Path, rows: list[tuple[str, str]], encoding: str = "utf-8") -> Path:
    """A CSV of text and label."""
    lines = ["text,label", *('"{}",{}'.format(t.replace('"', '""'), n) for t, n in rows)]
    path.write_bytes("\r\n".join(lines).encode(encoding))
    return path


def good(labels: int = 2, each: int = 10) -> list[tuple[str, str]]:
    """Rows that are all different."""
    return [
        (f"{n} things to say about {label}", f"l{label}")
        for label in range(labels)
        for n in range(each)
    ]


def workbook(path: Path, rows: list[list[object]], merge: str = "") -> Path:
    """A workbook of the rows."""
    book = openpyxl.Workbook()
    for cells in rows:
        book.active.append(cells)
    if merge:
        book.active.merge_cells(merge)
    book.save(path)
    return path


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([(f"text {n}", "only") for n in range(20)], "two labels or more; found only"),
        ([(f"text {n}", f"label {n}") for n in range(20)], "20 of 20 labels have a single text"),
        ([("the same", "a")] * 20, "found a"),
        ([("the same", "a"), ("The same!", "b")] * 20, "40 rows whose text has two labels"),
    ],
)
def test_what_no_classifier_can_learn_is_told_at_once(
    tmp_path: Path, rows: list[tuple[str, str]], says: str
) -> None:
    """One label, one row a label, texts all the same: by ``init``, before anything is trained."""
    with pytest.raises(InputError, match=says):
        examine(csv_of(tmp_path / "a.csv", rows))


def test_a_label_with_one_text_is_left_out_and_named(tmp_path: Path) -> None:
    """The others are learned all the same."""
    found = examine(csv_of(tmp_path / "a.csv", [*good(), ("all alone", "lonely")]))
    assert (found.rows, found.labels) == (20, 2)
    assert any("single text and were left out: lonely" in note for note in found.notes)


def test_labels_in_any_script_are_kept(tmp_path: Path) -> None:
    """And composed, so that two ways to write one letter are one label."""
    names = ["配送", "счёт", "שלום", "Gru\u0308ße", "Gr\u00fcße", "🙂"]
    rows = [(f"text {n} of {i}", name) for i, name in enumerate(names) for n in range(5)]
    table = load_table(csv_of(tmp_path / "a.csv", rows))
    assert len({row.label for row in table.rows}) == 5
    assert examine(tmp_path / "a.csv").labels == 5


def test_labels_that_differ_in_spelling_alone_are_one(tmp_path: Path) -> None:
    """The most frequent spelling wins, and the note says which were joined."""
    rows = [*good(), ("one more", "L0"), ("and one", " l0 "), ("again", "L-0")]
    found = examine(csv_of(tmp_path / "a.csv", rows))
    assert found.labels == 2, "L-0 has a separator more: another label, alone, and left out"
    assert any("'L0' as 'l0'" in note for note in found.notes)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_a_cell_of_ten_megabytes_costs_its_row(tmp_path: Path, name: str) -> None:
    """The rest is read; the note has the place."""
    rows = [*good(), ("x" * 10_000_000, "l0"), ("the last", "l1")]
    path = tmp_path / name
    if name == "a.csv":
        csv_of(path, rows)
    else:
        records = [json.dumps({"text": text, "label": label}) for text, label in rows]
        path.write_text("\n".join(records) if name == "a.jsonl" else f"[{','.join(records)}]")
    log = Log()
    found = load_rows(path, log=log)
    assert [row.text for row in found] == [text for text, _ in rows if len(text) < 100]
    (problem,) = log.problems
    assert (problem.place.rpartition(" ")[2], "16384 bytes" in problem.what) in (
        ("22", True),
        ("21", True),
    )


def test_all_problems_are_told_at_once_with_their_places(tmp_path: Path) -> None:
    """By kind, and in full in the list."""
    lines = ['{"text": "a", "label": "x"}', "{", '{"text": "", "label": "x"}', "[]"]
    lines += ['{"text": "b", "label": ["x", "y"]}', '{"text": "c"}', '{"text": "d", "label": "y"}']
    lines += [f'{{"text": "t{n}", "label": "y"}}' for n in range(5)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    log = Log()
    assert len(load_rows(tmp_path / "a.jsonl", log=log)) == 7
    assert [(p.place, p.what) for p in log.problems] == [
        ("line 2", "not JSON"),
        ("line 4", "not a JSON object"),
        ("line 3", "'text' is empty"),
        ("line 5", "'label' is a list; one label a text"),
        ("line 6", "no 'label'"),
    ]
    assert "4 rows of a.jsonl were left out" in log.notes[-2]
    assert log.notes[-1] == "1 of 8 rows of a.jsonl have no label in 'label' (line 6)"


def test_quotes_that_do_not_pair_cost_their_row_alone(tmp_path: Path) -> None:
    """The reader goes on at the next line, not at the next quote."""
    path = tmp_path / "a.csv"
    lines = [f'"row {n}, quoted",label{n % 2}' for n in range(30)]
    lines[7] = '"nobody closes this,label1'
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    log = Log()
    rows = load_rows(path, log=log)
    assert len(rows) == 29
    assert [(p.place, p.what) for p in log.problems] == [("line 9", "its quotes do not pair")]


def test_an_opening_quote_does_not_take_half_the_file(tmp_path: Path) -> None:
    """Though far below a quote would close it, in a part of the file that quotes nothing."""
    path = tmp_path / "a.csv"
    lines = [f'"row {n}, quoted",label{n % 2}' for n in range(450)]
    lines += ['"opened,label0', *(f"row {n},label{n % 2}" for n in range(900)), 'closed",label1']
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    log = Log()
    assert len(load_rows(path, log=log)) == 450 + 900 + 1
    assert [p.place for p in log.problems] == ["line 452"]


def test_quotes_that_quote_nothing_are_text(tmp_path: Path) -> None:
    """Tabs between cells, quotes where people say something."""
    path = tmp_path / "a.tsv"
    said = [f'"hello {n}" she said\tquote' for n in range(20)]
    said += [f'she said "hello {n}\tother' for n in range(20)]
    path.write_text("text\tlabel\n" + "\n".join(said) + "\n")
    assert [row.text for row in load_rows(path)][::20] == [
        '"hello 0" she said',
        'she said "hello 0',
    ]


def test_a_file_without_a_header_is_read(tmp_path: Path) -> None:
    """Its labels recur, the names of columns do not; the longer column is the text."""
    path = tmp_path / "SMSSpamCollection.txt"
    path.write_text(
        "".join(f"{'spam' if n % 3 else 'ham'}\tmessage number {n}\n" for n in range(30))
    )
    log = Log()
    rows = load_rows(path, log=log)
    assert (len(rows), rows[0].text, rows[0].label) == (30, "message number 0", "ham")
    assert any("no header" in note for note in log.notes)


def test_a_title_above_the_header_is_no_header(tmp_path: Path) -> None:
    """As reports have it; in a workbook it is merged over the columns."""
    rows = [["text", "label"], *([text, label] for text, label in good())]
    (tmp_path / "a.csv").write_text(
        "Survey 2026\n\n" + "\n".join(f"{text},{label}" for text, label in rows) + "\n"
    )
    workbook(tmp_path / "a.xlsx", [["Survey 2026"], [], *rows], "A1:B1")
    for name in ("a.csv", "a.xlsx"):
        log = Log()
        assert len(load_rows(tmp_path / name, log=log)) == 20, name
        assert any("taken for a title" in note for note in log.notes)


def test_columns_are_found_by_what_they_hold(tmp_path: Path) -> None:
    """Where names do not tell; where two could be the label, it asks which."""
    path = tmp_path / "a.csv"
    rows = [f"{n},said number {n} of many,{'ab'[n % 2]}" for n in range(40)]
    path.write_text("nr,Äußerung,Sorte\n" + "\n".join(rows) + "\n")
    assert load_table(path).columns.label == "Sorte"
    rows = [f"{row},{'xyz'[n % 3]}" for n, row in enumerate(rows)]
    path.write_text("nr,Äußerung,Sorte,Team\n" + "\n".join(rows) + "\n")
    with pytest.raises(InputError) as caught:
        load_rows(path)
    assert "Sorte (2 values: a, b); Team (3 values: x, y, z); name one with" in str(caught.value)
    assert load_table(path, label="team").columns.label == "Team"


def test_formulas_merged_cells_and_errors_of_a_workbook_are_told(tmp_path: Path) -> None:
    """A merged label counts for each of its rows; what was never calculated has no value."""
    rows: list[list[object]] = [["text", "label"], *([text, label] for text, label in good())]
    rows += [["=A2&A3", "l0"], ["broken", "#REF!"], ["merged one", "l1"], ["merged two", None]]
    log = Log()
    found = load_rows(workbook(tmp_path / "a.xlsx", rows, "B24:B25"), log=log)
    assert [(row.text, row.label) for row in found[20:]] == [
        ("merged one", "l1"),
        ("merged two", "l1"),
    ]
    assert [(p.place, p.what) for p in log.problems] == [
        ("row 22", "'text' holds a formula that was never calculated"),
        ("row 23", "'label' holds the error #REF!"),
    ]
    assert any("merged cells; 1 rows" in note for note in log.notes)


def test_errors_that_a_spreadsheet_exported_are_no_texts_and_no_labels(tmp_path: Path) -> None:
    """A CSV has them as a workbook shows them; what only has such a mark in it is text."""
    rows = [*good(), ("#NAME?", "l0"), ("no value", "#N/A"), ("It says #N/A again", "l1")]
    log = Log()
    found = load_rows(csv_of(tmp_path / "a.csv", rows), log=log)
    assert [row.text for row in found[20:]] == ["It says #N/A again"]
    assert [(p.place, p.what) for p in log.problems] == [
        ("line 22", "'text' holds the error #NAME?"),
        ("line 23", "'label' holds the error #N/A"),
    ]


def test_a_workbook_that_broke_off_or_is_locked_is_one_error(tmp_path: Path) -> None:
    """What to do is in it."""
    whole = workbook(tmp_path / "whole.xlsx", [["text", "label"], *map(list, good())])
    data = whole.read_bytes()
    for cut in (10, len(data) // 2, len(data) - 30):
        (tmp_path / "cut.xlsx").write_bytes(data[:cut])
        with pytest.raises(InputError, match="damaged"):
            load_rows(tmp_path / "cut.xlsx")
    (tmp_path / "locked.xlsx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(4096))
    with pytest.raises(InputError, match="without a password"):
        load_rows(tmp_path / "locked.xlsx")


def test_a_sheet_that_is_cut_inside_is_one_error(tmp_path: Path) -> None:
    """A whole zip whose sheet ends early."""
    whole = workbook(tmp_path / "whole.xlsx", [["text", "label"], *map(list, good())])
    buffer = io.BytesIO()
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[: len(data) // 2] if "sheet1" in name else data)
    (tmp_path / "cut.xlsx").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="damaged"):
        load_rows(tmp_path / "cut.xlsx")


def test_a_folder_for_each_label_is_a_table(tmp_path: Path) -> None:
    """A text a file; or a file a label with a text a line."""
    for text, label in good():
        folder = tmp_path / "by-folder" / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{text}.txt").write_text(text)
    (tmp_path / "by-folder" / "l0" / "picture.png").write_bytes(b"\x89PNG\0\0")
    log = Log()
    rows = load_rows(tmp_path / "by-folder", log=log)
    assert sorted((row.text, row.label) for row in rows) == sorted(good())
    assert [p.place for p in log.problems] == ["file l0/picture.png"]
    (tmp_path / "by-file").mkdir()
    for label in ("l0", "l1"):
        lines = [text for text, name in good() if name == label]
        (tmp_path / "by-file" / f"{label}.txt").write_text("\n".join(lines))
    rows = load_rows(tmp_path / "by-file")
    assert sorted((row.text, row.label) for row in rows) == sorted(good())
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="a folder for each label"):
        load_rows(tmp_path / "nothing")


def test_text_of_another_alphabet_is_not_read_as_western(tmp_path: Path) -> None:
    """Cyrillic in its old encoding would be accents without sense."""
    rows = [(f"какой-то текст {n}", "счёт") for n in range(5)]
    with pytest.raises(InputError, match="save it as UTF-8"):
        load_rows(csv_of(tmp_path / "a.csv", rows, "cp1251"))


def test_lines_of_two_encodings_are_both_read(tmp_path: Path) -> None:
    """As in a file put together of others; what is of neither is replaced, and counted."""
    path = tmp_path / "a.csv"
    lines = [f"Größe {n},l{n % 2}".encode("cp1252" if n == 3 else "utf-8") for n in range(20)]
    path.write_bytes(b"text,label\n" + b"\n".join(lines))
    log = Log()
    assert {row.text[:5] for row in load_rows(path, log=log)} == {"Größe"}
    assert any("1 lines are not UTF-8" in note for note in log.notes)
    lines = [f"nothing strange here {n},l{n % 2}".encode() for n in range(20)]
    path.write_bytes(b"text,label\nvoil\x81,l0\n" + b"\n".join(lines))
    log = Log()
    assert load_rows(path, log=log)[0].text == "voil\ufffd"
    assert any("1 characters, the first in line 2" in note for note in log.notes)


def test_fasttext_and_lists_of_objects_are_read(tmp_path: Path) -> None:
    """What other tools write."""
    (tmp_path / "a.txt").write_text("".join(f"__label__{n} {t}\n" for t, n in good()))
    assert [(row.text, row.label) for row in load_rows(tmp_path / "a.txt")] == good()
    records = [{"utterance": t, "intent": n} for t, n in good()]
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "data": records}))
    assert [(row.text, row.label) for row in load_rows(tmp_path / "a.json")] == good()


def test_more_rows_than_can_be_trained_on_are_looked_at_in_seconds(tmp_path: Path) -> None:
    """A million takes eight times as long; the recipe trains on a part, which it says."""
    path = tmp_path / "a.csv"
    with path.open("w") as stream:
        stream.write("text,label\n")
        stream.writelines(f"some words of row {n},label {n % 7}\n" for n in range(125_000))
    start = time.process_time()  # other work beside it does not count
    content, _ = compose(path, tmp_path / "a.yaml")
    assert time.process_time() - start < 30, "about three"
    assert "limit: 120000  # of 125000 rows" in content
    assert "test: 0.08}" in content


def test_a_spreadsheet_with_everything_wrong_is_one_command(tmp_path: Path) -> None:
    """cp1252, semicolons, spaces in the header, empty cells, duplicates, conflicts: all counted."""
    lines = [" Nachricht ; Art ;Datum"]
    lines += [f"Größe {n} passt nicht;Rückgabe;1.{n}." for n in range(20)]
    lines += [f"Wo bleibt Paket {n}?;Lieferung;" for n in range(20)]
    lines += [";Lieferung;", "ohne Art;;", ";;", "Größe 3 passt nicht;Rückgabe;"]
    lines += ["Wo bleibt Paket 4?;rückgabe;", "Noch eins;RÜCKGABE;", "Ganz anders;Einzelnes;"]
    path = tmp_path / "meine daten.csv"
    path.write_bytes("\r\n".join(lines).encode("cp1252"))
    recipe = tmp_path / "r.yaml"
    content, notes = compose(path, recipe)
    recipe.write_text(content)
    said = "\n".join(notes)
    for what in ("cp1252", "';'", "1 rows of", "1 of 45 rows", "line 42", "line 43",
                 "more than once", "Einzelnes",
                 "another label elsewhere", "differ in spelling"):  # fmt: skip
        assert what in said, what
    dataset = prepare(parse(recipe_file.read(recipe), recipe))
    report = dataset.summary()
    kept = report["train"] + report["validation"] + report["test"]
    assert (kept, report["duplicates"], report["conflicting_rows"]) == (40, 1, 2)
    assert (report["rows_left_out"], len(report["lonely_labels"])) == (2, 1)
    lines_with_cells = 46 - 1
    assert kept + 1 + 2 + 2 + 1 == lines_with_cells + 1, "every row is somewhere"
    assert report["conflicts"][0]["places"] == ["line 26: Lieferung", "line 46: Rückgabe"]
