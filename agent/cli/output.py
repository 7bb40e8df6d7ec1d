"""What commands print, for people or for machines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from contracts import codec


def line(text: str) -> None:
    """One line on stdout."""
    sys.stdout.write(text + "\n")


def document(value: Any) -> None:
    """A value as indented JSON on stdout."""
    sys.stdout.write(codec.pretty(value).decode())


def table(rows: Iterable[Sequence[str]]) -> None:
    """Rows with aligned columns."""
    listed = [list(map(str, row)) for row in rows]
    if not listed:
        return
    widths = [max(len(row[i]) for row in listed) for i in range(len(listed[0]))]
    for row in listed:
        line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def quiet_libraries() -> None:
    """Keeps what C++ libraries write to file descriptor 2 off the terminal; our errors stay."""
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace", buffering=1)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    os.close(sink)


class Progress:
    """A progress line on a terminal's stderr; nothing elsewhere.

    Args:
        total: of steps.
        what: is being done.
    """

    def __init__(self, total: int, what: str) -> None:
        self._total = max(1, total)
        self._what = what
        self._shown = -1
        self._terminal = sys.stderr.isatty()

    def __call__(self, done: int) -> None:
        """Shows that `done` steps are done."""
        percent = 100 * done // self._total
        if self._terminal and percent != self._shown:
            self._shown = percent
            bar = "#" * (percent // 4)
            sys.stderr.write(f"\r{self._what} [{bar:<25}] {percent:3d} %")
            if percent >= 100:
                sys.stderr.write("\n")
            sys.stderr.flush()
