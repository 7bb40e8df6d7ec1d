"""Text files with cells: what encoding, what delimiter, whether quotes quote, where a row breaks.

A spreadsheet program's export is rarely UTF-8 with commas. What can be told from the bytes is
told from them and noted. One broken row costs that row.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from contracts import limits
from contracts.errors import InputError
from contracts.labelled.rows import Log

MAX_CELL_CHARS: Final = 64 * limits.MIB
"""Of one cell; a text is far smaller, and other columns may hold whole documents."""

_RECORD_LINES: Final = 500
"""Lines of one row: more of them are an opening quote that nobody closed."""

_MOST_BROKEN: Final = 2000
"""Rows with quotes that do not pair, before the file is given up."""

_SAMPLE_LINES: Final = 400

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DELIMITERS: Final = (",", ";", "\t", "|")
_WESTERN: Final = 0.4
"""The share of letters beyond ASCII up to which text that is no UTF-8 is taken for cp1252."""

_ACCENTS: Final = 20
"""A byte beyond ASCII in so many, at most, and single bytes that cannot be read do no harm."""


class Cells(msgspec.Struct, frozen=True):
    """One row: the line on which it begins, and its cells; or why it is broken."""

    line: int
    cells: list[str]
    broken: str = ""


class Dialect(msgspec.Struct, frozen=True):
    """How a file writes its cells."""

    delimiter: str = ","
    quoted: bool = True
    quote: str = '"'


def decoded(path: Path, log: Log) -> str:
    """A text file in whatever of the usual encodings it is.

    Raises:
        InputError: ``bad-data``; it is none of them, or no text.
    """
    data = path.read_bytes()
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
        encoding, text = "", _not_utf8(path, data, error.start, log)
    if encoding and encoding != "utf-8-sig":
        log.note(f"{path.name} was read as {encoding}")
    if "\0" in text:
        raise InputError("bad-data", f"{path}: holds a NUL character; it is no text file")
    return text


def _not_utf8(path: Path, data: bytes, first: int, log: Log) -> str:
    """Text that is no UTF-8: UTF-8 with some lines in cp1252, or cp1252 throughout.

    What was put together of several files has lines of both.
    """
    lines = data.split(b"\n")
    strange = [line for line in lines if not line.isascii()]
    bad = sum(not _is_utf8(line) for line in strange)
    if bad < len(strange) / 2:
        log.note(f"{path.name}: {bad} lines are not UTF-8 and were read as cp1252")
        return "\n".join(
            line.decode() if _is_utf8(line) else line.decode("cp1252", "replace") for line in lines
        )
    log.note(f"{path.name} was read as cp1252")
    return _western(path, data, first, log)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _western(path: Path, data: bytes, first: int, log: Log) -> str:
    """Text as cp1252, unless its letters say that it is of another script."""
    advice = "save it as UTF-8, for example with iconv"
    text = data.decode("cp1252", "replace")
    lost = text.count("\ufffd")
    if lost:
        if sum(byte > 127 for byte in data) * _ACCENTS > len(data):
            raise InputError("bad-data", f"{path}: not UTF-8 at byte {first}, nor cp1252; {advice}")
        line = text[: text.index("\ufffd")].count("\n") + 1
        log.note(
            f"{path.name}: {lost} characters, the first in line {line}, are none of cp1252 "
            "and were read as \ufffd"
        )
    letters = [letter for letter in text[: 64 * 1024] if letter.isalpha()]
    beyond = sum(letter > "\x7f" for letter in letters)
    if letters and beyond > _WESTERN * len(letters):
        raise InputError(
            "bad-data",
            f"{path}: not UTF-8 at byte {first}, and as cp1252 {beyond} of its first "
            f"{len(letters)} letters have accents; {advice}, naming its encoding",
        )
    return text


class _Feed:
    """Lines for the CSV reader, which gives up on a row that has too many."""

    def __init__(self, lines: list[str], at: int) -> None:
        self._lines = lines
        self.at = at
        self.first = at

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if self.at >= len(self._lines):
            raise StopIteration
        if self.at - self.first >= _RECORD_LINES:
            raise csv.Error("its quotes do not pair")
        self.at += 1
        return self._lines[self.at - 1]


def rows_of(lines: list[str], dialect: Dialect) -> Iterator[Cells]:
    """The rows; after a broken one reading goes on at the next line.

    Raises:
        csv.Error: too many are broken.
    """
    csv.field_size_limit(MAX_CELL_CHARS)
    at = broken = 0
    while at < len(lines):
        feed = _Feed(lines, at)
        reader = csv.reader(
            feed,
            delimiter=dialect.delimiter,
            quotechar=dialect.quote,
            quoting=csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE,
            skipinitialspace=True,
            strict=True,
        )
        try:
            for cells in reader:
                yield Cells(feed.first + 1, cells)
                feed.first = feed.at
            return
        except csv.Error:
            broken += 1
            if broken > _MOST_BROKEN:
                raise
            yield Cells(feed.first + 1, [], "its quotes do not pair")
            at = feed.first + 1


def sniff(lines: list[str], usual: str = ",") -> Dialect:
    """How the first lines write their cells: what cuts them into most rows of equal width.

    Args:
        lines: of the file.
        usual: the delimiter by the file's name, which wins a draw.
    """
    sample = [line for line in lines[: 4 * _SAMPLE_LINES] if line.strip()][:_SAMPLE_LINES]
    best, found = (0.0, 0), Dialect(usual)
    for delimiter in sorted(_DELIMITERS, key=lambda mark: mark != usual):
        for quoted in (True, False):
            dialect = Dialect(delimiter, quoted)
            rows = list(rows_of(sample, dialect))
            if len(lines) > len(sample) and len(rows) > 1:
                rows.pop()  # may be cut off
            widths = Counter(len(row.cells) for row in rows if len(row.cells) > 1)
            if not widths:
                continue
            width, count = widths.most_common(1)[0]
            # Lines that one row took in count against it: quotes that quote nothing take many.
            whole = len(sample) if not quoted else len(rows)
            score = (round(count / max(1, whole), 2), -int(not quoted))
            if width > 1 and score > best:
                best, found = score, dialect
    return found


def lines_of(text: str) -> list[str]:
    """Lines with their ends, cut at line feeds and carriage returns alone."""
    return list(io.StringIO(text, newline=""))
