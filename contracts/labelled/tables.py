"""Tables that people bring, as records: which cells, under which column names.

What cannot be used is a problem with its place; what makes the whole file useless is one error
that says what to do.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from contracts import codec, files, limits
from contracts.errors import InputError
from contracts.labelled import arrow, delimited, folders
from contracts.labelled.columns import NUMBER
from contracts.labelled.documents import cells_of, intents_in, intents_of, judged, rows_in
from contracts.labelled.rows import Log, Record

MAX_FILE_BYTES: Final = 2 * 1024 * limits.MIB
MAX_LINE_BYTES: Final = 16 * limits.MIB
"""One line of JSONL. A text is far smaller, a row with other columns may be long."""

SUFFIXES: Final = (
    *(".csv", ".tsv", ".tab", ".txt", ".xlsx", ".xlsm"),
    *(".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather"),
)
_ALSO: Final = (".yaml", ".yml", ".md")
"""Of a chat bot's intents; most files of these names are something else."""

_ELSE: Final = {
    ".xls": "open it in a spreadsheet program and save it as .xlsx",
    ".ods": "open it in a spreadsheet program and save it as .xlsx",
    ".numbers": "export it as .csv",
    ".sqlite": "export its table as .csv",
    ".db": "export its table as .csv",
    ".html": "open it in a spreadsheet program and save it as .xlsx",
    ".gz": "unpack it first",
    ".zip": "unpack it first",
    ".pdf": "copy its table into a spreadsheet",
    ".docx": "copy its table into a spreadsheet",
}
_LEAST_EACH: Final = 4
"""Lines a label, on the mean, from which what stands first in lines is one."""

_BEFORE: Final = re.compile(r"[-+]?[0-9]{1,3}|[A-Z][A-Z0-9_]+(:\S+)?|[^\s:/]+:[^\s/]+")
"""A label before a text: a number, a word in capitals, or one of two parts, as ``NUM:date``."""

_BEGINNINGS: Final = (
    (b"PK\x03\x04", (".xlsx", ".xlsm"), "a workbook or an archive; name it .xlsx, or unpack it"),
    (b"PAR1", (".parquet",), "Parquet; name it .parquet"),
    (b"\x1f\x8b", (), "packed by gzip; unpack it first"),
    (b"version https://git-lfs", (), "a pointer of Git LFS; fetch the file itself: git lfs pull"),
    (b"<!doctype html", (), "a web page, as when a download asks to sign in; fetch the file again"),
    (b"<html", (), "a web page, as when a download asks to sign in; fetch the file again"),
)
"""How files begin that are something else than their names say: under which names that is right."""

_DOCUMENT: Final = re.compile(r"^---\s*$", re.MULTILINE)
_SAVE: Final = "write a table, as .csv or .jsonl"

_MARK: Final = "__label__"
"""What fastText's files have before a label."""

_USUAL: Final = frozenset(
    (
        *("text", "sentence", "utterance", "message", "label", "category", "intent", "class"),
        *("id", "target", "tag", "topic", "sentiment", "question", "query", "type"),
    )
)


def is_table(path: Path) -> bool:
    """Whether a path names data, by its suffix, or by being a folder."""
    if path.suffix.lower() in (".yaml", ".yml"):
        return path.is_file() and bool(_intents(path))
    return path.suffix.lower() in (*SUFFIXES, ".md") or path.is_dir()


def records(path: Path, log: Log) -> Iterator[Record]:
    """The rows of a file, by its suffix; of a folder, the files in its folders.

    Args:
        path: one of :data:`SUFFIXES`, or a folder.
        log: is told what was assumed, and which rows are broken.

    Raises:
        InputError: ``no-such-file``, ``bad-data``, ``too-large``.
        UnavailableError: ``no-pyarrow``, ``no-openpyxl``.
    """
    if path.is_dir():
        inner = folders.tables_in(path, SUFFIXES, log)
        if inner:
            return itertools.chain.from_iterable(records(one, log) for one in inner)
        found = folders.bot(path, log) or _nlu(path, log)
        return iter(found) if found else folders.rows_of(path, SUFFIXES, log)
    suffix = path.suffix.lower()
    readers: dict[str, Callable[[Path, Log], Iterator[Record]]] = {
        ".json": _json,
        ".jsonl": _jsonl,
        ".ndjson": _jsonl,
        ".parquet": arrow.rows_of,
        ".arrow": arrow.rows_of,
        ".feather": arrow.rows_of,
        ".yaml": _yaml,
        ".yml": _yaml,
        ".md": _markdown,
        ".xlsx": _workbook,
        ".xlsm": _workbook,
    }
    reader = _delimited if suffix in (".csv", ".tsv", ".tab", ".txt") else readers.get(suffix)
    try:
        size = path.stat().st_size
    except OSError as error:
        hint = ""
        if path.parts[:1] in (("http:",), ("https:",), ("-",)):
            hint = "; expected a file: download it, or write it, first"
        raise InputError("no-such-file", f"cannot read {path}: {error.strerror}{hint}") from None
    if reader is None:
        hint = f"; {_ELSE[suffix]}" if suffix in _ELSE else ""
        raise InputError(
            "bad-data",
            f"{path}: expected a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file or a folder "
            f"with one folder a label, found {suffix!r}{hint}",
        )
    if size > MAX_FILE_BYTES:
        raise InputError("too-large", f"{path} has {size} bytes; at most {MAX_FILE_BYTES}")
    if size == 0:
        raise InputError("bad-data", f"{path} is empty")
    with path.open("rb") as stream:
        first = stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    for beginning, names, what in _BEGINNINGS:
        if suffix not in names and first[: len(beginning)].lower() == beginning.lower():
            raise InputError("bad-data", f"{path} is {what}")
    return reader(path, log)


def _jsonl(path: Path, log: Log) -> Iterator[Record]:
    return judged(_lines(path, log), path.name, log)


def _lines(path: Path, log: Log) -> Iterator[Record]:
    with path.open("rb") as stream:
        number = 0
        while raw := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            place = f"line {number}"
            if len(raw) > MAX_LINE_BYTES:
                while raw and not raw.endswith(b"\n"):  # the rest of it
                    raw = stream.readline(MAX_LINE_BYTES)
                log.problem(path.name, place, f"longer than {MAX_LINE_BYTES} bytes")
                continue
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                record = json.loads(line) if line.strip() else None
            except UnicodeDecodeError:
                log.problem(path.name, place, "not UTF-8")
                continue
            except (ValueError, RecursionError):
                log.problem(path.name, place, "not JSON")
                continue
            if isinstance(record, dict):
                yield place, cells_of(record)
            elif record is not None:
                log.problem(path.name, place, "not a JSON object")


def _json(path: Path, log: Log) -> Iterator[Record]:
    """A list of objects, or of lists of cells; JSON Lines under this name are read too."""
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        yield from _jsonl(path, log)
        return
    yield from judged(_entries(rows_in(document, path, log), path, log), path.name, log)


def _entries(rows: list[Any], path: Path, log: Log) -> Iterator[Record]:
    for number, record in enumerate(rows, 1):
        if isinstance(record, list) and [type(cell) for cell in record] == [str, dict]:
            record = {"text": record[0], **record[1]}  # as spaCy's training data was
        if isinstance(record, list):
            record = {f"column {place}": cell for place, cell in enumerate(record, 1)}
        if isinstance(record, dict):
            yield f"entry {number}", cells_of(record)
        else:
            log.problem(path.name, f"entry {number}", "not a JSON object")


def _intents(path: Path) -> list[dict[str, Any]] | None:
    """What a YAML file has of a chat bot's intents; None: it is something else."""
    try:
        text = files.read_small(path, cap=MAX_LINE_BYTES, what="the table").decode()
        parts = [part for part in _DOCUMENT.split(text) if part.strip()]
        return intents_of([codec.load_yaml(part, what=f"{path}") for part in parts])
    except (InputError, UnicodeDecodeError):
        return None


def _yaml(path: Path, log: Log) -> Iterator[Record]:
    rows = _intents(path)
    if rows is None:
        raise InputError(
            "bad-data", f"{path}: of YAML, the intents of Rasa (nlu) and of Snips are read; {_SAVE}"
        )
    log.note(f"{path.name} was read as a chat bot's intents")
    yield from ((f"example {number}", row) for number, row in enumerate(rows, 1))


def _nlu(path: Path, log: Log) -> list[Record]:
    """The intents in the YAML files of a folder, as Rasa's projects have them in ``data``."""
    found: list[Record] = []
    for item in sorted(path.glob("*.y*ml")) + sorted(path.glob("data/**/*.y*ml")):
        rows = _intents(item) or []
        if rows:
            log.note(f"{item.relative_to(path)} was read as a chat bot's intents")
        found += [(f"{item.name} example {number}", row) for number, row in enumerate(rows, 1)]
    return found


def _markdown(path: Path, log: Log) -> Iterator[Record]:
    found = False
    for record in intents_in(delimited.decoded(path, log)):
        found = True
        yield record
    if not found:
        raise InputError("bad-data", f"{path}: no items below '## intent:NAME'; {_SAVE}")
    log.note(f"{path.name} was read as a chat bot's intents")


def _delimited(path: Path, log: Log) -> Iterator[Record]:
    text = delimited.decoded(path, log)
    lines = delimited.lines_of(text)
    if sum(line.lstrip().startswith(_MARK) for line in lines[:100]) > min(50, len(lines) / 2):
        yield from _fasttext(path, lines, log)
        return
    if _labels_first(lines):
        yield from _label_and_text(path, lines, log)
        return
    usual = "," if path.suffix.lower() == ".csv" else "\t"
    dialect = delimited.sniff(lines, usual)
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

    A name of a column does not, and what is called ``text`` or ``label`` is a name. A number above
    nothing but numbers is data too. A row that counts the columns has pandas' names of them.
    """
    first, rest = rows[0], rows[1:]
    if any(cell.strip().casefold() in _USUAL for cell in first) or not rest:
        return False
    counted = [cell for cell in first if cell.strip()]
    if counted in ([str(n + start) for n in range(len(counted))] for start in (0, 1)):
        return False
    for column, cell in enumerate(first):
        below = [row[column] for row in rest if column < len(row)]
        if cell.strip() and cell in below:
            return True
        if NUMBER.fullmatch(cell) and all(map(NUMBER.fullmatch, below)):
            return True
    return False


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


def _workbook(path: Path, log: Log) -> Iterator[Record]:
    from contracts.labelled import workbook

    names: list[str] = []
    for place, cells in workbook.rows_of(path, log):
        if not names:
            names = header(cells, f"{path}, {place}")
        else:
            yield place, by_column(names, cells)
