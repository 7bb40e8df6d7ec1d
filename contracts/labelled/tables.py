"""Tables that people bring, as records: which cells, under which column names.

What cannot be used is a problem with its place; what makes the whole file useless is one error
that says what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from contracts import codec, files, limits
from contracts.errors import InputError
from contracts.labelled import arrow, cells, delimited, folders
from contracts.labelled.documents import cells_of, intents_in, intents_of, judged, rows_in
from contracts.labelled.rows import Log, Record

MAX_FILE_BYTES: Final = 2 * 1024 * limits.MIB
MAX_LINE_BYTES: Final = 16 * limits.MIB
"""One line of JSONL. A text is far smaller, a row with other columns may be long."""

SUFFIXES: Final = (
    *(".csv", ".tsv", ".tab", ".txt", ".xlsx", ".xlsm"),
    *(".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather"),
)
_TEXTS: Final = (".csv", ".tsv", ".tab", ".txt")
"""Of text with cells, and of texts whose labels are in a file beside them."""

_ALSO: Final = (".yaml", ".yml", ".md")
"""Of a chat bot's intents; most files of these names are something else."""

_ELSE: Final = {
    ".xls": "open it in a spreadsheet program and save it as .xlsx",
    ".xlsb": "open it in a spreadsheet program and save it as .xlsx",
    ".ods": "open it in a spreadsheet program and save it as .xlsx",
    ".fods": "open it in a spreadsheet program and save it as .xlsx",
    ".dif": "open it in a spreadsheet program and save it as .xlsx",
    ".slk": "open it in a spreadsheet program and save it as .xlsx",
    ".numbers": "export it as .csv",
    ".sqlite": "export its table as .csv",
    ".db": "export its table as .csv",
    ".html": "open it in a spreadsheet program and save it as .xlsx",
    ".gz": "unpack it first",
    ".zip": "unpack it first",
    ".pdf": "copy its table into a spreadsheet",
    ".xml": "export its table as .csv",
    ".doc": "copy its table into a spreadsheet",
    ".rtf": "copy its table into a spreadsheet",
    ".docx": "copy its table into a spreadsheet",
}
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


def is_table(path: Path) -> bool:
    """Whether a path names data, by its suffix, or by being a folder."""
    if path.suffix.lower() in (".yaml", ".yml"):
        return path.is_file() and bool(_intents(path))
    if path.suffix.lower() in (*SUFFIXES, *_ELSE, ".md") or path.is_dir():
        return True
    return path.is_file() and not _is_settings(path)


def _is_settings(path: Path) -> bool:
    """Whether a file of an unknown name is YAML, as a recipe is."""
    try:
        text = files.read_small(path, cap=limits.MIB, what="the file").decode()
        return isinstance(codec.load_yaml(text, what=f"{path}"), dict)
    except (InputError, UnicodeDecodeError):
        return False


def records(path: Path, log: Log, splits: tuple[str, ...] = folders.TO_LEARN) -> Iterator[Record]:
    """The rows of a file, by its suffix; of a folder, the files in its folders.

    Args:
        path: one of :data:`SUFFIXES`, or a folder.
        log: is told what was assumed, and which rows are broken.
        splits: of a folder with several, the first of these that there is.

    Raises:
        InputError: ``no-such-file``, ``bad-data``, ``too-large``.
        UnavailableError: ``no-pyarrow``, ``no-openpyxl``.
    """
    if path.is_dir():
        inner = folders.tables_in(path, SUFFIXES, log, splits)
        if inner.paths:
            return _together(inner, log)
        found = folders.bot(path, log) or _nlu(path, log)
        only = path if found else folders.inner(path, log)
        if only != path:
            return records(only, log, splits)
        return iter(found) if found else folders.rows_of(path, SUFFIXES, log, splits)
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
    reader = cells.rows_of if suffix in _TEXTS else readers.get(suffix)
    try:
        size = path.stat().st_size
    except OSError as error:
        hint = ""
        if path.parts[:1] in (("http:",), ("https:",), ("-",)):
            hint = "; expected a file: download it, or write it, first"
        raise InputError("no-such-file", f"cannot read {path}: {error.strerror}{hint}") from None
    if reader is None and suffix not in _ELSE:
        reader = _unnamed(path)
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


def _together(tables: folders.Tables, log: Log) -> Iterator[Record]:
    """The rows of tables that are read as one; what is noted of the first is not said again."""
    first = tables.paths[0]
    for path in tables.paths:
        before = list(log.notes)
        for place, row in records(path, log):
            if tables.by_label:
                row = {name: cell for name, cell in row.items() if name != tables.constant}
                row["label"] = path.stem
            yield (place if len(tables.paths) == 1 else f"{path.name} {place}"), row
        log.notes[len(before) :] = [
            note
            for note in log.notes[len(before) :]
            if path is first or note.replace(path.name, first.name) not in before
        ]


def _unnamed(path: Path) -> Callable[[Path, Log], Iterator[Record]] | None:
    """How a file whose name says nothing is read, by how it begins; None: it is no text."""
    with path.open("rb") as stream:
        head = stream.read(4096)
    if any(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head):
        return None
    first = head.lstrip()[:1]
    if first == b"<":  # XML, a web page
        return None
    return _json if first in (b"{", b"[") else cells.rows_of


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


def _workbook(path: Path, log: Log) -> Iterator[Record]:
    from contracts.labelled import workbook

    names: list[str] = []
    for place, row in workbook.rows_of(path, log):
        if not names:
            names = cells.header(row, f"{path}, {place}")
        else:
            yield place, cells.by_column(names, row)
