"""Silence for a library that writes to standard error and has no switch for that."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_QUIET = threading.Lock()
_LIBRARY = (b"INFO: ", b"VERBOSE: ", b"DEBUG: ", b"WARNING: ", b"ERROR: ", "└".encode())
"""How lines of LiteRT and TensorFlow Lite begin."""


@contextmanager
def quiet() -> Iterator[None]:
    """Drops what LiteRT writes to file descriptor 2: its registry, and errors that it also returns.

    Lines of others, which a thread may write meanwhile, come a little later.
    """
    with _QUIET:
        kept = os.dup(2)
        sink = _sink()
        try:
            os.dup2(sink, 2)
            yield
        finally:
            os.dup2(kept, 2)
            with os.fdopen(sink, "rb") as written:
                written.seek(0)
                others = b"".join(line for line in written if not line.startswith(_LIBRARY))
            try:
                with suppress(OSError):  # a log on a full disk must not keep a model from loading
                    os.write(kept, others)
            finally:
                os.close(kept)


def _sink() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("stderr")
    return os.open(os.devnull, os.O_RDWR)
