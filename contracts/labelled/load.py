"""Labelled rows out of tables. Every cell is hostile until checked.

A row that cannot be used is left out and remembered with its place; a file whose rows are mostly
such is refused, for then the wrong columns were read.
"""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from contracts import limits
from contracts.errors import InputError
from contracts.labelled.columns import LISTS, Columns, check_kinds, choose, guess
from contracts.labelled.folders import TO_LEARN
from contracts.labelled.rows import ERRORS, Log, Problem, Record, Row, places, told
from contracts.labelled.several import Several, joined, labels_of, mark, marks_of, separator_of
from contracts.labelled.tables import records

_HEAD: Final = 50_000
_SAMPLE: Final = 1000
"""Rows, of the first so many, that are looked at where names do not tell which column is which.

They lie apart: a table may be sorted by its labels."""

_LEAST_SEVERAL: Final = 0.05
"""Share of rows with more than one label from which a table is taken for one of several."""


class Table(msgspec.Struct, frozen=True):
    """What was read.

    Attributes:
        rows: that can be used.
        columns: that they were read from, as the table spells them.
        several: where their labels stood, if a text may have several.
        unlabelled: texts of rows without a label, as where labelling is under way.
    """

    rows: list[Row]
    columns: Columns
    several: Several | None = None
    unlabelled: list[str] = []


def load_rows(
    path: Path,
    *,
    text: str = "text",
    label: str = "label",
    group: str = "",
    labelled: bool = True,
    log: Log | None = None,
    several: Several | None = None,
    splits: tuple[str, ...] = TO_LEARN,
) -> list[Row]:
    """The rows of :func:`load_table`."""
    table = load_table(
        path,
        text=text,
        label=label,
        group=group,
        labelled=labelled,
        log=log,
        several=several,
        splits=splits,
    )
    return table.rows


def load_table(
    path: Path,
    *,
    text: str = "text",
    label: str = "label",
    group: str = "",
    labelled: bool = True,
    log: Log | None = None,
    several: Several | None = None,
    splits: tuple[str, ...] = TO_LEARN,
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
        several: a text may have several labels, which stand so; they are in ``labels`` of a row,
            and its ``label`` is empty. None: it has one.
        splits: of a folder with several, the first of these that there is.

    Raises:
        InputError: ``no-such-file``, ``bad-data`` with the place, ``too-large``.
        UnavailableError: a library for the kind of file is missing.
    """
    log = log if log is not None else Log()
    known, before = len(log.problems), log.left_out
    found = records(path, log, splits)
    head = list(itertools.islice(found, _HEAD))
    if not head:
        raise InputError("bad-data", f"{path} has no row that can be used{_why(log, known)}")
    names = list(dict.fromkeys(str(n) for _, row in head for n in row if n not in (None, "")))
    cells = [row for _, row in head[:: max(1, len(head) // _SAMPLE)]]
    marks: tuple[str, ...] = ()
    if several is not None:
        marks = _marks(names, cells, several, label, group, str(path))
    wanted = Columns(text, label, group)
    columns = choose(names, cells, wanted, f"{path}", labelled and not marks, log)
    _check_places(cells, columns.label, f"{path}")
    bare = msgspec.structs.replace(columns, label="")
    rows: list[Row] = []
    unlabelled: list[Row] = []
    every = itertools.chain(head, found)
    for record in itertools.chain.from_iterable(_apart(one, columns) for one in every):
        try:
            if columns.label and _is_blank(record[1].get(columns.label)):
                unlabelled.append(_row(record, bare))
            else:
                rows.append(_row(record, columns, marks, listed=several is not None))
        except ValueError as error:
            log.problem(path.name, record[0], str(error))
    left_out = log.left_out - before
    if not rows:
        why = f": in none of {len(unlabelled)} rows {columns.label!r} has a label"
        raise InputError(
            "bad-data",
            f"{path} has no row that can be used{why if unlabelled else _why(log, known)}",
        )
    if left_out > len(rows):
        raise InputError(
            "bad-data",
            f"{path}: {left_out} of {left_out + len(rows)} rows cannot be used{_why(log, known)}; "
            f"are {columns.text!r} and {columns.label!r} its columns?",
        )
    if left_out:
        own: list[Problem] = log.problems[known:]
        log.note(f"{left_out} rows of {path.name} were left out: {', '.join(told(own))}")
    if unlabelled:
        log.note(
            f"{len(unlabelled)} of {len(unlabelled) + len(rows)} rows of {path.name} have no label "
            f"in {columns.label!r} ({places([row.place for row in unlabelled])})"
        )
    for row in unlabelled:
        log.problem(path.name, row.place, f"no {columns.label!r}")
    more = [row.text for row in unlabelled]
    if several is not None and labelled:
        separator = ""
        if not marks:
            separator = several.separator or _separator(path, rows, several.known, log)
            rows = _split(path, rows, separator, log)
        return Table(rows, columns, Several(marks, separator, several.known), more)
    if columns.label:
        check_kinds((row.label for row in rows), columns.label, f"{path}")
        _say_joined(path, rows, log)
    return Table(rows, columns, unlabelled=more)


def several_in(path: Path, text: str = "text", label: str = "label") -> Several | None:
    """Where a table gives texts several labels, if it looks as if it did.

    A few joined cells among many may be names: of the rows a twentieth must have several labels.

    Raises:
        InputError, UnavailableError: as :func:`load_table`.
    """
    try:
        table = load_table(path, text=text, label=label, log=Log(), several=Several())
    except InputError as error:
        if error.code != "bad-data":
            raise
        return None  # whoever reads it as a table of one label says what is wrong
    found = table.several
    if found is None or not (found.columns or found.separator or _lists(table.rows)):
        return None
    more = sum(len(row.labels) > 1 for row in table.rows)
    return found if more >= max(1, len(table.rows) * _LEAST_SEVERAL) else None


def _lists(rows: list[Row]) -> bool:
    return any(len(row.labels) > 1 for row in rows)


def _marks(
    names: list[str],
    sample: list[dict[str, Any]],
    several: Several,
    label: str,
    group: str,
    where: str,
) -> tuple[str, ...]:
    """The columns of 0 and 1 that are meant; none: the labels stand in one cell."""
    if several.columns:
        missing = [name for name in several.columns if name not in names]
        if missing:
            raise InputError("bad-data", f"{where}: no column {missing[0][:60]!r} of a label")
        return several.columns
    if several.known:
        own = [name for name in names if name in several.known]
        return tuple(own) if len(own) > 1 else ()
    if label != "label" or guess(names) is not None:
        return ()
    return marks_of([name for name in names if name != group], sample)


def _separator(path: Path, rows: list[Row], known: frozenset[str], log: Log) -> str:
    found = separator_of((row.label for row in rows if row.label), known)
    if found:
        log.note(f"{path.name}: labels in one cell are joined by {found!r}")
    return found


def _split(path: Path, rows: list[Row], separator: str, log: Log) -> list[Row]:
    """Rows with the labels of their cells apart."""
    kept = []
    for row in rows:
        try:
            labels = labels_of(row.label, separator) if row.label else row.labels
        except ValueError as error:
            log.problem(path.name, row.place, str(error))
            continue
        kept.append(msgspec.structs.replace(row, label="", labels=labels))
    return kept


def _say_joined(path: Path, rows: list[Row], log: Log) -> None:
    found = joined(row.label for row in rows)
    if found is not None:
        log.note(
            f"{path.name}: {found.rows} rows seem to have several labels, joined by "
            f"{found.separator!r}, for example {found.example[:60]!r}; a text has one label, so "
            f"each of the {found.cells} combinations is a label of its own; if that is not "
            "meant, let a text have several: labels: several below data in the recipe"
        )


def _check_places(sample: list[dict[str, Any]], label: str, where: str) -> None:
    """Raises ``InputError`` where a place in a list of 0 and 1 stands for a label."""
    lists = [row[label] for row in sample if isinstance(row.get(label), list)]
    sizes = {len(one) for one in lists}
    if len(sizes) == 1 and min(sizes) > 1 and all({0, 1}.issuperset(_hashable(x)) for x in lists):
        raise InputError(
            "bad-data",
            f"{where}: {label!r} holds lists of 0 and 1, in which a place stands for a label, and "
            "not the labels' names: write those of each text, or a column for each label",
        )


def _hashable(values: list[Any]) -> set[Any]:
    return {value if isinstance(value, (int, float)) else str(value) for value in values}


def _apart(record: Record, columns: Columns) -> Iterator[Record]:
    """A record for each text of a list of them, where the column's name says that it holds some."""
    place, cells = record
    texts = cells.get(columns.text)
    if columns.text.casefold().rpartition(".")[2] in LISTS and isinstance(texts, list):
        for text in texts:
            yield place, {**cells, columns.text: text}
    else:
        yield record


def _why(log: Log, known: int) -> str:
    reasons = ", ".join(told(log.problems[known:]))
    return f": {reasons}" if reasons else ""


def _row(
    record: Record, columns: Columns, marks: tuple[str, ...] = (), *, listed: bool = False
) -> Row:
    """One row.

    Args:
        record: its place and cells.
        columns: of its text, label and group.
        marks: columns of 0 and 1, one for each label.
        listed: a cell may hold a list of labels, and what is joined may be long.

    Raises:
        ValueError: what is wrong with it.
    """
    place, cells = record
    if None in cells:
        raise ValueError("more cells than the header")
    text = _cell(cells, columns.text, whole=True)
    label, labels = "", tuple(sorted(name for name in marks if mark(cells.get(name))))
    value = cells.get(columns.label)
    if listed and isinstance(value, list):
        labels = tuple(sorted({" ".join(_cell({"": one}, "").split()) for one in value}))
        if any(len(one) > limits.MAX_LABEL_CHARS for one in labels):
            raise ValueError(f"a label has at most {limits.MAX_LABEL_CHARS} characters")
    elif columns.label:
        label = " ".join(_cell(cells, columns.label).split())
    group = _cell(cells, columns.group) if columns.group else ""
    if len(text.encode("utf-8", "replace")) > limits.MAX_TEXT_BYTES:
        raise ValueError(f"the text has more than {limits.MAX_TEXT_BYTES} bytes")
    if len(label) > limits.MAX_LABEL_CHARS and not listed:
        raise ValueError(f"a label has at most {limits.MAX_LABEL_CHARS} characters")
    return Row(text, label, group, place, labels)


def _is_blank(value: Any) -> bool:
    """Whether a cell holds nothing, or what data frames write for that."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and value.strip() in ("", "nan", "NaN"))


def _cell(cells: dict[str, Any], column: str, *, whole: bool = False) -> str:
    """A cell's text, composed (NFC) and without blanks around it."""
    value = cells.get(column)
    if value is None:
        raise ValueError(f"no {column!r}")
    if not isinstance(value, str):
        if hasattr(value, "why"):
            raise ValueError(f"{column!r} holds {value.why}")
        if isinstance(value, list):
            if whole:
                raise ValueError(f"{column!r} is a list; a text is one string")
            if not value:
                raise ValueError(f"{column!r} is empty")
            if len(value) != 1 or isinstance(value[0], list):
                raise ValueError(f"{column!r} is a list; one label a text")
            return _cell({column: value[0]}, column)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # a data frame with an empty cell makes floats of its numbers
        if whole or not isinstance(value, (int, float)):  # four stars and a half
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
