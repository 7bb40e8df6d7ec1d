"""Silence for a library that writes to standard error and has no switch for that."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from agent.system import stderr

_QUIET = threading.Lock()
_CHANGE = threading.Lock()
"""Held while descriptor 2 changes, which takes no time; the other, while it is quiet."""
_kept: int | None = None
"""Standard error while it is quiet."""
_LIBRARY = (b"INFO: ", b"VERBOSE: ", b"DEBUG: ", b"WARNING: ", b"ERROR: ", "└".encode())
"""How lines of LiteRT and TensorFlow Lite begin."""


@contextmanager
def quiet() -> Iterator[None]:
    """Drops what LiteRT writes to file descriptor 2: its registry, and errors that it also returns.

    Lines of others, which a thread may write meanwhile, come a little later.
    """
    global _kept
    with _QUIET:
        kept = os.dup(2)
        sink = _sink()
        try:
            with _CHANGE:
                os.dup2(sink, 2)
                _kept = kept
            yield
        finally:
            with _CHANGE:
                os.dup2(kept, 2)
                _kept = None
            with os.fdopen(sink, "rb") as written:
                written.seek(0)
                others = b"".join(line for line in written if not line.startswith(_LIBRARY))
            try:
                with suppress(OSError):  # a log on a full disk must not keep a model from loading
                    os.write(kept, others)
            finally:
                os.close(kept)


def loud() -> int:
    """A new descriptor of standard error as it is when it is not quiet, for another process."""
    if stderr.is_apart():
        return stderr.own()
    with _CHANGE:
        return os.dup(2 if _kept is None else _kept)


def _sink() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("stderr")
    return os.open(os.devnull, os.O_RDWR)
