"""What annotation tools and models say beside a text: the label is what a person said.

Each shape is that of a public export.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import InputError
from contracts.labelled.load import load_rows, load_table, several_in
from tests.model_builder.test_strangers_documents import PAIRS, pairs


def lines(path: Path, rows: list[Any]) -> Path:
    """A .jsonl file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answer(value: str, status: str = "submitted") -> dict[str, str]:
    """Of a person, to a question of Argilla."""
    return {"value": value, "user_id": "u1", "status": status}


ROWS = {
    "argilla": [
        {
            "id": "1",
            "status": "completed",
            "fields": {"text": text},
            "suggestions": {"kind": {"value": "leave", "score": 0.9, "agent": "m"}},
            "responses": {"kind": [answer("leave", "draft"), answer(label)]},
            "metadata": {},
        }
        for text, label in PAIRS
    ],
    "argilla-on-the-hub": [
        {
            "text": text,
            "kind.responses": [label],
            "kind.responses.users": ["u1"],
            "kind.responses.status": ["submitted"],
            "kind.suggestion": "leave",
            "kind.suggestion.score": 0.9,
        }
        for text, label in PAIRS
    ],
    "argilla-1": [
        {
            "text": text,
            "inputs": {"text": text},
            "prediction": [{"label": "leave", "score": 0.8}],
            "annotation": label,
            "annotation_agent": "me",
            "status": "Validated",
        }
        for text, label in PAIRS
    ],
    "chats": [
        {
            "messages": [
                {"role": "system", "content": "Say what is meant."},
                {"role": "user", "content": text},
                {"role": "assistant", "content": label},
            ]
        }
        for text, label in PAIRS
    ],
    "labelled chats": [
        {
            "messages": [
                {"role": "user", "content": text},
                {"role": "assistant", "content": f"I see, {text}."},
            ],
            "intent": label,
        }
        for text, label in PAIRS
    ],
    "predicted": [
        {"text": text, "given_label": label, "predicted_label": "leave" if n % 2 else "greet"}
        for n, (text, label) in enumerate(PAIRS)
    ],
}


@pytest.mark.parametrize("name", ROWS)
def test_what_people_said_is_the_label_and_not_what_a_model_said(name: str, tmp_path: Path) -> None:
    """Suggestions, predictions and drafts stand beside it."""
    assert pairs(lines(tmp_path / "a.jsonl", ROWS[name])) == PAIRS


def test_what_nobody_answered_has_no_label(tmp_path: Path) -> None:
    """A record of Argilla that is pending is text for the teacher."""
    pending = {"fields": {"text": "later"}, "responses": {"kind": [answer("greet", "draft")]}}
    table = load_table(lines(tmp_path / "a.jsonl", [*ROWS["argilla"], pending]))
    assert len(table.rows) == len(PAIRS)
    assert table.unlabelled == ["later"]


def test_texts_beside_their_categories_are_read(tmp_path: Path) -> None:
    """As spaCy's training data was before its own format."""
    kinds = ("greet", "leave")
    rows = [
        [text, {"cats": {kind: float(kind == label) for kind in kinds}}] for text, label in PAIRS
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    assert pairs(path) == PAIRS


def test_several_labels_of_fasttext_are_read(tmp_path: Path) -> None:
    """As in its tutorial; a line may have one."""
    path = tmp_path / "a.txt"
    path.write_text(
        "".join(f"__label__{label} __label__short {text}\n" for text, label in PAIRS)
        + "__label__greet good evening\n"
    )
    several = several_in(path)
    assert several is not None
    rows = load_table(path, several=several).rows
    assert rows[0].labels == ("greet", "short")
    assert rows[0].text == PAIRS[0][0]
    assert rows[-1].labels == ("greet",)


def test_places_in_a_list_are_no_labels(tmp_path: Path) -> None:
    """Learned as they stand, each text would have the labels 0 and 1."""
    rows = [{"text": text, "labels": [int(label == "greet"), 0, 1]} for text, label in PAIRS]
    path = lines(tmp_path / "a.jsonl", rows)
    assert several_in(path) is None
    with pytest.raises(InputError, match="lists of 0 and 1, in which a place stands for a label"):
        load_rows(path)


def test_numbers_of_labels_may_be_floats(tmp_path: Path) -> None:
    """A data frame makes them of a column with an empty cell."""
    path = lines(tmp_path / "a.jsonl", [{"text": f"t{n}", "label": float(n % 3)} for n in range(9)])
    assert {row.label for row in load_rows(path)} == {"0", "1", "2"}
