"""A table of devices that are to join: ``name,board,labels,group``, one a row.

Every fault of a table is told at once, with its row: who has 300 devices corrects it once.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import Final

from contracts import limits
from contracts.errors import InputError, ShoalError
from fleet.identity.claims import serial_of
from fleet.identity.enrolment import make_profile
from fleet.joining.invitations import Wanted, check_board

COLUMNS: Final = ("name", "board", "labels", "group")
MAX_DEVICES: Final = 10_000


def read(data: bytes, board: str | None = None, *, serials: bool = False) -> list[Wanted]:
    """The devices of a table (CSV with a header; labels as ``site=lyon;floor=2``).

    Args:
        data: of the file, UTF-8.
        board: of rows that name none.
        serials: boards are known by the column ``serial``; a row without a name is called so.

    Raises:
        InputError: ``bad-table``; its detail `faults` has every fault with its row.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("bad-table", "the table is not UTF-8: save it as CSV UTF-8") from None
    try:
        delimiter = ";" if ";" in text.split("\n", 1)[0] else ","
        rows = list(csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise InputError("bad-table", f"the table is not CSV: {error}") from None
    heads = {head.strip().lower(): head for head in (rows[0] if rows else {}) if head}
    columns = ("serial", *COLUMNS) if serials else COLUMNS
    unknown = sorted(set(heads) - set(columns) - {"groups"})
    faults = [f"row 1: no column {name[:40]!r}; known: {', '.join(columns)}" for name in unknown]
    if columns[0] not in heads:
        faults.append(f"row 1: a column {columns[0]!r} is needed")
    if len(rows) > MAX_DEVICES:
        faults.append(f"{len(rows)} rows; at most {MAX_DEVICES} at once")
    if faults:
        raise _refused(faults)
    found: list[Wanted] = []
    seen: dict[str, int] = {}
    of_serial: dict[str, int] = {}
    for number, row in enumerate(rows, 2):
        cells = {name: str(row.get(head) or "").strip() for name, head in heads.items()}
        if not any(cells.values()):
            continue
        if serials and not cells.get("name"):
            cells["name"] = cells["serial"].lower()
        problems, wanted = _row(cells, board)
        if None in row:
            problems.append("more cells than columns")
        if wanted.device in seen:
            problems.append(f"{wanted.device} is in row {seen[wanted.device]} already")
        seen.setdefault(wanted.device, number)
        if serials and wanted.serial in of_serial:
            problems.append(f"serial {wanted.serial} is in row {of_serial[wanted.serial]} already")
        of_serial.setdefault(wanted.serial, number)
        faults += [f"row {number}: {problem}" for problem in problems]
        found.append(wanted)
    if not found and not faults:
        faults.append("the table has no devices")
    if faults:
        raise _refused(faults)
    return found


def _row(cells: dict[str, str], board: str | None) -> tuple[list[str], Wanted]:
    problems: list[str] = []
    labels: dict[str, str] = {}
    for part in _parts(cells.get("labels", "")):
        key, sign, value = part.partition("=")
        if not sign or not key.strip():
            problems.append(f"label {part[:80]!r} is not key=value")
        labels[key.strip()] = value.strip()
    groups = [*_parts(cells.get("group", "")), *_parts(cells.get("groups", ""))]
    serial = cells.get("serial", "")
    if "serial" in cells:
        try:
            serial = serial_of(serial)
        except ShoalError as error:
            problems.append(str(error))
    wanted = Wanted(cells["name"], cells.get("board") or board or "", labels, groups, serial)
    if not wanted.board:
        problems.append("no board: name one in the column 'board', or with --board")
    else:
        try:
            check_board(wanted.board)
        except ShoalError as error:
            problems.append(str(error))
    try:
        make_profile(wanted.device, wanted.board or "x", labels, groups)
    except ShoalError as error:
        problems.append(str(error))
    if len(labels) > limits.MAX_DEVICE_LABELS:
        problems.append(f"{len(labels)} labels; at most {limits.MAX_DEVICE_LABELS}")
    return problems, wanted


def _parts(cell: str) -> Iterator[str]:
    return (part.strip() for part in re.split(r"[;|\n]", cell) if part.strip())


def _refused(faults: list[str]) -> InputError:
    return InputError(
        "bad-table",
        f"nothing was enrolled: the table has {len(faults)} fault(s)",
        faults=faults,
    )


def numbered(
    prefix: str,
    count: int,
    board: str,
    labels: dict[str, str] | None = None,
    groups: list[str] | None = None,
) -> list[Wanted]:
    """Devices with one board, and names with a number: ``sensor-001``, ``sensor-002``, ..."""
    width = max(3, len(str(count)))
    return [
        Wanted(f"{prefix}-{number:0{width}}", board, labels, groups)
        for number in range(1, count + 1)
    ]
