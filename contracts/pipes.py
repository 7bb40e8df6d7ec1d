"""The end of a program whose reader has gone, as in ``shoal fleet devices | head -1``."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

STATUS: Final = 141
"""What a shell tells of a program that SIGPIPE ended."""


@contextmanager
def quiet() -> Iterator[None]:
    """Ends the program without a word when nobody reads what is written in this block."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        leave_if_unread(error)
        raise


def leave_if_unread(error: OSError) -> None:
    """Ends the program if its output is what broke; a socket of ours may have, and it goes on.

    Raises:
        SystemExit: with :data:`STATUS`.
    """
    broken = [handle for handle in (1, 2) if _is_unread(handle)]
    if not isinstance(error, BrokenPipeError) or not broken:
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    for handle in broken:  # what is left in buffers must not break again
        os.dup2(sink, handle)
    raise SystemExit(STATUS)


def _is_unread(handle: int) -> bool:
    """Whether it is a pipe that nobody holds at its other end."""
    with suppress(OSError):
        poll = select.poll()
        poll.register(handle, 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False
