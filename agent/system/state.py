"""The state folder: one agent at a time, a boot id, and the session counter."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import Final

from agent.system.clock import Clock, SystemClock, is_set
from agent.system.filesystem import Disk, write_durably
from agent.system.log import logger
from contracts.errors import InputError, UnavailableError

log = logger(__name__)

_LAST_SESSION: Final = (1 << 53) - 1
"""Every JSON reader can hold this number, and the controller takes none above the next."""


def new_boot() -> str:
    """A random name for a run of the agent."""
    return f"b{secrets.token_hex(6)}"


def next_session(last: int, clock: Clock) -> int:
    """The number of the next connection. It grows over restarts too.

    It is at least the time in milliseconds, so that the controller, which believes no lower
    session than it has seen, hears a device that lost its count: its disk was wiped, the
    file is damaged or could not be written. A clock that is not set says nothing; one that
    is set later is heard at the next connection.

    Args:
        last: the number of the connection before.
        clock: the time.
    """
    now = int(clock.time() * 1000) if is_set(clock) else 0
    session = min(last + 1, _LAST_SESSION)
    return max(session, now) if now <= _LAST_SESSION else session


class StateFolder:
    """The folder below which an agent keeps everything, locked for this process.

    Args:
        path: made when missing, readable by its owner alone. One that cannot be written serves:
            what is installed there runs.
        clock: the time.

    Attributes:
        boot: random name of this run of the agent.

    Raises:
        InputError: ``bad-state-folder``; it cannot be made or read.
        UnavailableError: ``already-running``; another agent has it.
    """

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.path = path
        self._clock = clock or SystemClock()
        self.boot = new_boot()
        self._disk = Disk()
        self._counter = path / "session"
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            # The folder is the lock: on a full or read-only disk no file could be made for it.
            self._lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(
                "bad-state-folder",
                f"the state folder {path} cannot be used: {error.strerror}; "
                "set state_dir to a folder that this user may read and write",
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise UnavailableError(
                "already-running", f"another agent runs on the state folder {path}"
            ) from None
        if not os.access(path, os.W_OK):
            log.error("state folder cannot be written: nothing can be updated", folder=str(path))
        self._session = self._read_session()

    def _read_session(self) -> int:
        try:
            found = int(self._counter.read_text()[:20])
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            log.error("session counter unreadable", reason=str(error))
            return 0
        if not 0 <= found <= _LAST_SESSION:
            log.error("session counter out of range", found=found)
            return 0
        return found

    def next_session(self) -> int:
        """As :func:`next_session`, and noted on the disk.

        A disk that is full must not keep the device from its broker: then it grows in memory.
        """
        self._session = next_session(self._session, self._clock)
        try:
            write_durably(self._disk, self._counter, str(self._session).encode())
        except OSError as error:
            log.error("session counter not written", reason=str(error))
        return self._session

    def close(self) -> None:
        """Lets another agent have the folder."""
        os.close(self._lock)
