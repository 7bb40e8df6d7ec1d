"""Tables that people bring: what encoding, what delimiter, which cells. Rows as they stand.

A spreadsheet program's export is rarely UTF-8 with commas. What can be told from the bytes is
told from them and noted; what cannot is one error that says what to do.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from contracts import limits
from contracts.errors import InputError

Record = tuple[str, dict[str, Any]]
"""Where a row stands (``line 7``), and its cells by column."""

Note = Callable[[str], None]

MAX_FILE_BYTES: Final = 2 * 1024 * limits.MIB
MAX_LINE_BYTES: Final = 1 * limits.MIB
"""One line of JSONL or CSV. A text is far smaller; a longer line is a broken file."""

MAX_SHEET_BYTES: Final = 512 * limits.MIB
"""Of a workbook's parts, unpacked: a small file that unpacks to more is an attack."""

SUFFIXES: Final = (".jsonl", ".csv", ".tsv", ".xlsx", ".parquet")

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DELIMITERS: Final = (",", ";", "\t", "|")
_OLE: Final = b"\xd0\xcf\x11\xe0"


def is_table(path: Path) -> bool:
    """Whether a path names data, by its suffix."""
    return path.suffix.lower() in SUFFIXES


def records(path: Path, note: Note) -> Iterator[Record]:
    """The rows of a file, by its suffix.

    Args:
        path: one of :data:`SUFFIXES`.
        note: is told in words what was assumed.

    Raises:
        InputError: ``no-such-file``, ``bad-data``, ``too-large``.
    """
    readers = {
        ".jsonl": _jsonl,
        ".csv": _delimited,
        ".tsv": _delimited,
        ".parquet": _parquet,
        ".xlsx": _workbook,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            "bad-data",
            f"{path}: expected a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, "
            f"found {path.suffix!r}",
        )
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError("no-such-file", f"cannot read {path}: {error.strerror}") from None
    if size > MAX_FILE_BYTES:
        raise InputError("too-large", f"{path} has {size} bytes; at most {MAX_FILE_BYTES}")
    if size == 0:
        raise InputError("bad-data", f"{path} is empty")
    return reader(path, note)


def _check_line(path: Path, number: int, raw: bytes) -> None:
    if len(raw) > MAX_LINE_BYTES:
        raise InputError("bad-data", f"{path}, line {number}: longer than {MAX_LINE_BYTES} bytes")


def _jsonl(path: Path, note: Note) -> Iterator[Record]:
    del note  # JSON is UTF-8
    with path.open("rb") as stream:
        number = 0
        while raw := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            _check_line(path, number, raw)
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    "bad-data",
                    f"{path}, line {number}: not UTF-8 at byte {error.start}; "
                    "convert the file, for example with iconv",
                ) from None
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError("bad-data", f"{path}, line {number}: not JSON: {error}") from None
            if not isinstance(record, dict):
                raise InputError("bad-data", f"{path}, line {number}: expected a JSON object")
            yield f"line {number}", record


def decoded(path: Path, note: Note) -> str:
    """A text file in whatever of the usual encodings it is.

    Raises:
        InputError: ``bad-data``; it is none of them, or no text.
    """
    with path.open("rb") as stream:
        number, size = 0, 0
        parts = []
        while raw := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            _check_line(path, number, raw)
            parts.append(raw)
            size += len(raw)
    data = b"".join(parts)
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    if not encoding:
        # Without its mark, UTF-16 shows by the zeros of its Latin letters.
        head = data[:4096]
        if head[1::2].count(0) > len(head) // 4:
            encoding = "utf-16-le"
        elif head[0::2].count(0) > len(head) // 4:
            encoding = "utf-16-be"
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if encoding:
            raise InputError(
                "bad-data", f"{path} begins as {encoding} and is not at byte {error.start}"
            ) from None
        encoding = "cp1252"
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            raise InputError(
                "bad-data",
                f"{path}: not UTF-8 at byte {error.start}, nor cp1252; convert the file, "
                "for example with iconv",
            ) from None
    if encoding and encoding != "utf-8-sig":
        note(f"{path.name} was read as {encoding}")
    if "\0" in text:
        raise InputError("bad-data", f"{path}: holds a NUL character; it is no text file")
    return text


def delimiter(text: str) -> str:
    """What separates the cells: the candidate that cuts the first lines into most equal parts."""
    sample = text[: 64 * 1024]
    best, found = (0, 0.0), ","
    for candidate in _DELIMITERS:
        try:
            rows = [row for row in csv.reader(io.StringIO(sample), delimiter=candidate) if row]
        except csv.Error:
            continue
        rows = rows[: max(1, min(50, len(rows) - 1))]  # the last may be cut off
        width = len(rows[0]) if rows else 0
        if width < 2:
            continue
        equal = sum(len(row) == width for row in rows) / len(rows)
        if (round(equal * 10), equal) > best:
            best, found = (round(equal * 10), equal), candidate
    return found


def _delimited(path: Path, note: Note) -> Iterator[Record]:
    text = decoded(path, note)
    mark = "\t" if path.suffix.lower() == ".tsv" else delimiter(text)
    if mark != "," and path.suffix.lower() == ".csv":
        note(f"{path.name} has its cells apart by {mark!r}")
    reader = csv.reader(io.StringIO(text), delimiter=mark, strict=True)
    names: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = header(cells, f"{path}, line {reader.line_num}")
                continue
            yield f"line {reader.line_num}", by_column(names, cells)
    except csv.Error as error:
        raise InputError("bad-data", f"{path}, line {reader.line_num}: {error}") from None


def header(cells: list[Any], where: str) -> list[str]:
    """Column names without the blanks around them.

    Raises:
        InputError: ``bad-data``; a name stands twice.
    """
    names = ["" if cell is None else str(cell).strip() for cell in cells]
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


def _parquet(path: Path, note: Note) -> Iterator[Record]:
    del note
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        table = parquet.ParquetFile(path)
        number = 0
        for batch in table.iter_batches(batch_size=4096):
            for record in batch.to_pylist():
                number += 1
                yield f"row {number}", record
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError("bad-data", f"{path} is not Parquet: {str(error)[:200]}") from None


def _workbook(path: Path, note: Note) -> Iterator[Record]:
    with path.open("rb") as stream:
        if stream.read(4) == _OLE:
            raise InputError(
                "bad-data",
                f"{path} is protected by a password, or of the format before .xlsx; "
                "open it and save it as .xlsx without a password",
            )
    from openpyxl import load_workbook

    try:
        with zipfile.ZipFile(path) as parts:
            if sum(part.file_size for part in parts.infolist()) > MAX_SHEET_BYTES:
                raise InputError("too-large", f"{path} unpacks to over {MAX_SHEET_BYTES} bytes")
        book = load_workbook(path, read_only=True, data_only=True)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - the reader raises anything on broken files
        raise InputError(
            "bad-data", f"{path} is no workbook, or damaged: {str(error)[:200]}"
        ) from None
    try:
        sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
        if not sheets:
            raise InputError("bad-data", f"{path} has no sheet that is shown")
        sheet = sheets[0]
        if len(sheets) > 1:
            note(f"{path.name} has {len(sheets)} sheets; only {sheet.title!r} was read")
        yield from _cells(path, sheet)
    finally:
        book.close()


def _cells(path: Path, sheet: Any) -> Iterator[Record]:
    names: list[str] = []
    try:
        for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
            if all(cell in (None, "") for cell in cells):
                continue
            if not names:
                names = header(list(cells), f"{path}, row {number}")
                continue
            texts = [
                cell if cell is None or isinstance(cell, str) else _as_shown(cell) for cell in cells
            ]
            yield f"row {number}", by_column(names, texts)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        raise InputError("bad-data", f"{path} is damaged: {str(error)[:200]}") from None


def _as_shown(cell: Any) -> str:
    """A number or date as text; 3.0 is a 3 that a spreadsheet stored as a float."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)
