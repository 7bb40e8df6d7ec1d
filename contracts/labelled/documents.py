"""Documents of annotation tools, chat bots and data frames, as records with a text and a label.

What is known by its keys: tasks of Label Studio and Argilla, Prodigy's judged examples, chats,
spaCy's ``cats``, and how pandas writes a frame. Else the list (or object) is looked for whose
entries have a name and texts, as the exports of Alexa, Lex, Dialogflow, LUIS, Watson, Wit.ai,
Snips and nlp.js have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from contracts.errors import InputError
from contracts.labelled.columns import LISTS, guess, usual_label
from contracts.labelled.rows import Log, Record

_NAMES: Final = ("name", "displayname", "intentname", "title", "id")
"""What an entry with a list of texts calls itself, where it has no usual name of a label."""

_PIECES: Final = ("data", "parts", "text")
"""Under which an utterance has its pieces in a list: plain ones and the values of slots."""

_STRINGS: Final = ("text", "utterance", "value", "sentence", "phrase")
"""Under which an object in a list of texts has its text."""

_SPLITS: Final = frozenset(("train", "training", "test", "dev", "validation", "valid", "eval"))
_DEEPEST: Final = 8
_MOST_CELLS: Final = 200
_HALF: Final = 0.5
"""From which a category with a number counts as given."""

_ANSWERS: Final = ".responses"

_INTENT: Final = re.compile(r"\s*##\s*intent\s*:\s*(.+?)\s*$")
_HEADING: Final = re.compile(r"\s*##")
_ITEM: Final = re.compile(r"\s*[-*+]\s+(.*?)\s*$")
_ENTITY: Final = re.compile(r"\[([^\]]*)\](\([^)]*\)|\{[^}]*\})")
_SLOT: Final = re.compile(r"\[[^\]]*\]\(([^)]*)\)")
_COMMENT: Final = re.compile(r"<!--.*?-->", re.DOTALL)


def rows_in(document: Any, path: Path, log: Log) -> list[Any]:
    """The entries of a JSON document that are its rows: objects, or lists of cells.

    Raises:
        InputError: ``bad-data``; nothing in it looks like rows.
    """
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        raise InputError("bad-data", f"{path}: expected a list of objects")
    frame = _frame(document)
    if frame is not None:
        log.note(f"{path.name} was read as columns, as pandas writes them")
        return frame
    lists = [key for key, value in document.items() if isinstance(value, list) and value]
    if len(lists) > 1 and "train" in lists:
        others = ", ".join(key[:40] for key in lists if key != "train")
        log.note(f"{path.name}: other lists were not read: {others}")
        lists = ["train"]
    if len(lists) == 1 and isinstance(document[lists[0]][0], (dict, list)):
        log.note(f"{path.name}: the list {lists[0][:60]!r} was read")
        rows: list[Any] = document[lists[0]]
        return rows
    found = list(_tables(document, "", 0)) or list(_texts_by_label(document, "", 0))
    if not found:
        names = ", ".join(str(key)[:40] for key in list(document)[:8])
        raise InputError(
            "bad-data",
            f"{path}: expected a list of objects, found one object with {names}; "
            "write one object a line into a .jsonl file",
        )
    place, rows = max(found, key=lambda one: ("train" in one[0].casefold(), len(one[1])))
    log.note(f"{path.name}: {place or 'its entries'} was read")
    others = ", ".join(other for other, _ in found if other != place)
    if others:
        log.note(f"{path.name}: other lists were not read: {others[:200]}")
    return rows


def _frame(document: dict[str, Any]) -> list[Any] | None:
    """The rows of a data frame: lists or objects by column, or ``columns`` beside ``data``."""
    columns, data = document.get("columns"), document.get("data")
    if isinstance(columns, list) and isinstance(data, list) and data:
        names = [str(name) for name in columns]
        return [dict(zip(names, cells, strict=False)) for cells in data if isinstance(cells, list)]
    values = list(document.values())
    if len(values) < 2 or not all(isinstance(value, (list, dict)) and value for value in values):
        return None
    if len({len(value) for value in values}) != 1 or not isinstance(values[0], type(values[1])):
        return None
    if isinstance(values[0], dict):
        if guess(list(document)) is None or any(
            value.keys() != values[0].keys() for value in values
        ):
            return None
        cells = [list(value.values()) for value in values]
    elif all(isinstance(value, list) for value in values):
        cells = values
        plain = all(isinstance(cell, str) for value in values for cell in value)
        again = any(len(set(map(str, value))) <= len(value) / 2 for value in values)
        if guess(list(document)) is None and (plain and not again):
            return None
    else:
        return None
    return [dict(zip(document, row, strict=True)) for row in zip(*cells, strict=True)]


def _tables(value: Any, place: str, depth: int) -> Iterator[tuple[str, list[Any]]]:
    """Lists whose entries have a text and a label, wherever they lie; and objects by name."""
    if depth > _DEEPEST or not isinstance(value, (dict, list)) or not value:
        return
    if isinstance(value, list):
        if _labelled(value):
            yield place, value
        return
    inner = list(value.values())
    if all(isinstance(one, dict) for one in inner):
        if len(inner) > 1 and _labelled(inner):
            yield place, inner
            return
        if all(any(isinstance(one.get(name), list) for name in LISTS) for one in inner):
            yield place, [{**one, "intent": name} for name, one in value.items()]
            return
    for name, one in value.items():
        yield from _tables(one, f"{place}.{name}".lstrip("."), depth + 1)


def _labelled(rows: list[Any]) -> bool:
    some = [row for row in rows[:50] if isinstance(row, dict)]
    good = sum(guess(list(cells_of(row))) is not None for row in some)
    return bool(some) and 2 * good > len(some)


def _texts_by_label(value: Any, place: str, depth: int) -> Iterator[tuple[str, list[Any]]]:
    """Objects that have a list of texts for each label."""
    if depth > _DEEPEST or not isinstance(value, dict):
        return
    lists = {
        name: texts
        for name, texts in value.items()
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
    }
    others = _SPLITS.issuperset(name.casefold() for name in lists) or guess(list(lists)) is not None
    if len(lists) > 1 and not others:
        texts = [(text, name) for name, found in lists.items() for text in found]
        yield place, [{"text": text, "label": name} for text, name in texts]
        return
    for name, one in value.items():
        yield from _texts_by_label(one, f"{place}.{name}".lstrip("."), depth + 1)


def cells_of(record: dict[str, Any]) -> dict[str, Any]:
    """An object as cells: what lies deeper by dotted names, texts out of their pieces.

    A task in which nobody chose anything has none.
    """
    record = _answered(record) or _said(record) or record
    if isinstance(record.get("data"), dict) and _annotations(record) is not None:
        chosen = _choices(record)
        record = {**record["data"], **chosen} if chosen else {}
    cells = _flat(record)
    names = {name.casefold(): name for name in cells}
    cats = record.get("cats")
    if cats is not None and "label" not in names:
        cells = {name: cell for name, cell in cells.items() if not name.startswith("cats")}
        cells["label"] = (
            [name for name, share in cats.items() if _given(share)]
            if isinstance(cats, dict)
            else cats
        )
    listed = any(isinstance(cells[name], list) for key, name in names.items() if key in LISTS)
    if listed and usual_label([*cells]) is None:
        named = next((names[name] for name in _NAMES if name in names), None)
        if named is not None:
            cells["intent"] = cells[named]
    return cells


def _answered(record: dict[str, Any]) -> dict[str, Any] | None:
    """A record of Argilla: its fields, and to each question what was answered first, or nothing.

    What a model suggested is not read.
    """
    fields, answers = record.get("fields"), record.get("responses")
    if isinstance(fields, dict) and isinstance(answers, dict):
        return {**fields, **{name: _submitted(given) for name, given in answers.items()}}
    if {"annotation", "annotation_agent"} <= record.keys():
        inputs = record.get("inputs")
        texts = inputs if isinstance(inputs, dict) else {"text": record.get("text")}
        return {**texts, "label": record["annotation"]}
    asked = [name[: -len(_ANSWERS)] for name in record if name.endswith(_ANSWERS)]
    if not any(f"{name}{_ANSWERS}.status" in record for name in asked):
        return None
    about = tuple(f"{name}.{part}" for name in asked for part in ("responses", "suggestion"))
    cells = {name: value for name, value in record.items() if not name.startswith(about)}
    return {**cells, **{name: _first(record[f"{name}{_ANSWERS}"]) for name in asked}}


def _submitted(given: Any) -> Any:
    rows = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    return next((one.get("value") for one in rows if one.get("status") == "submitted"), None)


def _first(values: Any) -> Any:
    return values[0] if isinstance(values, list) and values else None


def _said(record: dict[str, Any]) -> dict[str, Any] | None:
    """A chat as its person's last turn, with the label beside the chat.

    Without one it is a line of a fine-tuning file: the last answer is the label.
    """
    turns = record.get("messages")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return None
    said = [(turn.get("role"), turn.get("content")) for turn in turns]
    beside = usual_label([name for name in record if name != "messages"])
    if beside is not None:
        text = next((content for role, content in reversed(said) if role == "user"), None)
        return {"text": text, "label": record[beside]}
    if len(said) < 2 or [role for role, _ in said[-2:]] != ["user", "assistant"]:
        return None
    return {"text": said[-2][1], "label": said[-1][1]}


def _given(share: Any) -> bool:
    return isinstance(share, (bool, int, float)) and share >= _HALF


def _flat(record: dict[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for key, value in record.items():
        name = f"{prefix}{key}" if prefix else key
        if isinstance(value, dict) and isinstance(value.get("choices"), list):
            cells[name] = _one(value["choices"])  # as Label Studio's small export has several
        elif isinstance(value, dict) and depth < 4 and len(value) <= _MOST_CELLS:
            cells.update(_flat(value, f"{name}.", depth + 1))
        elif key.casefold() in LISTS and isinstance(value, list):
            cells[name] = _texts(value) or value
        else:
            cells[name] = value
    return cells


def _texts(items: list[Any]) -> list[str]:
    """The texts of a list of objects, if each has one."""
    found = [text_of(item) for item in items if isinstance(item, dict)]
    return [text for text in found if text is not None] if None not in found else []


def text_of(item: dict[str, Any]) -> str | None:
    """The text of an object in a list of texts, put together of its pieces; None: it has none."""
    for name in _PIECES:
        pieces = item.get(name)
        if isinstance(pieces, list) and all(isinstance(piece, dict) for piece in pieces):
            return "".join(str(piece.get("text") or "") for piece in pieces)
    return next((item[name] for name in _STRINGS if isinstance(item.get(name), str)), None)


def _annotations(task: dict[str, Any]) -> list[Any] | None:
    found = task.get("annotations", task.get("completions"))
    return found if isinstance(found, list) else None


def _choices(task: dict[str, Any]) -> dict[str, Any]:
    """What the first person chose of a task of Label Studio, by the control's name."""
    for one in _annotations(task) or []:
        if not isinstance(one, dict) or one.get("was_cancelled"):
            continue
        found: dict[str, Any] = {}
        for result in one.get("result") or []:
            value, name = result.get("value"), str(result.get("from_name", "label"))
            if not isinstance(value, dict):
                continue
            if isinstance(value.get("choices"), list):
                found[name] = _one(value["choices"])
            elif isinstance(value.get("taxonomy"), list):
                paths = [path for path in value["taxonomy"] if isinstance(path, list)]
                found[name] = _one(["/".join(map(str, path)) for path in paths])
            elif "rating" in value:
                found[name] = str(value["rating"])
        if found:
            return found
    return {}


def _one(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def judged(found: Iterator[Record], file: str, log: Log) -> Iterator[Record]:
    """Records of Prodigy with the label that was chosen; those of others as they are.

    What was passed over is no row. Where one label alone was asked about, what was rejected is
    ``not LABEL``; where there are several, a rejected one tells none.
    """
    chosen = _chosen(found, file, log)
    first = next(chosen, None)
    if first is None:
        return
    if not {"_task_hash", "_input_hash"} & first[1].keys() or "answer" not in first[1]:
        yield first
        yield from chosen
        return
    rows = [first, *chosen]
    asked = {cells.get("label") for _, cells in rows if isinstance(cells.get("label"), str)}
    passed = 0
    for place, cells in rows:
        accepted = cells.get("answer") == "accept"
        if accepted and isinstance(cells.get("accept"), list):
            yield place, {**cells, "label": _one(cells["accept"])}
        elif accepted:
            yield place, cells
        elif cells.get("answer") == "reject" and len(asked) == 1 and "accept" not in cells:
            yield place, {**cells, "label": f"not {next(iter(asked))}"}
        else:
            passed += 1
    if passed:
        log.note(f"{file}: {passed} examples that were rejected or passed over were not read")


def _chosen(found: Iterator[Record], file: str, log: Log) -> Iterator[Record]:
    """Records without those in which nothing was chosen, which :func:`cells_of` left empty."""
    empty = read = 0
    for record in found:
        if record[1]:
            read += 1
            yield record
        else:
            empty += 1
    if empty and not read:
        raise InputError("bad-data", f"{file}: in none of its {empty} entries a label was chosen")
    if empty:
        log.note(f"{file}: {empty} entries without a choice were not read")


def intents_of(document: Any) -> list[dict[str, Any]] | None:
    """The rows of a YAML document of Rasa (``nlu``) or Snips (``type: intent``); None: neither."""
    documents = document if isinstance(document, list) else [document]
    rows: list[dict[str, Any]] = []
    for one in documents:
        if not isinstance(one, dict):
            return None
        if one.get("type") == "intent" and isinstance(one.get("utterances"), list):
            said = [_SLOT.sub(r"\1", text) for text in one["utterances"] if isinstance(text, str)]
            rows.append({"label": _name(one.get("name")), "texts": said})
        elif isinstance(one.get("nlu"), list):
            rows += [
                {"label": _name(item["intent"]), "texts": _examples(item)}
                for item in one["nlu"]
                if isinstance(item, dict) and "intent" in item
            ]
        elif one.get("type") != "entity":
            return None
    return [
        {"text": _plain(text), "label": row["label"]}
        for row in rows
        for text in row["texts"]
        if isinstance(text, str) and text.strip()
    ]


def _name(intent: Any) -> str:
    """YAML 1.1 takes a bare ``no`` for false."""
    return {True: "yes", False: "no"}[intent] if isinstance(intent, bool) else str(intent)


def _examples(item: dict[str, Any]) -> list[Any]:
    examples = item.get("examples")
    if isinstance(examples, list):
        return [one.get("text") if isinstance(one, dict) else one for one in examples]
    lines = str(examples or "").splitlines()
    return [match[1] for line in lines if (match := _ITEM.match(line))]


def intents_in(text: str) -> Iterator[Record]:
    """The examples of Rasa's Markdown: items below ``## intent:NAME``."""
    intent = ""
    for number, line in enumerate(_COMMENT.sub("", text).splitlines(), 1):
        if match := _INTENT.match(line):
            intent = match[1]
        elif _HEADING.match(line):
            intent = ""
        elif intent and (match := _ITEM.match(line)):
            yield f"line {number}", {"text": _plain(match[1]), "label": intent}


def _plain(text: str) -> str:
    """An example without the marks of its entities."""
    return _ENTITY.sub(r"\1", text)
