"""Labelled rows out of tables. Every cell is hostile until checked.

A row that cannot be used is left out and counted, with its place; a file whose rows are mostly
such is refused, for then the wrong columns were read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from contracts import limits
from contracts.errors import InputError
from model_builder.data.rows import Row
from model_builder.data.tables import MAX_LINE_BYTES as MAX_LINE_BYTES
from model_builder.data.tables import Record, records

_TEXTS: Final = (
    *("text", "sentence", "utterance", "message", "query", "question", "comment", "review"),
    *("content", "phrase", "body", "input", "title", "sms", "tweet"),
)
_LABELS: Final = (
    *("label", "category", "intent", "class", "target", "tag", "topic", "sentiment", "labels"),
    *("categories", "type", "output", "y"),
)
_TOLD: Final = 5
"""Places that a summary names; the rest is a count."""


class Columns(msgspec.Struct, frozen=True):
    """Which columns of a table are meant; `group` may be empty."""

    text: str = "text"
    label: str = "label"
    group: str = ""


def load_rows(
    path: Path,
    *,
    text: str = "text",
    label: str = "label",
    group: str = "",
    labelled: bool = True,
    note: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Reads a data file by its suffix.

    Args:
        path: ``.jsonl``, ``.csv``, ``.tsv``, ``.xlsx`` or ``.parquet``, with column names.
        text: column of the text. The default stands for the usual names too.
        label: column of the label; likewise.
        group: column of the group; empty: none.
        labelled: labels are needed; otherwise they are not read.
        note: is told in words what was assumed, and what was left out.

    Raises:
        InputError: ``no-such-file``, ``bad-data`` with the place, ``too-large``.
    """
    rows: list[Row] = []
    left_out: list[str] = []
    columns: Columns | None = None
    for where, record in records(path, note):
        if columns is None:
            names = [str(name) for name in record if name is not None]
            columns = _columns(names, Columns(text, label, group), f"{path}", labelled, note)
        try:
            rows.append(_row((where, record), columns))
        except InputError as error:
            left_out.append(str(error))
    if not rows:
        why = f": {left_out[0]}" if left_out else ""
        raise InputError("bad-data", f"{path} has no row that can be used{why}")
    if len(left_out) > len(rows):
        raise InputError(
            "bad-data",
            f"{path}: {len(left_out)} of {len(left_out) + len(rows)} rows cannot be used, "
            f"for example {'; '.join(left_out[:_TOLD])}; are {columns} its columns?",
        )
    if left_out:
        more = "" if len(left_out) <= _TOLD else f" and {len(left_out) - _TOLD} more"
        note(
            f"{len(left_out)} rows of {path.name} were left out: "
            f"{'; '.join(left_out[:_TOLD])}{more}"
        )
    return rows


def guess(names: list[str]) -> Columns | None:
    """The columns of text and label by their usual names, or by being the only two."""
    folded = {name.casefold().strip(): name for name in names}
    text = next((folded[name] for name in _TEXTS if name in folded), None)
    label = next((folded[name] for name in _LABELS if name in folded), None)
    if len(names) == 2 and (text is None) != (label is None):
        other = next(name for name in names if name not in (text, label))
        text, label = (text or other), (label or other)
    return None if text is None or label is None else Columns(text, label)


def _columns(
    names: list[str],
    wanted: Columns,
    where: str,
    labelled: bool,
    note: Callable[[str], None],
) -> Columns:
    """The columns as the table spells them; the default names stand for the usual ones."""
    folded = {name.casefold().strip(): name for name in names}
    guessed = guess(names)
    found = {}
    for field, usual in (("text", "text"), ("label", "label"), ("group", "")):
        asked = getattr(wanted, field)
        if not asked or (field == "label" and not labelled):
            found[field] = ""
            continue
        name = asked if asked in names else folded.get(asked.casefold().strip())
        if name is None and asked == usual:
            name = getattr(guessed, field) if guessed else None
            if name is None and field == "text" and not labelled:
                name = next((folded[n] for n in _TEXTS if n in folded), None)
            if name is not None:
                note(f"the column {name!r} was taken for the {field}")
        if name is None:
            known = ", ".join(name[:40] for name in names)
            raise InputError("bad-data", f"{where}: no {asked!r}; found {known}")
        found[field] = name
    return Columns(**found)


def _row(record: Record, columns: Columns) -> Row:
    where, cells = record
    if None in cells:
        raise InputError("bad-data", f"{where}: more cells than the header")
    values = {}
    for name in ("text", "label", "group"):
        column = getattr(columns, name)
        if not column:
            continue
        value = cells.get(column)
        if value is None:
            raise InputError("bad-data", f"{where}: no {column!r}")
        if not isinstance(value, str):
            if name == "text" or not isinstance(value, (int, bool)):
                raise InputError("bad-data", f"{where}: {column!r} is not a string")
            value = str(value)
        values[name] = value.strip()
        if name != "group" and not values[name]:
            raise InputError("bad-data", f"{where}: {column!r} is empty")
    if len(values["text"].encode("utf-8", "replace")) > limits.MAX_TEXT_BYTES:
        raise InputError(
            "too-large", f"{where}: the text has more than {limits.MAX_TEXT_BYTES} bytes"
        )
    if len(values.get("label", "")) > limits.MAX_LABEL_CHARS:
        raise InputError("bad-data", f"{where}: a label has at most {limits.MAX_LABEL_CHARS} chars")
    return Row(**values)
