"""Labelled texts of the field in a build: learned, or kept out to judge by, never both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contracts.errors import InputError, UnavailableError
from contracts.redacted import as_said
from contracts.text import normalize
from model_builder.data import field
from model_builder.data.dataset import Dataset, prepare
from model_builder.recipes.classify import load
from tests.model_builder.support import write_recipe


def rows(path: Path, *given: tuple[str, str, str]) -> str:
    """A file as `shoal fleet samples export` writes it."""
    lines = [json.dumps({"text": t, "label": n, "part": p, "times": 1}) for t, n, p in given]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path.name


def prepared(folder: Path, *given: tuple[str, str, str], weight: int = 3) -> Dataset:
    """A build's data with rows of the field."""
    name = rows(folder / "field.jsonl", *given)
    recipe = write_recipe(folder)
    return prepare(load(recipe, [f"data.field={name}", f"data.field_weight={weight}"]))


def labels_of(data: Dataset, text: str) -> list[str]:
    """The labels under which training has a text."""
    return [
        data.labels[int(target)]
        for found, target in zip(data.train.texts, data.train.targets, strict=True)
        if normalize(found) == normalize(text)
    ]


def test_rows_of_the_field_are_learned_with_their_weight(tmp_path: Path) -> None:
    """A new label too, if it has two texts; a person's word counts before the old one."""
    plain = prepare(load(write_recipe(tmp_path)))
    known = plain.train.texts[0]
    data = prepared(
        tmp_path,
        ("illuminate the hall", "ON", "learn"),
        ("raise the blinds", "blinds", "learn"),
        ("lower the blinds", "blinds", "learn"),
        ("a single one", "lonely", "learn"),
        (known, "heat" if plain.labels[int(plain.train.targets[0])] != "heat" else "on", "learn"),
        weight=2,
    )
    assert labels_of(data, "illuminate the hall") == ["on"] * 2, "its spelling is that of training"
    assert labels_of(data, "raise the blinds") == ["blinds"] * 2
    assert "lonely" not in data.labels and any("single text" in w for w in data.report.warnings)
    (said,) = set(labels_of(data, known))
    assert said != plain.labels[int(plain.train.targets[0])]
    assert data.summary()["field"] == {
        "learned": 4, "kept_out": 0, "weight": 2, "new_labels": ["blinds"], "replaced": 1,
    }  # fmt: skip
    assert data.test.texts == plain.test.texts, "the test split is the one before"
    assert data.sha256 != plain.sha256


def test_lessons_whose_examples_are_learned_are_counted_by_label(tmp_path: Path) -> None:
    """Once each, however many examples; not those whose examples are all kept out."""
    given = [
        ("raise the blinds", "blinds", "learn", "one"),
        ("lower the blinds", "blinds", "learn", "one"),
        ("shut the blinds", "blinds", "learn", "two"),
        ("illuminate the hall", "on", "judge", "three"),
        ("illuminate the attic", "on", "learn", ""),
    ]
    lines = [
        json.dumps(dict(zip(("text", "label", "part", "lesson"), o, strict=True))) for o in given
    ]
    (tmp_path / "field.jsonl").write_text("\n".join(lines))
    data = prepare(load(write_recipe(tmp_path), ["data.field=field.jsonl"]))
    assert data.field is not None
    assert data.field["lessons"] == {"blinds": 2}


def test_what_is_kept_out_is_in_no_split_that_a_model_sees(tmp_path: Path) -> None:
    """Not among training or validation, though the recipe's own rows have it, or a file both."""
    plain = prepare(load(write_recipe(tmp_path)))
    held = [plain.train.texts[0], plain.validation.texts[0].upper() + "!"]
    data = prepared(
        tmp_path,
        *((text, "on", "judge") for text in held),
        (f"{held[0]}?", "on", "learn"),
        ("illuminate the hall", "on", "learn"),
        (plain.test.texts[0], "on", "learn"),
    )
    seen = {normalize(text) for text in (*data.train.texts, *data.validation.texts)}
    assert not seen & {normalize(text) for text in held}
    assert normalize(plain.test.texts[0]) not in {normalize(text) for text in data.train.texts}
    assert normalize("illuminate the hall") in seen


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": "a", "label": "b", "part": "both"}', "learn or judge"),
        ('{"text": " .", "label": "b"}', "empty"),
        ('{"text": "a", "label": " "}', "empty"),
        ('{"text": 3, "label": "b"}', "text"),
        ("[1]", "field.jsonl:1"),
        ("{", "field.jsonl:1"),
    ],
)
def test_a_wrong_row_is_refused_with_its_place(tmp_path: Path, line: str, says: str) -> None:
    """Whoever wrote the file."""
    path = tmp_path / "field.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InputError) as error:
        field.read(str(path), "m")
    assert says in str(error.value)


def test_a_folder_that_is_no_fleet_says_what_was_expected(tmp_path: Path) -> None:
    """The rows come from the fleet's own program."""
    with pytest.raises(UnavailableError) as error:
        field.read(str(tmp_path), "m")
    assert error.value.code == "export-failed"
    with pytest.raises(InputError):
        field.read(str(tmp_path / "none.jsonl"), "m")


def test_a_redacted_text_is_learned_as_it_may_have_been_said() -> None:
    """With some number, the same each time; a word for the rest."""
    text = "wake <name> at <number> or <number>"
    found = as_said(text)
    assert found == as_said(text)
    assert "<" not in found and "name" in found
    assert sum(word.isdigit() for word in found.split()) == 2
    assert as_said("5 < 6 <b>") == "5 < 6 <b>"
