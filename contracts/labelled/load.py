"""Labelled rows out of tables. Every cell is hostile until checked.

A row that cannot be used is left out and remembered with its place; a file whose rows are mostly
such is refused, for then the wrong columns were read.
"""

from __future__ import annotations

import itertools
import unicodedata
from pathlib import Path
from typing import Any, Final

import msgspec

from contracts import limits
from contracts.errors import InputError
from contracts.labelled.columns import Columns, choose
from contracts.labelled.rows import ERRORS, Log, Problem, Row, told
from contracts.labelled.several import joined
from contracts.labelled.tables import Record, records

_SAMPLE: Final = 1000
"""Rows that are looked at where names do not tell which column is which."""


class Table(msgspec.Struct, frozen=True):
    """What was read.

    Attributes:
        rows: that can be used.
        columns: that they were read from, as the table spells them.
    """

    rows: list[Row]
    columns: Columns


def load_rows(
    path: Path,
    *,
    text: str = "text",
    label: str = "label",
    group: str = "",
    labelled: bool = True,
    log: Log | None = None,
) -> list[Row]:
    """The rows of :func:`load_table`."""
    table = load_table(path, text=text, label=label, group=group, labelled=labelled, log=log)
    return table.rows


def load_table(
    path: Path,
    *,
    text: str = "text",
    label: str = "label",
    group: str = "",
    labelled: bool = True,
    log: Log | None = None,
) -> Table:
    """Reads a data file by its suffix, or a folder with a folder for each label.

    Args:
        path: a table with column names, see :data:`contracts.labelled.tables.SUFFIXES`.
        text: column of the text. The default stands for the usual names, and for what the
            contents show, too.
        label: column of the label; likewise.
        group: column of the group; empty: none.
        labelled: labels are needed; otherwise they are not read.
        log: is told what was assumed, and every row that was left out.

    Raises:
        InputError: ``no-such-file``, ``bad-data`` with the place, ``too-large``.
        UnavailableError: a library for the kind of file is missing.
    """
    log = log if log is not None else Log()
    known, before = len(log.problems), log.left_out
    found = records(path, log)
    sample = list(itertools.islice(found, _SAMPLE))
    if not sample:
        raise InputError("bad-data", f"{path} has no row that can be used{_why(log, known)}")
    names = list(dict.fromkeys(str(n) for _, row in sample for n in row if n not in (None, "")))
    columns = choose(
        names, [row for _, row in sample], Columns(text, label, group), f"{path}", labelled, log
    )
    rows: list[Row] = []
    for record in itertools.chain(sample, found):
        try:
            rows.append(_row(record, columns))
        except ValueError as error:
            log.problem(path.name, record[0], str(error))
    left_out = log.left_out - before
    if not rows:
        raise InputError("bad-data", f"{path} has no row that can be used{_why(log, known)}")
    if left_out > len(rows):
        raise InputError(
            "bad-data",
            f"{path}: {left_out} of {left_out + len(rows)} rows cannot be used{_why(log, known)}; "
            f"are {columns.text!r} and {columns.label!r} its columns?",
        )
    if left_out:
        own: list[Problem] = log.problems[known:]
        log.note(f"{left_out} rows of {path.name} were left out: {', '.join(told(own))}")
    if columns.label:
        _say_joined(path, rows, log)
    return Table(rows, columns)


def _say_joined(path: Path, rows: list[Row], log: Log) -> None:
    found = joined(row.label for row in rows)
    if found is not None:
        log.note(
            f"{path.name}: {found.rows} rows seem to have several labels, joined by "
            f"{found.separator!r}, for example {found.example[:60]!r}; a text has one label, so "
            f"each of the {found.cells} combinations is a label of its own; if that is not "
            "meant, keep one label a row"
        )


def _why(log: Log, known: int) -> str:
    reasons = ", ".join(told(log.problems[known:]))
    return f": {reasons}" if reasons else ""


def _row(record: Record, columns: Columns) -> Row:
    """One row.

    Raises:
        ValueError: what is wrong with it.
    """
    place, cells = record
    if None in cells:
        raise ValueError("more cells than the header")
    text = _cell(cells, columns.text, whole=True)
    label = " ".join(_cell(cells, columns.label).split()) if columns.label else ""
    group = _cell(cells, columns.group) if columns.group else ""
    if len(text.encode("utf-8", "replace")) > limits.MAX_TEXT_BYTES:
        raise ValueError(f"the text has more than {limits.MAX_TEXT_BYTES} bytes")
    if len(label) > limits.MAX_LABEL_CHARS:
        raise ValueError(f"a label has at most {limits.MAX_LABEL_CHARS} characters")
    return Row(text, label, group, place)


def _cell(cells: dict[str, Any], column: str, *, whole: bool = False) -> str:
    """A cell's text, composed (NFC) and without blanks around it."""
    value = cells.get(column)
    if value is None:
        raise ValueError(f"no {column!r}")
    if not isinstance(value, str):
        if hasattr(value, "why"):
            raise ValueError(f"{column!r} holds {value.why}")
        if isinstance(value, list):
            if whole or len(value) != 1 or isinstance(value[0], list):
                raise ValueError(f"{column!r} is a list; one label a text")
            return _cell({column: value[0]}, column)
        if whole or not isinstance(value, (int, bool)):
            raise ValueError(f"{column!r} is not a string")
        value = str(value)
    value = value.strip()
    if not value:
        raise ValueError(f"{column!r} is empty")
    if value in ERRORS:
        raise ValueError(f"{column!r} holds the error {value}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{column!r} holds half a surrogate pair: not UTF-8") from None
    return value if value.isascii() else unicodedata.normalize("NFC", value)
