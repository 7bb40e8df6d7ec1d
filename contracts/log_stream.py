"""Where logs go: what cannot be written is dropped."""

from __future__ import annotations

from contextlib import suppress
from typing import TextIO


class LogStream:
    """A stream that drops what cannot be written: a full disk must not end who says that it is.

    Args:
        stream: where to; often a file, on the disk that is full.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Writes."""
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flushes."""
        with suppress(OSError):
            self._stream.flush()
