"""The request that runs now, on disk, so that the next start knows what killed the last.

A request is acknowledged to the broker after its answer, so a request that kills the agent
comes again after the restart, for ever. The mark breaks the circle: the request that ran
when the process died is refused once, all others run again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_BYTES: Final = 64


class RunningMark:
    """One fixed-size record in a file; written without fsync, which a killed process survives.

    Args:
        path: of the file.

    Attributes:
        died_with: id of the request that ran when the last process died; empty: none did.
    """

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.died_with = os.pread(self._handle, _BYTES, 0).rstrip(b"\0").decode("ascii", "replace")
        self.clear()

    def set(self, request_id: str) -> None:
        """A request begins to run."""
        os.pwrite(self._handle, request_id.encode()[:_BYTES].ljust(_BYTES, b"\0"), 0)

    def clear(self) -> None:
        """No request runs."""
        os.pwrite(self._handle, b"\0" * _BYTES, 0)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._handle)
