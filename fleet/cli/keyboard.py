"""Single keys of a terminal; lines, where standard input is none."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

Press = Callable[[], str]
"""Waits for a key; of a pipe, a line. Empty: the end."""


@contextlib.contextmanager
def keys() -> Iterator[Press]:
    """Reads keys as they are pressed, without Enter."""
    if not sys.stdin.isatty():
        yield _line
        return
    import termios
    import tty

    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)

    def press() -> str:
        tty.setcbreak(handle)
        try:
            return os.read(handle, 32).decode("utf-8", "ignore")[:1]
        finally:
            termios.tcsetattr(handle, termios.TCSADRAIN, before)

    yield press


def _line() -> str:
    """A line without its end; an empty one is Enter."""
    line = sys.stdin.readline()
    return (line.strip() or "\n") if line else ""
