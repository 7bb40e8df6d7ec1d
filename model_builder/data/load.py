"""Rows from JSONL, CSV and Parquet files. Every cell is hostile until checked."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from contracts import limits
from contracts.errors import InputError
from model_builder.data.rows import Row

MAX_FILE_BYTES: Final = 2 * 1024 * limits.MIB
MAX_LINE_BYTES: Final = 1 * limits.MIB
"""One line of JSONL or CSV. A text is far smaller; a longer line is a broken file."""


def load_rows(
    path: Path, *, text: str = "text", label: str = "label", group: str = "", labelled: bool = True
) -> list[Row]:
    """Reads a data file by its suffix.

    Args:
        path: ``.jsonl``, ``.csv`` (with a header) or ``.parquet``, UTF-8.
        text: column of the text.
        label: column of the label.
        group: column of the group; empty: none.
        labelled: a missing label is an error; otherwise labels are not read.

    Raises:
        InputError: ``no-such-file``, ``bad-data`` with the line, ``too-large``.
    """
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            "bad-data", f"{path}: expected a .jsonl, .csv or .parquet file, found {path.suffix!r}"
        )
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError("no-such-file", f"cannot read {path}: {error.strerror}") from None
    if size > MAX_FILE_BYTES:
        raise InputError("too-large", f"{path} has {size} bytes; at most {MAX_FILE_BYTES}")
    if size == 0:
        raise InputError("bad-data", f"{path} is empty")
    rows = []
    for where, record in reader(path):
        rows.append(_row(record, f"{path}, {where}", text, label if labelled else "", group))
    if not rows:
        raise InputError("bad-data", f"{path} has no rows")
    return rows


def _row(record: dict[str, Any], where: str, text: str, label: str, group: str) -> Row:
    values = {}
    for name, column in (("text", text), ("label", label), ("group", group)):
        if not column:
            continue
        if column not in record or record[column] is None:
            known = ", ".join(str(key)[:40] for key in record)
            raise InputError("bad-data", f"{where}: no {column!r}; found {known}")
        value = record[column]
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


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as stream:
        number = 0
        while raw := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                raise InputError(
                    "bad-data", f"{path}, line {number}: longer than {MAX_LINE_BYTES} bytes"
                )
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    "bad-data",
                    f"{path}, line {number}: not UTF-8 at byte {error.start}; "
                    "convert the file, for example with iconv",
                ) from None


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError("bad-data", f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise InputError("bad-data", f"{path}, line {number}: expected a JSON object")
        yield f"line {number}", record


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    source = "".join(line for _, line in _lines(path))
    if "\0" in source:
        raise InputError("bad-data", f"{path}: holds a NUL character; is it UTF-16?")
    reader = csv.DictReader(io.StringIO(source), strict=True)
    try:
        for record in reader:
            if None in record:
                raise InputError(
                    "bad-data", f"{path}, line {reader.line_num}: more cells than the header"
                )
            yield f"line {reader.line_num}", record
    except csv.Error as error:
        raise InputError("bad-data", f"{path}, line {reader.line_num}: {error}") from None


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
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
