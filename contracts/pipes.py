"""The standard streams of a program: those it was started without, and those that are lost.

A reader may have gone, as in ``shoal fleet devices | head -1``, or a disk be full.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from contracts import files

STATUS: Final = 141
"""What a shell tells of a program that SIGPIPE ended."""


def complete() -> None:
    """Opens the standard streams that this program was started without (``>&-``), on nothing.

    Else the next file that is opened takes the number of one, and what a library prints is
    written into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)  # the lowest free number: the stream's own
            os.set_inheritable(handle, True)
            setattr(sys, name, os.fdopen(handle, mode, encoding="utf-8", closefd=False))


@contextmanager
def quiet() -> Iterator[None]:
    """Ends the program where what is written in this block is lost.

    Without a word where nobody reads it, and with one line where a disk is full.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        leave_if_unread(error)
        if not files.is_full(error):
            raise
        _forget([1])
        said = error.__context__  # a command that failed already said why
        if not (isinstance(said, SystemExit) and said.code):
            sys.stderr.write(f"error: {files.reason(error)}\n")
        raise SystemExit(1) from None


def leave_if_unread(error: OSError) -> None:
    """Ends the program if its output is what broke; a socket of ours may have, and it goes on.

    Raises:
        SystemExit: with :data:`STATUS`.
    """
    broken = [handle for handle in (1, 2) if _is_unread(handle)]
    if isinstance(error, BrokenPipeError) and broken:
        _forget(broken)
        raise SystemExit(STATUS)


def _forget(handles: list[int]) -> None:
    """What is left in buffers must not break again."""
    sink = os.open(os.devnull, os.O_WRONLY)
    for handle in handles:
        os.dup2(sink, handle)


def _is_unread(handle: int) -> bool:
    """Whether it is a pipe that nobody holds at its other end."""
    with suppress(OSError):
        poll = select.poll()
        poll.register(handle, 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False
