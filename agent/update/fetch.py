"""Reading files of the repository, by whatever way there is: one interface.

A way (HTTP ranges, MQTT blocks) gives the bytes of a path from an offset on. It promises
nothing about them: every reader checks what it got against a signed digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import msgspec

from contracts.errors import RefusedError, ShoalError, UnavailableError

NO_SUCH_FILE: Final = "no-such-path"

TIMED: Final = "metadata/timestamp.json"
"""The file with which the server's time is believed: it changes, so no cache keeps it for long."""


class Transfer(msgspec.Struct):
    """A running read. `total`: bytes of the whole file as the sender says."""

    total: int
    chunks: Iterator[bytes]

    def close(self) -> None:
        """Ends the read, also in its middle."""
        close = getattr(self.chunks, "close", None)
        if close is not None:
            close()


class Fetcher(Protocol):
    """Reads repository files."""

    def open(self, path: str, offset: int = 0) -> Transfer:
        """Begins to read `path` (relative to the repository) at `offset`.

        Raises:
            UnavailableError: ``no-such-path``; or another code when the way is broken now.
                Iterating the chunks may raise it too.
        """


class Fallback:
    """Tries ways in order: the next when one is broken, not when the file is not there."""

    def __init__(self, ways: Sequence[Fetcher]) -> None:
        self._ways = list(ways)

    def open(self, path: str, offset: int = 0) -> Transfer:
        """As :meth:`Fetcher.open`; a break in mid-file goes on by the next way."""
        failure: ShoalError = UnavailableError("no-way", "no way to the repository is configured")
        for index, way in enumerate(self._ways):
            try:
                transfer = way.open(path, offset)
            except UnavailableError as error:
                failure = error
                if error.code == NO_SUCH_FILE:
                    raise
                continue
            rest = self._ways[index + 1 :]
            transfer.chunks = _continue(transfer.chunks, rest, path, offset)
            return transfer
        raise failure


def _continue(
    chunks: Iterator[bytes], rest: Sequence[Fetcher], path: str, offset: int
) -> Iterator[bytes]:
    try:
        for chunk in chunks:
            offset += len(chunk)
            yield chunk
    except UnavailableError:
        if not rest:
            raise
        yield from Fallback(rest).open(path, offset).chunks


def read_all(fetcher: Fetcher, path: str, cap: int) -> bytes:
    """A whole small file.

    Raises:
        UnavailableError: as :meth:`Fetcher.open`.
        RefusedError: ``endless-data``; more than `cap` bytes.
    """
    transfer = fetcher.open(path)
    data = bytearray()
    try:
        for chunk in transfer.chunks:
            data += chunk
            if len(data) > cap:
                raise RefusedError("endless-data", f"{path} has more than {cap} bytes")
    finally:
        transfer.close()
    return bytes(data)
