"""From bytes to lines, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from contracts import limits

MAX_LINE_BYTES: Final = limits.MAX_TEXT_BYTES + 2
"""Bytes of a line with its end; the rest of a longer one is read and thrown away."""


class Lines:
    """Cuts bytes into lines, in bounded memory.

    Args:
        take: gets every line without its end. One that is too long comes once, cut just over
            the cap, so that it is refused and counted.
    """

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._rest = b""
        self._skipping = False

    def add(self, data: bytes) -> None:
        """Takes the next bytes of the stream."""
        *whole, rest = (self._rest + data).split(b"\n")
        for line in whole:
            if not self._skipping:
                self._take(line[:MAX_LINE_BYTES])
            self._skipping = False
        self._rest = rest
        if len(rest) > MAX_LINE_BYTES:
            if not self._skipping:
                self._take(rest[:MAX_LINE_BYTES])
            self._skipping = True
        if self._skipping:
            self._rest = b""

    def end(self) -> None:
        """The stream ended: a last line without an end counts."""
        if self._rest and not self._skipping:
            self._take(self._rest)
        self._rest = b""
        self._skipping = False
