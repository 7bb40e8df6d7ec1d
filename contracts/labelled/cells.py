"""Text files with cells, as records: whether the first row names columns, or none does.

Also what else is written in lines: fastText's files, a label before each text, and texts whose
labels are in a file beside them.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from contracts.errors import InputError
from contracts.labelled import delimited, parallel
from contracts.labelled.columns import NUMBER
from contracts.labelled.rows import Log, Record

_LEAST_EACH: Final = 4
"""Lines a label, on the mean, from which what stands first in lines is one."""

_BEFORE: Final = re.compile(r"[-+]?[0-9]{1,3}|[A-Z][A-Z0-9_]+(:\S+)?|[^\s:/]+:[^\s/]+")
"""A label before a text: a number, a word in capitals, or one of two parts, as ``NUM:date``."""

_MARK: Final = "__label__"
"""What fastText's files have before a label."""

_USUAL: Final = frozenset(
    (
        *("text", "sentence", "utterance", "message", "label", "category", "intent", "class"),
        *("id", "target", "tag", "topic", "sentiment", "question", "query", "type"),
    )
)


def rows_of(path: Path, log: Log) -> Iterator[Record]:
    """The rows of a text file, in whichever of these ways it is written.

    Args:
        path: of the file.
        log: is told what was assumed, and which rows are broken.

    Raises:
        InputError: ``bad-data``.
    """
    beside = None if path.suffix.lower() in (".csv", ".tsv", ".tab") else parallel.labels_of(path)
    if beside is not None:
        yield from parallel.rows_of(path, beside, log)
        return
    text = delimited.decoded(path, log)
    lines = delimited.lines_of(text)
    if sum(line.lstrip().startswith(_MARK) for line in lines[:100]) > min(50, len(lines) / 2):
        yield from _fasttext(path, lines, log)
        return
    if _labels_first(lines):
        yield from _label_and_text(path, lines, log)
        return
    usual = "," if path.suffix.lower() == ".csv" else "\t"
    dialect = _quoting(lines, delimited.sniff(lines, usual), text)
    if dialect.delimiter != usual:
        log.note(f"{path.name} has its cells apart by {dialect.delimiter!r}")
    if not dialect.quoted and '"' in text:
        log.note(f"{path.name}: quotes were taken for parts of the texts")
    names: list[str] = []
    width = 0
    try:
        for number, row in enumerate(_past_titles(path, lines, dialect, log)):
            place = f"line {row.line}"
            if row.broken:
                log.problem(path.name, place, row.broken)
            elif not any(cell.strip() for cell in row.cells):
                continue
            elif not names:
                first = [row.cells, *_sample(lines[row.line :], dialect)]
                if number or not _headless(first):
                    names, width = header(row.cells, f"{path}, {place}"), len(row.cells)
                    continue
                width = len(row.cells)
                names = [f"column {index}" for index in range(1, width + 1)]
                log.note(f"{path.name} has no header; its columns are {', '.join(names)}")
                yield place, by_column(names, row.cells)
            else:
                if any(cell.strip() for cell in row.cells[len(names) : width]):
                    log.note(f"{path.name} has columns without a name, which were not read")
                yield place, by_column(names, row.cells[: len(names)] + row.cells[width:])
    except csv.Error:
        raise InputError(
            "bad-data", f"{path}: over {delimited._MOST_BROKEN} rows have quotes that do not pair"
        ) from None


def _quoting(lines: list[str], dialect: delimited.Dialect, text: str) -> delimited.Dialect:
    """The dialect with the quotes that the whole file has.

    Apostrophes around cells are quotes where every row is whole with them and not without; and
    where rows break with quotes, and without them fewer do, they are parts of the texts.
    """
    apart = re.escape(dialect.delimiter)
    if re.search(f"(^|{apart})'[^\n]*'({apart}|\\r?$)", text, re.MULTILINE):
        single = delimited.Dialect(dialect.delimiter, quote="'")
        if not _uneven(lines, single) and _uneven(lines, dialect):
            return single
    if not dialect.quoted or '"' not in text:
        return dialect
    broken = _broken(lines, dialect)
    bare = delimited.Dialect(dialect.delimiter, quoted=False)
    return bare if broken and _uneven(lines, bare) < broken else dialect


def _broken(lines: list[str], dialect: delimited.Dialect) -> int:
    try:
        return sum(bool(row.broken) for row in delimited.rows_of(lines, dialect))
    except csv.Error:
        return len(lines)


def _uneven(lines: list[str], dialect: delimited.Dialect) -> int:
    """How many rows are broken, or not as wide as most."""
    try:
        rows = [row for row in delimited.rows_of(lines, dialect) if row.broken or any(row.cells)]
    except csv.Error:
        return len(lines)
    widths = Counter(0 if row.broken else len(row.cells) for row in rows)
    return len(rows) - max((count for width, count in widths.items() if width), default=0)


def _sample(lines: list[str], dialect: delimited.Dialect) -> list[list[str]]:
    rows = delimited.rows_of(lines[:400], dialect)
    return [row.cells for row in rows if any(cell.strip() for cell in row.cells)][:200]


def _past_titles(
    path: Path, lines: list[str], dialect: delimited.Dialect, log: Log
) -> Iterator[delimited.Cells]:
    """The rows without the lines before the header that hold one cell, as a title does."""
    widths = Counter(len(cells) for cells in _sample(lines, dialect))
    wide = bool(widths) and widths.most_common(1)[0][0] > 1
    begun = False
    for row in delimited.rows_of(lines, dialect):
        if wide and not begun and not row.broken:
            filled = sum(bool(cell.strip()) for cell in row.cells)
            if filled == 1:
                log.note(f"{path.name}, line {row.line}: taken for a title")
                continue
            begun = filled > 1
        yield row


def _headless(rows: list[list[str]]) -> bool:
    """Whether the first row is data: one of its cells stands again below it in its column.

    A name of a column does not, unless it is also a value of it, and then the columns of texts and
    of few values tell; and what is called ``text`` or ``label`` is a name. A number above nothing
    but numbers is data too. A row that counts the columns has pandas' names of them.
    """
    first, rest = rows[0], rows[1:]
    if any(cell.strip().casefold() in _USUAL for cell in first) or not rest:
        return False
    counted = [cell for cell in first if cell.strip()]
    if counted in ([str(n + start) for n in range(len(counted))] for start in (0, 1)):
        return False
    again = names = 0
    for column, cell in enumerate(first):
        below = [row[column] for row in rest if column < len(row) and row[column].strip()]
        if not cell.strip() or not below:
            continue
        if NUMBER.fullmatch(cell) and all(map(NUMBER.fullmatch, below)):
            return True
        if cell in below:
            again += 1
        elif len(set(below)) * _LEAST_EACH <= len(below) or _is_named(cell, below):
            names += 1
    return 0 < again >= names


def _is_named(cell: str, below: list[str]) -> bool:
    """Whether a cell is one word above texts of many."""
    words = sum(len(text.split()) for text in below)
    return len(cell.split()) == 1 and words > _LEAST_EACH * len(below)


def _labels_first(lines: list[str]) -> bool:
    """Whether each line is a label, a blank, and a text, as research corpora are written.

    The labels look like labels, they are few, and the first line has one: there is no header.
    """
    sample = [line.strip().partition(" ") for line in lines if line.strip()]
    labels = Counter(label for label, _, text in sample if text and _BEFORE.fullmatch(label))
    if len(sample) < 2 * _LEAST_EACH or sample[0][0] not in labels:
        return False
    whole = sum(labels.values()) >= 0.98 * len(sample)
    return whole and 2 <= len(labels) <= len(sample) / _LEAST_EACH


def _label_and_text(path: Path, lines: list[str], log: Log) -> Iterator[Record]:
    log.note(f"{path.name} was read as a label, a blank, and a text in each line")
    for number, line in enumerate(lines, 1):
        label, _, text = line.strip().partition(" ")
        if label:
            yield f"line {number}", {"text": text, "label": label}


def _fasttext(path: Path, lines: list[str], log: Log) -> Iterator[Record]:
    log.note(f"{path.name} was read as fastText's format: {_MARK}LABEL TEXT")
    for number, line in enumerate(lines, 1):
        words = line.split()
        labels = [word for word in words if word.startswith(_MARK)]
        if not words:
            continue
        if not labels:
            log.problem(path.name, f"line {number}", "no labels")
            continue
        names = [label[len(_MARK) :] for label in labels]
        text = " ".join(word for word in words if not word.startswith(_MARK))
        yield f"line {number}", {"text": text, "label": names if len(names) > 1 else names[0]}


def header(cells: list[Any], where: str) -> list[str]:
    """Column names without the blanks around them; later ones of one name are no columns.

    Raises:
        InputError: ``bad-data``; a name stands twice.
    """
    names = ["" if cell is None else " ".join(str(cell).split()) for cell in cells]
    while names and not names[-1]:
        names.pop()
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise InputError("bad-data", f"{where}: the column {twice[:60]!r} is there twice")
    return names


def by_column(names: list[str], cells: list[Any]) -> dict[str, Any]:
    """A row by the names of its columns; cells beyond the header are under None."""
    record: dict[Any, Any] = dict(zip(names, cells, strict=False))
    record.update(dict.fromkeys(names[len(cells) :]))
    extra = [cell for cell in cells[len(names) :] if cell not in (None, "")]
    if extra:
        record[None] = extra
    return record
