"""Answers that cost something, on disk as they come: a run that ends early loses none."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contracts import codec
from contracts.errors import InputError


class Kept:
    """JSON lines that are only ever added to; threads may share it.

    Args:
        file: made with the first line.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()

    def records(self) -> Iterator[dict[str, Any]]:
        """Those of earlier runs; a line that a crash cut short is skipped."""
        if not self._file.is_file():
            return
        for line in self._file.read_bytes().splitlines():
            try:
                record: dict[str, Any] = codec.decode(line, dict[str, Any], what="an answer")
            except InputError:
                continue
            yield record

    def add(self, *records: dict[str, Any]) -> None:
        """Writes them to the disk before it returns."""
        data = b"".join(codec.encode(record) + b"\n" for record in records)
        with self._lock:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a+b") as sink:
                if sink.tell():
                    sink.seek(-1, os.SEEK_END)
                    if sink.read(1) != b"\n":  # cut short: the next line is no part of it
                        data = b"\n" + data
                sink.write(data)
                sink.flush()
                os.fsync(sink.fileno())
