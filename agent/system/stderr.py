"""Keeps what libraries write to file descriptor 2 out of the log: it may hold texts of users.

A library in Rust or C writes its complaint to the descriptor itself ("byte index 3 is not a char
boundary; it is inside 'é' of `...`"), past Python and past the log. So the log gets a descriptor of
its own, and descriptor 2 is a pipe whose contents are counted and dropped. Of a panic the log has
its place in the library's source.
"""

from __future__ import annotations

import os
import re
import select
import sys
import threading
import time
from typing import Final

_PANIC: Final = re.compile(rb"panicked at ([\w./@-]{1,160}:\d{1,9}:\d{1,9})")
_AT_ONCE: Final = 64 * 1024
_PLACES: Final = 5
_REST_S: Final = 10.0
"""Seconds between two lines of the log about it."""

_own: int | None = None
"""Standard error as it was, for the log and for children that log; None: descriptor 2 is it."""


def set_apart() -> None:
    """Sets descriptor 2 apart from standard error; once in a process, at its start."""
    global _own
    if _own is not None:
        return
    own = os.dup(2)
    reader, writer = os.pipe()
    # Who writes must not wait for this process's own thread: what does not fit is dropped.
    os.set_blocking(writer, False)
    os.dup2(writer, 2)
    os.close(writer)
    sys.stderr = os.fdopen(own, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    _own = own
    threading.Thread(target=_count, args=(reader,), name="stderr", daemon=True).start()


def own() -> int:
    """A new descriptor of what `set_apart` took aside, else of descriptor 2."""
    return os.dup(2 if _own is None else _own)


def is_apart() -> bool:
    """Whether descriptor 2 is not the log's."""
    return _own is not None


def _count(reader: int) -> None:
    """Counts what is written, without keeping any of it; says so at once, and then rarely."""
    from agent.system.log import logger

    log = logger(__name__)
    written, places, said = 0, set[str](), float("-inf")
    while True:
        wait = None if not written else max(0.0, said + _REST_S - time.monotonic())
        if select.select([reader], [], [], wait)[0]:
            data = os.read(reader, _AT_ONCE)
            if not data:
                return
            written += len(data)
            places.update(place.decode() for place in _PANIC.findall(data)[:_PLACES])
        if written and time.monotonic() >= said + _REST_S:
            said = time.monotonic()
            if places:
                log.error("a library panicked", places=sorted(places)[:_PLACES], bytes=written)
            else:
                log.warning("a library wrote to standard error", bytes=written)
            written, places = 0, set()
