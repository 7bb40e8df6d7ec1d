"""What annotation tools, chat bots and data frames export: read as texts with labels.

Each shape is that of a public export. Where a library writes the format, it writes it here.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from contracts.errors import InputError
from contracts.labelled.load import load_rows, load_table, several_in
from contracts.labelled.rows import Log
from contracts.labelled.tables import is_table

GREET, LEAVE = ["hello there", "hi you", "good morning"], ["bye now", "see you later", "so long"]
PAIRS = [*((text, "greet") for text in GREET), *((text, "leave") for text in LEAVE)]
INTENTS = {"greet": GREET, "leave": LEAVE}


def pairs(path: Path, log: Log | None = None) -> list[tuple[str, str]]:
    """Texts and labels of a table, sorted as :data:`PAIRS`."""
    return sorted(((row.text, row.label) for row in load_rows(path, log=log)), key=PAIRS.index)


def task(text: str, choices: list[str], **more: Any) -> dict[str, Any]:
    """One of Label Studio, of which each annotation has a result for each control."""
    value = {
        "from_name": "kind",
        "to_name": "text",
        "type": "choices",
        "value": {"choices": choices},
    }
    result = [value] if choices else []
    return {"id": 1, "annotations": [{"id": 2, "result": result, **more}], "data": {"text": text}}


def pieces(text: str) -> list[dict[str, Any]]:
    """An utterance with its last word as the value of a slot."""
    first, last = text.rsplit(" ", 1)
    return [{"text": f"{first} "}, {"text": last, "entity": "x", "slot_name": "y"}]


DOCUMENTS = {
    "alexa": {
        "interactionModel": {
            "languageModel": {
                "invocationName": "my house",
                "intents": [
                    {"name": "AMAZON.StopIntent", "samples": []},
                    *({"name": name, "slots": [], "samples": INTENTS[name]} for name in INTENTS),
                ],
                "types": [{"name": "ROOM", "values": [{"name": {"value": "kitchen"}}]}],
            }
        }
    },
    "lex": {
        "metadata": {"schemaVersion": "1.0"},
        "resource": {
            "name": "Bot",
            "intents": [{"name": name, "sampleUtterances": INTENTS[name]} for name in INTENTS],
            "slotTypes": [{"name": "s", "enumerationValues": [{"value": "a"}]}],
        },
    },
    "luis": {
        "luis_schema_version": "3.2.0",
        "intents": [{"name": name} for name in INTENTS],
        "entities": [],
        "closedLists": [{"name": "c", "subLists": [{"list": ["a"], "canonicalForm": "b"}]}],
        "utterances": [{"text": text, "intent": name, "entities": []} for text, name in PAIRS],
    },
    "clu": {
        "projectFileVersion": "2022-05-01",
        "assets": {
            "intents": [{"category": name} for name in INTENTS],
            "utterances": [
                {"text": text, "intent": name, "language": "en-us"} for text, name in PAIRS
            ],
        },
    },
    "watson": {
        "intents": [
            {"intent": name, "examples": [{"text": text} for text in INTENTS[name]]}
            for name in INTENTS
        ],
        "dialog_nodes": [{"title": "end", "type": "standard", "output": {"text": "done"}}],
        "entities": [],
    },
    "rasa": {
        "rasa_nlu_data": {
            "common_examples": [
                {"text": text, "intent": name, "entities": []} for text, name in PAIRS
            ],
            "entity_synonyms": [{"value": "x", "synonyms": ["y"]}],
        }
    },
    "snips": {
        "language": "en",
        "entities": {"x": {"data": [{"value": "a", "synonyms": []}], "use_synonyms": True}},
        "intents": {
            name: {"utterances": [{"data": pieces(text)} for text in INTENTS[name]]}
            for name in INTENTS
        },
    },
    "by label": INTENTS,
    "by label, deeper": {"version": 1, "intents": INTENTS},
    "pandas": {
        "text": {str(i): text for i, (text, _) in enumerate(PAIRS)},
        "label": {str(i): name for i, (_, name) in enumerate(PAIRS)},
    },
    "pandas, split": {
        "columns": ["text", "label"],
        "index": list(range(6)),
        "data": [list(pair) for pair in PAIRS],
    },
    "pandas, index": {
        str(i): {"text": text, "label": name} for i, (text, name) in enumerate(PAIRS)
    },
    "columns": {"text": [text for text, _ in PAIRS], "label": [name for _, name in PAIRS]},
    "nested": [{"data": {"text": text}, "meta": {"label": name}} for text, name in PAIRS],
    "label studio": [
        *(task(text, [name]) for text, name in PAIRS),
        task("nobody chose", []),
        task("taken back", ["greet"], was_cancelled=True),
    ],
    "label studio, small": [
        {"text": text, "sentiment": {"choices": [name]}, "id": 1, "annotator": 1}
        for text, name in PAIRS
    ],
    "spacy": [
        {"text": text, "cats": {one: float(one == name) for one in INTENTS}} for text, name in PAIRS
    ],
    "prodigy": [
        {"text": text, "accept": [name], "answer": "accept", "_task_hash": 1}
        for text, name in PAIRS
    ]
    + [{"text": "no idea", "accept": ["greet"], "answer": "ignore", "_task_hash": 1}],
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_exports_are_read_as_texts_with_labels(name: str, tmp_path: Path) -> None:
    """Nothing else of the document is: no entity, no synonym, no answer, nothing taken back."""
    path = tmp_path / "export.json"
    path.write_text(json.dumps(DOCUMENTS[name]))
    assert pairs(path) == PAIRS
    if isinstance(DOCUMENTS[name], list):
        path = tmp_path / "export.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in DOCUMENTS[name]))
        assert pairs(path) == PAIRS


def test_a_rejected_label_is_not_the_label(tmp_path: Path) -> None:
    """Of Prodigy's binary judgements; asked about one label, the rejected are the other."""
    path = tmp_path / "a.jsonl"

    def line(text: str, label: str, answer: str) -> str:
        row = {"text": text, "label": label, "answer": answer, "_input_hash": 1, "_task_hash": 2}
        return json.dumps(row) + "\n"

    rows = [("you fool", "accept"), ("thank you", "reject"), ("well", "ignore")]
    path.write_text("".join(line(text, "INSULT", answer) for text, answer in rows))
    found = [(row.text, row.label) for row in load_rows(path)]
    assert found == [("you fool", "INSULT"), ("thank you", "not INSULT")]
    path.write_text(path.read_text() + line("hello", "GREETING", "accept"))
    log = Log()
    assert Counter(row.label for row in load_rows(path, log=log)) == {"INSULT": 1, "GREETING": 1}
    assert any("2 examples that were rejected" in note for note in log.notes)


def test_several_chosen_labels_are_several(tmp_path: Path) -> None:
    """``cats`` with more than one, and Label Studio's choices."""
    path = tmp_path / "a.jsonl"
    one, both = {"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 1.0}
    rows = [{"text": f"number {n}", "cats": one if n % 3 else both} for n in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    several = several_in(path)
    assert several is not None
    assert load_rows(path, several=several)[0].labels == ("a", "b")


@pytest.mark.parametrize(
    "document",
    [
        [task("nobody chose", []), task("nor here", [])],
        {"name": "x", "settings": {"a": [1, 2], "b": "c"}},
        {"text": ["a", "b"], "label": ["c"]},
    ],
)
def test_a_document_without_labels_is_one_error(document: Any, tmp_path: Path) -> None:
    """It says what was found."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        load_rows(path)
    assert caught.value.code == "bad-data"


def test_where_a_row_comes_from_is_no_label(tmp_path: Path) -> None:
    """Sections and sources recur as labels do."""
    path = tmp_path / "a.jsonl"
    rows = [{"text": f"so they say {n}", "meta": {"source": "ab"[n % 2]}} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="no 'label'"):
        load_rows(path)


RASA = """\
version: "3.1"
nlu:
- intent: greet
  examples: |
    - hello there
    - hi [you](person)
    - good [morning]{"entity": "time", "role": "start"}
- lookup: city
  examples: |
    - Graz
- intent: no
  examples: |
    - bye now
"""
SNIPS = """\
---
type: intent
name: greet
utterances:
  - hello [place:place](there)
---
type: entity
name: place
values: [there]
---
type: intent
name: leave
utterances: [bye now]
"""
MARKDOWN = """\
## intent:greet
- hello there
<!-- - not this -->
- hi [you](person)
## synonym:you
- thee
## intent: leave
* bye now
"""


def test_the_intents_of_chat_bots_in_yaml_and_markdown_are_read(tmp_path: Path) -> None:
    """Without the marks of entities; a bare ``no`` is a name, though YAML has it false."""
    (tmp_path / "nlu.yml").write_text(RASA)
    assert [(row.text, row.label) for row in load_rows(tmp_path / "nlu.yml")] == [
        *((text, "greet") for text in GREET),
        ("bye now", "no"),
    ]
    (tmp_path / "snips.yaml").write_text(SNIPS)
    expected = [("hello there", "greet"), ("bye now", "leave")]
    assert [(row.text, row.label) for row in load_rows(tmp_path / "snips.yaml")] == expected
    (tmp_path / "nlu.md").write_text(MARKDOWN)
    assert len(load_rows(tmp_path / "nlu.md")) == 3
    (tmp_path / "recipe.yaml").write_text("name: a\ndata: {train: b.csv}\n")
    assert [is_table(tmp_path / name) for name in ("nlu.yml", "snips.yaml", "recipe.yaml")] == [
        *(True, True, False)
    ]
    with pytest.raises(InputError, match="the intents of Rasa"):
        load_rows(tmp_path / "recipe.yaml")


def test_a_bot_that_was_exported_to_a_folder_is_read(tmp_path: Path) -> None:
    """By the folder: its files of entities, of settings and of answers are no texts."""
    for name, texts in INTENTS.items():
        for path, document in (
            (f"es/intents/{name}.json", {"name": name}),
            (f"es/intents/{name}_usersays_en.json", [{"data": pieces(one)} for one in texts]),
            (
                f"cx/intents/{name}/trainingPhrases/en.json",
                {"trainingPhrases": [{"parts": pieces(one), "repeatCount": 1} for one in texts]},
            ),
            (
                f"lex/Bot/BotLocales/en_US/Intents/{name}/Intent.json",
                {"name": name, "sampleUtterances": [{"utterance": one} for one in texts]},
            ),
        ):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(json.dumps(document))
    (tmp_path / "es/entities").mkdir()
    (tmp_path / "es/entities/city.json").write_text('{"name": "city"}')
    (tmp_path / "rasa/data").mkdir(parents=True)
    (tmp_path / "rasa/data/nlu.yml").write_text(RASA)
    (tmp_path / "rasa/domain.yml").write_text("intents: [greet]\n")
    for folder in ("es", "cx", "lex"):
        assert pairs(tmp_path / folder) == PAIRS
    assert len(load_rows(tmp_path / "rasa")) == 4


def classified() -> pa.Table:
    """Numbers with the names that they stand for in the schema, as ``datasets`` writes them."""
    names = list(INTENTS)
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": names, "_type": "ClassLabel"},
    }
    table = pa.table(
        {"text": [text for text, _ in PAIRS], "label": [names.index(name) for _, name in PAIRS]}
    )
    return table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


def test_labels_get_the_names_that_a_data_set_has_for_their_numbers(tmp_path: Path) -> None:
    """Parquet, a folder saved to disk with one split or several, a clone of a repository."""
    table = classified()
    parquet.write_table(table, tmp_path / "a.parquet")
    for folder in ("saved", "splits/train", "splits/test"):
        (tmp_path / folder).mkdir(parents=True)
        file = tmp_path / folder / "data-00000-of-00001.arrow"
        with ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
        (tmp_path / folder / "state.json").write_text("{}")
        (tmp_path / folder / "dataset_info.json").write_text("{}")
    (tmp_path / "splits/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    (tmp_path / "hub/data").mkdir(parents=True)
    (tmp_path / "hub/README.md").write_text("---\n---\n")
    parquet.write_table(table.slice(0, 3), tmp_path / "hub/data/train-00000-of-00002.parquet")
    parquet.write_table(table.slice(3), tmp_path / "hub/data/train-00001-of-00002.parquet")
    parquet.write_table(table, tmp_path / "hub/data/test-00000-of-00001.parquet")
    for name in ("a.parquet", "saved", "splits", "hub"):
        assert pairs(tmp_path / name) == PAIRS


def test_names_of_splits_and_files_of_tables_are_no_labels(tmp_path: Path) -> None:
    """``train/LABEL/FILE`` beside ``test``; and a folder of several tables says to name one."""
    for split in ("train", "test"):
        for number, (text, name) in enumerate(PAIRS):
            file = tmp_path / "split" / split / name / f"{number}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    assert pairs(tmp_path / "split") == PAIRS
    (tmp_path / "tables").mkdir()
    table = "text,label\n" + "".join(f"{text},{name}\n" for text, name in PAIRS)
    (tmp_path / "tables/one.csv").write_text(table)
    assert load_table(tmp_path / "tables").columns.label == "label"
    (tmp_path / "tables/two.csv").write_text(table)
    with pytest.raises(InputError, match=r"name one of one\.csv, two\.csv"):
        load_rows(tmp_path / "tables")
    (tmp_path / "tables/train.csv").write_text(table)
    assert pairs(tmp_path / "tables") == PAIRS
    for name in ("settings", "entities"):
        (tmp_path / "other" / name).mkdir(parents=True)
        (tmp_path / "other" / name / "a.json").write_text("{}")
    with pytest.raises(InputError, match="a table, not a text"):
        load_rows(tmp_path / "other")


def test_a_column_of_ratings_is_told_from_dates_and_kinds(tmp_path: Path) -> None:
    """As in a table of reviews, where each of them recurs."""
    path = tmp_path / "a.tsv"
    rows = [f"{n % 5}\t{n % 9}-Jul-18\t{'ab'[n % 2]}\tsaid number {n} of it\n" for n in range(90)]
    path.write_text("rating\tdate\tvariation\tverified_reviews\n" + "".join(rows))
    log = Log()
    assert load_table(path, log=log).columns.label == "rating"
    assert any("'rating' was taken for the label" in note for note in log.notes)
