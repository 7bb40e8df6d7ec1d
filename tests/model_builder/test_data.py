"""Data in: files of three kinds, cleaning, splits; every broken file is one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pyarrow
import pyarrow.parquet as parquet
import pytest

from contracts.errors import InputError
from contracts.labelled.load import load_rows
from contracts.labelled.rows import Row
from contracts.labelled.tables import MAX_LINE_BYTES
from model_builder.data.clean import CleanReport, check_classes, clean, drop_leaks
from model_builder.data.dataset import prepare
from model_builder.data.home import languages, sample
from model_builder.data.noise import noise_report
from model_builder.data.split import split_off
from model_builder.recipes.classify import DataConfig, Recipe

ROWS = [Row("turn it on", "on"), Row('say "hi", please', "talk"), Row("größer 你好", "talk")]


def write(path: Path, rows: list[Row]) -> Path:
    """The rows as a file of the path's kind."""
    records = [{"text": row.text, "label": row.label} for row in rows]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    elif path.suffix == ".csv":
        lines = ["text,label"]
        lines += ['"{}",{}'.format(r["text"].replace('"', '""'), r["label"]) for r in records]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_the_three_kinds_of_file_give_the_same_rows(tmp_path: Path, suffix: str) -> None:
    """Quotes, commas and other scripts included."""
    rows = load_rows(write(tmp_path / f"rows{suffix}", ROWS))
    assert [(row.text, row.label) for row in rows] == [(row.text, row.label) for row in ROWS]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b'{"text": "a"}\n', "no 'label'"),
        ("a.jsonl", b'{"text": "a", "label": ""}\n', "in none of 1 rows 'label' has"),
        ("a.jsonl", b'{"text": 3, "label": "x"}\n', "not a string"),
        ("a.jsonl", b"[1]\n", "JSON object"),
        ("a.jsonl", b'{"text": "a", "lab', "not JSON"),
        ("a.jsonl", b'{"text": "caf\xe9", "label": "x"}\n', "not UTF-8"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "not JSON"),
        ("a.csv", b"text,label\na,b,c\n", "more cells"),
        ("a.csv", b"text,label\na\n", "in none of 1 rows 'label' has"),
        ("a.csv", b"words,kind\na,b\n", "no 'text'"),
        ("a.csv", "text,label\na,b\n".encode("utf-16")[:-1], "begins as utf-16"),
        ("a.csv", b"text,label\na\x81,b\n", "not UTF-8 .* nor cp1252"),
        ("a.csv", b"text,label,text\na,b,c\n", "there twice"),
        ("a.xlsx", b"PK nonsense", "no workbook"),
        ("a.xlsx", b"\xd0\xcf\x11\xe0" + b"x" * 600, "password"),
        ("a.parquet", b"PAR1 nonsense", "not Parquet"),
        ("a.doc", b"x", "expected a .csv, .tsv, .*or .feather"),
        ("a.xls", b"x", "save it as .xlsx"),
    ],
)
def test_a_broken_file_is_one_clear_error(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    """It names the file and what is wrong."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        load_rows(path)
    assert name in str(caught.value)


def test_a_line_of_ten_megabytes_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    """A broken export, most often."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "' + b"x" * (10 * MAX_LINE_BYTES) + b'", "label": "a"}\n')
    with pytest.raises(InputError, match="longer than"):
        load_rows(path)


def test_cleaning_drops_duplicates_and_texts_with_two_labels() -> None:
    """Case and punctuation do not make a text another one."""
    report = CleanReport()
    rows = [Row("Hello!", "a"), Row("hello", "a"), Row("bye", "a"), Row("Bye.", "b")]
    assert clean(rows, report, deduplicate=True, conflicts="drop") == [rows[0]]
    assert (report.duplicates, report.conflict_rows) == (1, 2)
    (torn,) = report.conflicts
    assert (torn["text"], torn["labels"]) == ("bye", ["a", "b"])
    with pytest.raises(InputError, match="more than one label"):
        clean(rows, CleanReport(), deduplicate=True, conflicts="error")


def test_texts_that_differ_by_a_telling_mark_are_not_in_conflict() -> None:
    """A smile, a sign, a question mark; a full stop or quotes tell nothing."""
    told = [("see you :)", "a"), ("see you :(", "b"), ("-5", "a"), ("5", "b"), ("?", "a")]
    told += [("!", "b"), ("x > 0", "a"), ("x < 0", "b"), ("you come?", "a"), ("you come", "b")]
    rows = [Row(text, label) for text, label in told]
    report = CleanReport()
    assert clean(rows, report, deduplicate=True, conflicts="error") == rows
    assert (report.duplicates, report.conflict_rows) == (0, 0)
    mute = [Row("“You come.”", "a"), Row("you come!", "b"), Row("You come?", "a")]
    assert clean(mute, report, deduplicate=True, conflicts="drop") == mute[2:]
    same = [Row("You come?", "a"), Row("you come", "a")]
    assert clean(same, report, deduplicate=True, conflicts="drop") == same[:1]
    assert clean(same, report, deduplicate=False, conflicts="drop") == same


def test_a_leak_is_dropped_and_reported() -> None:
    """The report warns."""
    report = CleanReport()
    rows = [Row("A, B", "x"), Row("c", "x")]
    kept = drop_leaks([Row("a b", "x")], rows, report, "training rows are in the test split")
    assert [row.text for row in kept] == ["c"]
    assert report.leaked == 1
    assert report.warnings == ["1 training rows are in the test split too: left out"]


@pytest.mark.parametrize(
    ("labels", "code"), [(["a", "a"], "too-few-classes"), (["a", "a", "b"], "class-too-small")]
)
def test_classes_that_cannot_be_learned_are_refused(labels: list[str], code: str) -> None:
    """One class only; a class with one example."""
    rows = [Row(f"text {i}", label) for i, label in enumerate(labels)]
    with pytest.raises(InputError) as caught:
        check_classes(rows, CleanReport())
    assert caught.value.code == code


def test_a_wrong_label_is_suspected() -> None:
    """One of forty rows carries the other class's label."""
    rows = [Row(f"turn the light on number {i}", "on") for i in range(20)]
    rows += [Row(f"what is the weather on day {i}", "weather") for i in range(20)]
    rows[3] = Row("turn the light on number 3", "weather")
    found = noise_report(rows, seed=1)[0]
    assert (found["text"], found["label"]) == (rows[3].text, "weather")
    assert found["suggestion"] == "on"


def test_splits_share_no_group_and_do_not_move_when_data_grows() -> None:
    """More rows of the same groups leave every row on its side."""
    rows = [Row(f"t{g} {i}", f"l{g % 3}", f"g{g}") for g in range(30) for i in range(4)]
    stay, off = split_off(rows, 0.25, 1, "test")
    assert {r.group for r in stay}.isdisjoint({r.group for r in off})
    assert len(off) / len(rows) == 0.3, "a quarter of ten groups a label, rounded: three"
    more = [*rows, *(Row(f"t{g} more", f"l{g % 3}", f"g{g}") for g in range(30))]
    assert {r.group for r in split_off(more, 0.25, 1, "test")[1]} == {r.group for r in off}
    assert split_off(rows, 0.25, 2, "test")[1] != off


@pytest.mark.parametrize(("language", "labels"), [("en", 30), ("de", 30), ("ru", 30)])
def test_home_intents_are_sampled_in_several_languages(language: str, labels: int) -> None:
    """Distinct sentences, one intent each; the same seed gives the same ones."""
    rows = sample(language, 2000, seed=3)
    assert len(rows) >= 1900
    assert len({row.text for row in rows}) == len(rows)
    assert len({row.label for row in rows}) >= labels
    assert rows == sample(language, 2000, seed=3)
    assert rows != sample(language, 2000, seed=4)


def test_an_unknown_language_is_refused_with_the_known_ones() -> None:
    """English is among them."""
    assert "en" in languages()
    with pytest.raises(InputError, match=r"no language 'xx'.* en,"):
        sample("xx", 100, 1)


def test_the_home_recipe_gives_ten_thousand_sentences_whose_templates_are_not_shared() -> None:
    """At least 30 intents; the test split has templates that training never saw."""
    recipe = Recipe("home", data=DataConfig(source="home-intents", sentences=14_000), seed=7)
    dataset = prepare(recipe)
    total = sum(len(s.texts) for s in (dataset.train, dataset.validation, dataset.test))
    assert total >= 10_000
    assert len(dataset.labels) >= 30
    template = {row.text: row.group for row in sample("en", 14_000, _sampling_seed(recipe))}
    train = {template[text] for text in dataset.train.texts}
    assert train.isdisjoint({template[text] for text in dataset.test.texts})


def _sampling_seed(recipe: Recipe) -> int:
    from model_builder.seeds import derive

    return derive(recipe.seed, "sample")


def test_a_test_label_that_training_lacks_is_left_out_and_told(tmp_path: Path) -> None:
    """No model can answer it; where nothing else is there to judge by, the build ends at once."""
    train = [Row(f"{word} {i}", word) for word in ("on", "off") for i in range(10)]
    data = DataConfig(
        train=str(write(tmp_path / "train.csv", train)),
        test=str(write(tmp_path / "test.csv", [Row("what", "strange"), Row("on now", "on")])),
    )
    recipe = msgspec.structs.replace(Recipe("a"), data=data)
    dataset = prepare(recipe)
    assert dataset.test.texts == ["on now"]
    warnings = dataset.report.warnings
    assert any("1 rows of the test split" in w and "strange" in w for w in warnings)
    write(tmp_path / "test.csv", [Row("what", "strange")])
    with pytest.raises(InputError, match="test split is empty"):
        prepare(recipe)
