"""Workbooks (.xlsx): the sheet with the table, of those that are shown, as it is shown.

Formulas count by their last value, merged cells by the one that is shown over all of them.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from contracts import limits
from contracts.errors import InputError, UnavailableError
from contracts.labelled.rows import ERRORS, Log

MAX_SHEET_BYTES: Final = 512 * limits.MIB
"""Of a workbook's parts, unpacked: a small file that unpacks to more is an attack."""

MAX_MERGED: Final = 200_000
"""Merged ranges that are read."""

_OLE: Final = b"\xd0\xcf\x11\xe0"
_MERGED: Final = re.compile(
    rb'<(?:\w+:)?mergeCell ref="([A-Z]{1,3})([0-9]{1,7}):([A-Z]{1,3})([0-9]{1,7})"'
)
_FORMULA: Final = re.compile(rb"<(?:\w+:)?f[ >/]")
Place = tuple[int, int]
"""Row and column, both from 0."""


class Unreadable:
    """A cell whose value is not there; says why."""

    def __init__(self, why: str) -> None:
        self.why = why


def rows_of(path: Path, log: Log) -> Iterator[tuple[str, list[Any]]]:
    """The rows that hold something, the header first, with their places.

    A cell is a string, None, or :class:`Unreadable`.

    Raises:
        InputError: ``bad-data``, ``too-large``.
        UnavailableError: ``no-openpyxl``.
    """
    book = _opened(path, values=True)
    try:
        sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
        if not sheets:
            raise InputError("bad-data", f"{path} has no sheet that is shown")
        # A cover or a legend is shorter than the table; of equals the first is read.
        sheet = max(sheets, key=_first_rows) if len(sheets) > 1 else sheets[0]
        if len(sheets) > 1:
            log.note(f"{path.name} has {len(sheets)} sheets; only {sheet.title!r} was read")
        yield from _cells(path, sheet, log)
    finally:
        book.close()


def _opened(path: Path, *, values: bool) -> Any:
    with path.open("rb") as stream:
        if stream.read(4) == _OLE:
            raise InputError(
                "bad-data",
                f"{path} is protected by a password, or of the format before .xlsx; "
                "open it and save it as .xlsx without a password",
            )
    try:
        from openpyxl import load_workbook
    except ModuleNotFoundError:
        raise UnavailableError(
            "no-openpyxl", "reading workbooks needs openpyxl: pip install 'shoal[builder]'"
        ) from None
    try:
        with zipfile.ZipFile(path) as parts:
            if sum(part.file_size for part in parts.infolist()) > MAX_SHEET_BYTES:
                raise InputError("too-large", f"{path} unpacks to over {MAX_SHEET_BYTES} bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and the like, which say nothing of text
            return load_workbook(path, read_only=True, data_only=values)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - the reader raises anything on broken files
        raise InputError(
            "bad-data",
            f"{path} is no workbook, or damaged, for example by a download that broke off: "
            f"{str(error)[:200]}",
        ) from None


def _cells(path: Path, sheet: Any, log: Log) -> Iterator[tuple[str, list[Any]]]:
    try:
        # Some writers state a size that is not the sheet's.
        sheet.reset_dimensions()
        merged, calculates = _scan(path, sheet)
        formulas = _formulas(path, sheet.title) if calculates else {}
        shown: dict[Place, Any] = {}
        widest = _usual_width(sheet)
        begun = False
        filled_from_merged = 0
        for number, values in enumerate(sheet.iter_rows(values_only=True)):
            cells = [_shown(value) for value in values]
            for column in formulas.get(number, ()):
                if column < len(cells) and cells[column] is None:
                    cells[column] = Unreadable("a formula that was never calculated")
            for column, first in merged.get(number, ()):
                cells += [None] * (column + 1 - len(cells))
                if first == (number, column):
                    shown[first] = cells[column]
                elif begun and shown.get(first) is not None:
                    filled_from_merged += first[0] != number
                    cells[column] = shown[first]
            count = sum(cell is not None for cell in cells)
            if not count:
                continue
            if not begun and widest > 1 and count == 1:
                log.note(f"{path.name}, row {number + 1}: taken for a title")
                continue
            begun = True
            yield f"row {number + 1}", cells
        if filled_from_merged:
            log.note(
                f"{path.name} has merged cells; {filled_from_merged} rows took the value that is "
                "shown over them"
            )
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        raise InputError("bad-data", f"{path} is damaged: {str(error)[:200]}") from None


def _shown(value: Any) -> Any:
    """A number or date as text; 3.0 is a 3 that a spreadsheet stored as a float."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        return Unreadable(f"the error {value}") if value in ERRORS else value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _first_rows(sheet: Any) -> int:
    """How many of the first rows hold more than one cell."""
    sheet.reset_dimensions()
    rows = sheet.iter_rows(values_only=True, max_row=200)
    return sum(sum(value not in (None, "") for value in values) > 1 for values in rows)


def _usual_width(sheet: Any) -> int:
    """How many cells most of the first rows fill."""
    counts: dict[int, int] = {}
    for number, values in enumerate(sheet.iter_rows(values_only=True, max_row=200)):
        if number >= 200:
            break
        count = sum(value not in (None, "") for value in values)
        if count:
            counts[count] = counts.get(count, 0) + 1
    return max(counts, key=lambda count: counts[count]) if counts else 0


def _scan(path: Path, sheet: Any) -> tuple[dict[int, list[tuple[int, Place]]], bool]:
    """What the values do not show, out of the sheet's XML.

    Returns:
        by row, each column inside a merged range with the range's first cell; and whether the
        sheet has formulas.
    """
    from openpyxl.utils import column_index_from_string

    found: dict[int, list[tuple[int, Place]]] = {}
    formulas, count = False, 0
    name = getattr(sheet, "_worksheet_path", "")
    with zipfile.ZipFile(path) as parts, parts.open(name) as stream:
        rest = b""
        while piece := stream.read(limits.MIB):
            rest += piece
            formulas = formulas or _FORMULA.search(rest) is not None
            for match in _MERGED.finditer(rest):
                left, right = (column_index_from_string(match[i].decode()) - 1 for i in (1, 3))
                top, bottom = int(match[2]) - 1, int(match[4]) - 1
                count += max(0, bottom - top + 1) * max(0, right - left + 1)
                if count > MAX_MERGED:
                    raise InputError(
                        "too-large", f"{path} has over {MAX_MERGED} merged cells; separate them"
                    )
                for row in range(top, bottom + 1):
                    columns = range(left, right + 1)
                    found.setdefault(row, []).extend((column, (top, left)) for column in columns)
            # An element that is cut off is looked at again with the next piece.
            cut = rest.rfind(b"<")
            rest = rest[cut:] if rest.rfind(b">") < cut and len(rest) - cut < 256 else b""
    return found, formulas


def _formulas(path: Path, title: str) -> dict[int, list[int]]:
    """By row: the columns that hold formulas."""
    book = _opened(path, values=False)
    found: dict[int, list[int]] = {}
    try:
        sheet = book[title]
        sheet.reset_dimensions()
        for number, cells in enumerate(sheet.iter_rows()):
            columns = [i for i, cell in enumerate(cells) if cell.data_type == "f"]
            if columns:
                found[number] = columns
    finally:
        book.close()
    return found
