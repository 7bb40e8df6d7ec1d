"""Silence for libraries that write to standard error and have no switch for that."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_QUIET = threading.Lock()


@contextmanager
def quiet() -> Iterator[None]:
    """LiteRT writes its registry to file descriptor 2, and has no switch for that."""
    with _QUIET:
        kept = os.dup(2)
        sink = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(sink, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(sink)
