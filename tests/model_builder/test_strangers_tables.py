"""Tables as strangers write them, each after a public file: read, with a note on what was taken."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import openpyxl
import pytest

from contracts import limits
from contracts.errors import InputError
from contracts.labelled.load import load_rows, load_table
from contracts.labelled.rows import Log
from model_builder.classify.initial import compose
from model_builder.data.examine import examine
from model_builder.recipes import file as recipe_file
from model_builder.recipes.classify import parse
from tests.support.small_disk import SmallDisk

ROWS = [(f"{n} things to say of it", "ab"[n % 2]) for n in range(20)]


def test_a_label_is_told_from_amounts_and_by_the_end_of_its_name(tmp_path: Path) -> None:
    """Prices and times of day recur as labels do; what ends in a usual name is the label."""
    rows = [f'{n},{n % 50}.5,{n % 30},{"ab"[n % 2]},"said number {n} of many"' for n in range(200)]
    path = tmp_path / "a.csv"
    path.write_text("nr,price,hour,Sorte,words\n" + "\n".join(rows) + "\n")
    assert load_table(path).columns.label == "Sorte"
    path.write_text("nr,price,airline,airline_sentiment,words\n" + "\n".join(rows) + "\n")
    assert load_table(path).columns.label == "airline_sentiment"


def test_a_table_that_is_sorted_by_its_labels_is_read(tmp_path: Path) -> None:
    """The first thousands of rows show one label alone."""
    path = tmp_path / "a.csv"
    rows = [f"{'ab'[n // 2000]},say number {n} of them" for n in range(4000)]
    path.write_text("eins,zwei\n" + "\n".join(rows) + "\n")
    found = load_table(path)
    assert (found.columns.text, found.columns.label, len(found.rows)) == ("zwei", "eins", 4000)


@pytest.mark.parametrize(
    ("texts", "label"),
    [
        (("体验巅峰十大创新概览", "年铁树开花形状似玉米芯"), "8"),
        (("今日は天気がとても良いです", "電気を消してください"), "天気"),
        (("ขอบคุณมากสำหรับความช่วยเหลือ", "เปิดไฟในห้องนั่งเล่น"), "บ้าน"),
    ],
)
def test_scripts_without_blanks_between_words_are_texts(
    texts: tuple[str, str], label: str, tmp_path: Path
) -> None:
    """One word by its blanks is a whole sentence; its label is short and comes again."""
    path = tmp_path / "a.txt"
    lines = [f"{texts[n % 2]}{n}\t{label if n % 3 else 'x'}\n" for n in range(30)]
    path.write_text("".join(lines), "utf-8")
    rows = load_rows(path)
    assert len(rows) == 30
    assert (rows[1].text, rows[1].label) == (f"{texts[1]}1", label)


@pytest.mark.parametrize(
    "labels", [("0", "1"), ("-1", "+1"), ("DESC:manner", "NUM:date"), ("GOOD", "BAD")]
)
def test_lines_of_a_label_and_a_text_are_read(labels: tuple[str, str], tmp_path: Path) -> None:
    """As research corpora are written, sorted by label or not, with commas in the texts."""
    path = tmp_path / "a.txt"
    lines = [f'{labels[n // 1500]} it is said , that {n} , or so , "were\n' for n in range(3000)]
    path.write_text("".join(lines))
    log = Log()
    rows = load_rows(path, log=log)
    assert len(rows) == 3000
    assert (rows[0].text, rows[0].label) == ('it is said , that 0 , or so , "were', labels[0])
    assert any("a label, a blank, and a text" in note for note in log.notes)


@pytest.mark.parametrize("first", ["What is {n}", "{n} is what", "12:{n} it rang"])
def test_lines_of_text_alone_keep_their_first_word(first: str, tmp_path: Path) -> None:
    """A number that never comes again, or a word of the sentence, is no label."""
    path = tmp_path / "a.txt"
    lines = ["text", *(first.format(n=n) for n in range(50))]
    path.write_text("\n".join(lines) + "\n")
    rows = load_rows(path, labelled=False)
    assert [row.text for row in rows] == lines[1:]


def test_cells_under_columns_without_a_name_do_not_cost_their_row(tmp_path: Path) -> None:
    """A header may end in commas, as the SMS spam collection's does; what is beyond them costs."""
    path = tmp_path / "a.csv"
    rows = [f"{'ab'[n % 2]},say number {n} of them,,,\n" for n in range(20)]
    path.write_text("v1,v2,,,\n" + "".join(rows) + "a,say it,again,,x\nb,say it,1,2,3,4\n")
    log = Log()
    found = load_rows(path, log=log)
    assert (len(found), found[-1].text) == (21, "say it")
    assert any("columns without a name" in note for note in log.notes)
    assert [problem.place for problem in log.problems] == ["line 23"]


def test_lists_of_texts_and_of_cells_in_json_are_read(tmp_path: Path) -> None:
    """A chat bot's patterns are a text each; a data set's list of training pairs is a table."""
    path = tmp_path / "intents.json"
    intents = [
        {"tag": tag, "patterns": [f"{tag} number {n}" for n in range(9)], "responses": ["ok", "no"]}
        for tag in ("greet", "leave")
    ]
    path.write_text(json.dumps({"intents": intents}))
    found = load_table(path)
    assert (found.columns.text, found.columns.label, len(found.rows)) == ("patterns", "tag", 18)
    assert (found.rows[9].text, found.rows[9].label) == ("leave number 0", "leave")
    pairs = [[f"say number {n} of them", "ab"[n % 2]] for n in range(20)]
    path.write_text(json.dumps({"test": pairs[:3], "train": pairs}))
    log = Log()
    assert len(load_rows(path, log=log)) == 20
    assert any("not read: test" in note for note in log.notes)
    path.write_text(json.dumps([{"tokens": ["a", "b"], "label": "x"}] * 9))
    with pytest.raises(InputError):
        load_rows(path, text="tokens")


def test_the_sheet_with_the_table_is_read_where_a_cover_comes_first(tmp_path: Path) -> None:
    """Which one was read is told."""
    book = openpyxl.Workbook()
    book.active.title = "Read me"
    for cells in (["Survey", "2026"], ["by", "somebody"]):
        book.active.append(cells)
    sheet = book.create_sheet("Answers")
    for row in [("text", "label"), *ROWS]:
        sheet.append(row)
    book.save(tmp_path / "a.xlsx")
    log = Log()
    assert len(load_rows(tmp_path / "a.xlsx", log=log)) == 20
    assert any("only 'Answers' was read" in note for note in log.notes)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.csv", b"PK\x03\x04\x14\x00\x06\x00", "name it .xlsx"),
        ("a.xlsx", b"PAR1\x15\x04", "name it .parquet"),
        ("a.jsonl", b"\x1f\x8b\x08\x00", "unpack it first"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("a.csv", b"\xef\xbb\xbf\n<!DOCTYPE html>\n<title>Sign in</title>", "fetch the file again"),
        ("a.tsv", b"<html lang=en>\n", "fetch the file again"),
    ],
)
def test_a_file_that_is_something_else_than_its_name_says_is_told_so(
    name: str, data: bytes, says: str, tmp_path: Path
) -> None:
    """A renamed workbook, an unfetched pointer, a page that asked to sign in."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        load_rows(tmp_path / name)
    assert caught.value.code == "bad-data"
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "labels",
    [
        ("-1", "1"),
        ("-1", "0", "+1"),
        ("C", "C++", "C#"),
        ("A+", "A", "A-"),
        ("<10", ">10", "=10"),
        ("1.5", "15", ".15"),
        ("v1.0", "v10", "v1-0"),
        ("5%", "5", "$5"),
        ("yes?", "yes!", "yes"),
        ("की", "कि", "का"),
    ],
)
def test_signs_that_tell_labels_apart_are_kept(labels: tuple[str, ...], tmp_path: Path) -> None:
    """A review of -1 is none of +1, and no row is joined to another label."""
    path = tmp_path / "a.csv"
    rows = [f"{labels[n % len(labels)]},number {n} of what is said" for n in range(60)]
    path.write_text("\n".join(["label,text", *rows]) + "\n", "utf-8")
    found = examine(path)
    assert (found.rows, found.labels, found.notes) == (60, len(labels), [])


@pytest.mark.parametrize(
    "labels",
    [("Turn_On", "turn-on", "turn on"), ("Größe.", "GRÖSSE"), ("N/A", "n.a."), ("a - b", "A:b")],
)
def test_spellings_of_one_label_are_joined(labels: tuple[str, ...], tmp_path: Path) -> None:
    """Case, and what separates words."""
    path = tmp_path / "a.csv"
    rows = [f"{[*labels, 'other'][n % (len(labels) + 1)]};say it {n} times" for n in range(60)]
    path.write_text("\n".join(["label;text", *rows]) + "\n", "utf-8")
    found = examine(path)
    assert (found.rows, found.labels) == (60, 2)
    assert any("differ in spelling alone" in note for note in found.notes)


def test_a_measure_is_no_label(tmp_path: Path) -> None:
    """Means of ratings, as of tweets with ten judges each; half stars are labels."""
    path = tmp_path / "a.tsv"
    path.write_text(
        "".join(f"{n}\t{n % 60 / 70 - 1:.9f}\twhat {n} people say\n" for n in range(150))
    )
    with pytest.raises(InputError, match=r"60 different numbers .*a measure, not labels"):
        examine(path)
    path.write_text("text\tstars\n" + "".join(f"said {n}\t{n % 10 / 2}\n" for n in range(150)))
    assert examine(path).labels == 10
    rows = [{"text": f"said {n}", "label": n % 10 / 2} for n in range(150)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert {row.label for row in load_rows(tmp_path / "a.json")} >= {"4.5", "4", "0"}


@pytest.mark.parametrize(
    ("first", "expected"),
    [("0,1,2", ("2", "1", 60)), ("7,2.5,said once", ("column 3", "column 2", 61))],
)
def test_a_number_above_numbers_is_data_and_not_a_name(
    first: str, expected: tuple[str, str, int], tmp_path: Path
) -> None:
    """Unless it counts the columns, as pandas does."""
    path = tmp_path / "a.csv"
    rows = [f"{n + 8},{n % 2},says what {n} people say\n" for n in range(60)]
    path.write_text(f"{first}\n{''.join(rows)}")
    table = load_table(path)
    assert (table.columns.text, table.columns.label, len(table.rows)) == expected


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("https://example.org/a.csv", "download it"),
        ("-", "expected a file"),
        ("a.sqlite", "as .csv"),
        ("a.html", "as .xlsx"),
    ],
)
def test_what_is_no_table_in_a_file_is_told_what_to_do(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address, the standard input, a database, a page."""
    monkeypatch.chdir(tmp_path)
    if name[1:2] == ".":
        Path(name).write_text("<table>")
    with pytest.raises(InputError, match=says):
        load_rows(Path(name))


def test_a_recipe_for_a_table_whose_name_has_a_line_break_can_be_read(tmp_path: Path) -> None:
    """The name stands in its comments too."""
    path = tmp_path / "my\nfile: it's.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS))
    recipe = tmp_path / "a\nb.yaml"
    content, _ = compose(path, recipe)
    recipe.write_text(content)
    assert parse(recipe_file.read(recipe), recipe).data.train == str(path)


def test_a_recipe_on_a_full_disk_is_not_there_afterwards(tmp_path: Path) -> None:
    """What says "make room and run it again" must not be in its own way then."""
    table = tmp_path / "a.csv"
    table.write_text("text,label\n" + "\n".join(",".join(row) for row in ROWS) + "\n")
    folder = tmp_path / "disk"
    recipe = folder / "a.yaml"
    init = shlex.join([sys.executable, "-m", "model_builder", "init", str(table), "--out"])
    script = (
        f"cat /dev/zero > {folder}/fill; {init} {recipe}; echo $? >&2; ls -A {folder} >&2; "
        f"rm {folder}/fill; {init} {recipe}"
    )
    done = subprocess.run(
        SmallDisk(folder, limits.MIB).around(["sh", "-c", script]),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    said = done.stderr.splitlines()
    assert f"error: {recipe}: No space left on device; make room and run it again" in said
    assert said[said.index("1") + 1] == "fill"
    assert (done.returncode, done.stdout[:6]) == (0, "Wrote "), done.stderr
