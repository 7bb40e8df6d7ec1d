"""Folders and files as public corpora are laid out: no name of a file becomes a label unsaid.

Each is a small copy of one that is public: which is said beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from contracts.errors import InputError
from contracts.labelled.folders import TO_JUDGE, TO_LEARN
from contracts.labelled.load import load_rows
from contracts.labelled.rows import Log
from contracts.labelled.several import Several
from contracts.labelled.tables import is_table

TEXTS = tuple(
    f"{kind} is what number {number} said"
    for number, kind in enumerate(("good", "bad", "good", "bad", "good", "good"))
)
NUMBERS = ("1", "0", "1", "0", "1", "1")
NAMED = [(text, text.partition(" ")[0]) for text in TEXTS]
NUMBERED = list(zip(TEXTS, NUMBERS, strict=True))


def lines(values: tuple[str, ...] | list[str]) -> str:
    """A file with a value a line."""
    return "".join(f"{value}\n" for value in values)


def put(folder: Path, files: Mapping[str, str]) -> Path:
    """A folder with these files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def read(path: Path) -> list[tuple[str, str]]:
    """Texts with their labels."""
    return [(row.text, row.label) for row in load_rows(path)]


TEXT, LABEL = lines(TEXTS), lines(NUMBERS)
TABS = lines([f"{text}\t{label}" for text, label in NUMBERED])


@pytest.mark.parametrize(
    ("files", "name", "expected"),
    [
        pytest.param(
            {
                **{f"{part}_text.txt": TEXT for part in ("test", "train", "val")},
                **{f"{part}_labels.txt": LABEL for part in ("test", "train", "val")},
                "mapping.txt": "0\tbad\n1\tgood",
            },
            "train_text.txt",
            NAMED,
            id="tweeteval",
        ),
        pytest.param(
            {
                **{f"{part}/seq.in": TEXT for part in ("train", "test", "dev")},
                **{f"{part}/seq.out": TEXT.replace("good", "O") for part in ("train", "test")},
                **{f"{part}/label": LABEL for part in ("train", "test", "dev")},
            },
            "train/seq.in",
            NUMBERED,
            id="slot-gated",
        ),
        pytest.param(
            {"title_StackOverflow.txt": TEXT, "label_StackOverflow.txt": LABEL},
            "title_StackOverflow.txt",
            NUMBERED,
            id="stackoverflow",
        ),
        pytest.param(
            {
                "train_contents.txt": TEXT,
                "train_labels.txt": LABEL,
                "test_contents.txt": TEXT,
                "test_labels.txt": LABEL,
            },
            "train_contents.txt",
            NUMBERED,
            id="chinese-news",
        ),
        pytest.param(
            {
                "train.text": TEXT,
                "train.label": LABEL,
                "test.label": LABEL,
                "test_data.text": TEXT * 2,
                "test_data.label": LABEL * 2,
            },
            "train.text",
            NUMBERED,
            id="wassa",
        ),
        pytest.param(
            {"reviews.txt": TEXT, "labels.txt": LABEL}, "reviews.txt", NUMBERED, id="reviews"
        ),
        pytest.param(
            {"X_train.txt": TEXT, "y_train.txt": LABEL}, "X_train.txt", NUMBERED, id="x-and-y"
        ),
        pytest.param(
            {"amazon_cells_labelled.txt": TABS, "readme.txt": "Kotzias et al., 2015"},
            "amazon_cells_labelled.txt",
            NUMBERED,
            id="sentences-of-reviews",
        ),
        pytest.param(
            {"train.txt": TABS, "test.txt": TABS, "dev.txt": TABS},
            "train.txt",
            NUMBERED,
            id="splits",
        ),
    ],
)
def test_a_corpus_is_read_as_it_is_meant(
    tmp_path: Path, files: dict[str, str], name: str, expected: list[tuple[str, str]]
) -> None:
    """By its folder, and by the file that holds the texts."""
    folder = put(tmp_path / "corpus", files)
    assert read(folder) == expected
    assert read(folder / name) == expected
    log = Log()
    load_rows(folder, log=log)
    assert any(Path(name).name in note for note in log.notes)


def test_texts_and_labels_that_do_not_fit_are_told(tmp_path: Path) -> None:
    """Not a line of them is guessed; and the file of labels says which the texts are."""
    folder = put(tmp_path, {"train_text.txt": TEXT, "train_labels.txt": LABEL})
    with pytest.raises(InputError, match=r"has the labels of train_text\.txt; name that"):
        load_rows(folder / "train_labels.txt")
    put(tmp_path, {"train_labels.txt": LABEL + "1\n"})
    for path in (folder, folder / "train_text.txt"):
        with pytest.raises(InputError, match=r"6 lines and train_labels\.txt 7"):
            load_rows(path)
    (folder / "train_labels.txt").unlink()
    with pytest.raises(InputError, match="texts without labels; add a column"):
        load_rows(folder / "train_text.txt")


def test_an_empty_text_at_the_end_has_its_label(tmp_path: Path) -> None:
    """It is left out as any other; and a blank line at the end of the labels is none."""
    put(tmp_path, {"train_text.txt": TEXT + "\n", "train_labels.txt": LABEL + "1\n"})
    assert read(tmp_path) == NUMBERED
    put(tmp_path, {"train_text.txt": TEXT, "train_labels.txt": LABEL + "\n\n"})
    assert read(tmp_path) == NUMBERED


@pytest.mark.parametrize("inner", ["train.tsv", "train_text.txt"])
def test_a_folder_of_data_sets_names_them(tmp_path: Path, inner: str) -> None:
    """Their names are no labels."""
    test = inner.replace("train", "test")
    put(
        tmp_path, {f"{name}/{file}": TABS for name in ("hausa", "yoruba") for file in (inner, test)}
    )
    with pytest.raises(InputError, match=r"data sets of their own.*hausa, .*yoruba"):
        load_rows(tmp_path)


def test_tables_of_a_label_each_are_read_as_one(tmp_path: Path) -> None:
    """The label is the column's value, or, where that repeats or is not there, the file's name."""
    good, bad = (
        [text for text in TEXTS if "good" in text],
        [text for text in TEXTS if "bad" in text],
    )
    by_value = {
        "one.csv": "text,label\n" + lines([f"{text},good" for text in good]),
        "two.csv": "text,label\n" + lines([f"{text},bad" for text in bad]),
    }
    assert sorted(read(put(tmp_path / "value", by_value))) == sorted(NAMED)
    by_name = {
        "good.csv": "id;intent;text\n" + lines([f"1;query;{text}" for text in good]),
        "bad.csv": "id;intent;text\n" + lines([f"2;query;{text}" for text in bad]),
    }
    assert sorted(read(put(tmp_path / "name", by_name))) == sorted(NAMED)
    bare = {"good.csv": "text\n" + lines(good), "bad.csv": "text\n" + lines(bad)}
    assert sorted(read(put(tmp_path / "bare", bare))) == sorted(NAMED)
    own = {
        f"{name}.csv": "text,polarity\n" + lines([f"{a},{b}" for a, b in NAMED]) for name in "ab"
    }
    with pytest.raises(InputError, match=r"name one of a\.csv, b\.csv"):
        read(put(tmp_path / "own", own))
    parts = {f"part-{n}.csv": f"text,label\n{t},{label}\n" for n, (t, label) in enumerate(NAMED)}
    assert read(put(tmp_path / "parts", parts)) == NAMED


def test_numbers_before_texts_make_no_table_of_a_label_s_file(tmp_path: Path) -> None:
    """``good.txt`` and ``bad.txt`` are labels, whatever stands before a tab in them."""
    for kind in ("good", "bad"):
        texts = [f"{n}\t{text}" for n, text in enumerate(TEXTS) if kind in text]
        put(tmp_path, {f"{kind}.txt": lines(texts), "README.txt": "about\n"})
    assert {row.label for row in load_rows(tmp_path)} == {"good", "bad"}


@pytest.mark.parametrize("name", ["SMSSpamCollection", "custrev.all", "train_5500.label"])
def test_a_file_of_an_unknown_name_is_read_as_text(tmp_path: Path, name: str) -> None:
    """What is a recipe, or no text, is none."""
    (tmp_path / name).write_text(lines([f"{label}\t{text}" for text, label in NUMBERED]))
    assert read(tmp_path / name) == NUMBERED
    assert is_table(tmp_path / name)
    (tmp_path / "recipe").write_text("data:\n  train: a.csv\n")
    assert not is_table(tmp_path / "recipe")
    (tmp_path / "model.bin").write_bytes(bytes(range(256)))
    (tmp_path / "page.svg").write_text("<?xml version='1.0'?>\n<table/>\n")
    (tmp_path / "a.fods").write_text("<?xml version='1.0'?>\n<table/>\n")
    for other in ("model.bin", "page.svg", "a.fods"):
        with pytest.raises(InputError, match=r"expected a \.csv"):
            load_rows(tmp_path / other)


def test_a_name_of_a_column_may_be_a_value_of_it(tmp_path: Path) -> None:
    """As ``hate`` is in the Korean comments: the other columns tell that it is a header."""
    kinds = ("none", "offensive", "hate")
    rows = [f"what was said by number {n}\t{n % 2 == 0}\t{kinds[n % 3]}" for n in range(30)]
    path = tmp_path / "train.tsv"
    path.write_text("comments\tcontain_gender_bias\thate\n" + lines(rows))
    assert [row.label for row in load_rows(path, label="hate")[:3]] == list(kinds)
    path.write_text(lines([f"{row}\tx" for row in rows]))
    assert len(load_rows(path, text="column 1", label="column 3")) == 30


def test_labels_beside_a_table_are_its_own(tmp_path: Path) -> None:
    """What has labels and texts in each line is not read as texts; nor other labels for its own."""
    put(tmp_path, {"test_data.text": TEXT * 2, "test.label": LABEL, "test.labels": LABEL * 2})
    assert read(tmp_path / "test_data.text") == NUMBERED * 2
    put(tmp_path, {"train_run1.txt": TABS, "train_run1_labels.txt": LABEL})
    assert read(tmp_path / "train_run1.txt") == NUMBERED


@pytest.mark.parametrize("quotes", ['"hm" he said', '"never ends', 'they said "no"'])
def test_quotes_that_are_parts_of_texts_cost_no_row(tmp_path: Path, quotes: str) -> None:
    """Beyond the lines that are looked at first, as in the collection of SMS."""
    rows = [f"{'ham' if n % 3 else 'spam'}\twhat number {n} wrote" for n in range(900)]
    rows[700] = f"ham\t{quotes}"
    path = tmp_path / "SMSSpamCollection"
    path.write_text(lines(rows))
    log = Log()
    assert load_rows(path, log=log)[700].text == quotes
    assert not log.problems


@pytest.mark.parametrize(
    ("files", "judge"),
    [
        ({f"{part}_text.txt": part for part in ("train", "test", "val")}, "test"),
        ({f"{part}_text.txt": part for part in ("train", "val")}, "val"),
        ({f"{part}_text.txt": part for part in ("train",)}, "train"),
        ({f"{part}/seq.in": part for part in ("train", "dev", "test")}, "test"),
        ({f"{part}.csv": part for part in ("train", "validation")}, "validation"),
        ({f"data/{part}-00000-of-00001.csv": part for part in ("train", "test")}, "test"),
        ({f"{part}/a.csv": part for part in ("train", "test")}, "test"),
        ({f"{part}/{kind}.txt": part for part in ("train", "test") for kind in "xy"}, "test"),
        (
            {f"{part}/rt.{kind}": part for part in ("train", "test") for kind in ("pos", "neg")},
            "test",
        ),
        ({f"{part}/{kind}/a.txt": part for part in ("train", "test") for kind in "xy"}, "test"),
    ],
)
def test_a_folder_is_judged_by_its_test_split(
    tmp_path: Path, files: dict[str, str], judge: str
) -> None:
    """And learnt from by the other; where it has but that, by that one."""
    for name, part in files.items():
        rows = [f"{kind} of {part} said {n}" for n in range(4) for kind in ("good", "bad")]
        labels = ["good", "bad"] * 4
        text = lines(rows)
        if name.endswith(".csv"):
            text = "text,label\n" + lines([f"{a},{b}" for a, b in zip(rows, labels, strict=True)])
        elif name.endswith("seq.in"):
            put(tmp_path, {name.replace("seq.in", "label"): lines(labels)})
        elif "_text" in name:
            put(tmp_path, {name.replace("text", "labels"): lines(labels)})
        put(tmp_path, {name: text})
    for splits, part in ((TO_LEARN, "train"), (TO_JUDGE, judge)):
        found = load_rows(tmp_path, splits=splits)
        assert found
        assert all(f" of {part} " in row.text for row in found)


def test_the_split_to_train_on_is_known_by_a_word_in_its_name(tmp_path: Path) -> None:
    """As in SemEval's files; where there is one for each of several tasks, one must be named."""
    names = ("E-c-En-dev.txt", "E-c-En-test-gold.txt", "E-c-En-train.txt")
    folder = put(tmp_path / "one", dict.fromkeys(names, TABS))
    log = Log()
    assert [(row.text, row.label) for row in load_rows(folder, log=log)] == NUMBERED
    assert "of one was read: E-c-En-train.txt" in log.notes
    put(folder, {"EI-oc-En-train.txt": TABS})
    with pytest.raises(InputError, match="has several tables"):
        load_rows(folder)


def test_sentences_may_be_labels_where_each_recurs(tmp_path: Path) -> None:
    """As ``3: high amount of fear can be inferred`` among a thousand tweets."""
    kinds = ("0: no fear can be inferred", "3: high amount of fear can be inferred")
    rows = [f"{n}\tthe tweet of number {n} says it\tfear\t{kinds[n % 2]}" for n in range(90)]
    path = tmp_path / "EI-oc-En-fear-train.txt"
    path.write_text("ID\tTweet\tAffect Dimension\tIntensity Class\n" + lines(rows))
    assert {row.label for row in load_rows(path)} == set(kinds)


def test_intents_in_a_list_are_the_labels(tmp_path: Path) -> None:
    """As in NLU++: no column of the slots is taken for them."""
    when = {"date": {"values": [{"type": "absolute"}]}}
    rows = [
        {
            "text": f"number {n} asks {kind}",
            "intents": [kind, "booking"][: 1 + n % 2],
            "slots": when,
        }
        for n, kind in enumerate(("when", "refund", "when", "refund") * 5)
    ]
    path = tmp_path / "fold0.json"
    path.write_text(json.dumps(rows))
    found = load_rows(path, several=Several())
    assert {label for row in found for label in row.labels} == {"booking", "refund", "when"}


def test_a_folder_around_the_labels_is_passed_through(tmp_path: Path) -> None:
    """As ``dataset/data_files/tech/132.txt``."""
    for number, (text, name) in enumerate(NAMED):
        put(tmp_path, {f"dataset/data_files/{name}/{number}.txt": text})
    assert sorted(read(tmp_path / "dataset")) == sorted(NAMED)


@pytest.mark.parametrize("stray", ["0", "x"])
def test_a_row_with_empty_cells_after_it_is_no_header(tmp_path: Path, stray: str) -> None:
    """As the first of the SMS in a spreadsheet's CSV, which has a stray number at its end."""
    rows = [f"{'ham' if n % 3 else 'spam'},what number {n} wrote,,," for n in range(1, 60)]
    path = tmp_path / "SMSSpamCollection.csv"
    path.write_text('ham,"Go until jurong point, crazy..",,,' + stray + "\n" + lines(rows))
    assert len(load_rows(path)) == 60


def test_tables_beside_other_texts_are_no_labels(tmp_path: Path) -> None:
    """As three tables of reviews beside a list of words: one must be named."""
    files = {f"{name}_labelled.txt": TABS for name in ("amazon", "imdb", "yelp")}
    put(tmp_path, {**files, "sentiment2.txt": "so\nwow\nyes\n"})
    with pytest.raises(InputError, match="has several tables; name one of amazon_labelled"):
        load_rows(tmp_path)


def test_what_was_unpacked_into_a_folder_of_its_own_is_found(tmp_path: Path) -> None:
    """As ``data/rt-polaritydata/rt-polarity.pos``; a folder of one label is told as such."""
    files = {f"a/b/rt.{name}": lines(TEXTS) for name in ("pos", "neg")}
    assert {row.label for row in load_rows(put(tmp_path / "deep", files))} == {"pos", "neg"}
    put(tmp_path / "one", {"spam/1.txt": "win now", "spam/2.txt": "win more"})
    assert {row.label for row in load_rows(tmp_path / "one")} == {"spam"}


def test_apostrophes_around_cells_are_quotes(tmp_path: Path) -> None:
    """As in the ten thousand German news articles; within and without them they are letters."""
    rows = [f"{('Sport', 'Web')[n % 2]};Satz {n} sagt \"nichts\" an 'Tagen'" for n in range(1, 60)]
    quoted = "Web;'Es ist''s; und \"mehr\"'"
    path = tmp_path / "test.csv"
    path.write_text(lines([*rows, quoted]))
    found = load_rows(path)
    assert found[0].text == "Satz 1 sagt \"nichts\" an 'Tagen'"
    assert (found[-1].text, found[-1].label) == ('Es ist\'s; und "mehr"', "Web")
    path.write_text(lines(rows))
    assert load_rows(path)[0].text == "Satz 1 sagt \"nichts\" an 'Tagen'"
