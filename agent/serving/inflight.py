"""The request that runs now, on disk, so that the next start knows what killed the last.

A request is acknowledged to the broker after its answer, so a request that kills the agent
comes again after the restart, for ever. The mark breaks the circle: the request that ran
when the process died is refused once, all others run again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from agent.system.log import logger

log = logger(__name__)

_BYTES: Final = 64


class RunningMark:
    """One fixed-size record in a file; written without fsync, which a killed process survives.

    A disk that refuses the file keeps no request from running: then there is no mark, which
    the log says, and the next request tries again.

    Args:
        path: of the file.

    Attributes:
        died_with: id of the request that ran when the last process died; empty: none did.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None
        self._refused = False
        self.died_with = self._read()
        self.clear()

    def _read(self) -> str:
        try:
            with self._path.open("rb") as file:
                return file.read(_BYTES).rstrip(b"\0").decode("ascii", "replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            log.error("running mark cannot be read", reason=str(error))
            return ""

    def set(self, request_id: str) -> None:
        """A request begins to run."""
        self._write(request_id.encode()[:_BYTES])

    def clear(self) -> None:
        """No request runs."""
        self._write(b"")

    def _write(self, record: bytes) -> None:
        try:
            if self._handle is None:
                self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._handle, record.ljust(_BYTES, b"\0"), 0)
        except OSError as error:
            if not self._refused:
                log.error(
                    "running request not marked: if it kills the agent, it runs again",
                    file=str(self._path),
                    reason=str(error),
                )
            self._refused = True
        else:
            self._refused = False

    def close(self) -> None:
        """Closes the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
