"""The status file: what a running agent tells a person at the device."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from contracts import codec, files, limits
from contracts.messages import Reported


class LocalStatus(msgspec.Struct, omit_defaults=True):
    """``status.json`` in the state folder.

    Attributes:
        pid: of the agent.
        at: when it was written.
        started: when the agent started.
        connected: whether it has its broker.
        broker: host and port.
        waits_for: what it is waiting for, in words.
        queue: requests that wait.
        spool: messages that wait for the broker.
        connections: to the broker since the start.
        takeovers: how often another client with the same identity took the session.
        reported: the reported document.
    """

    pid: int
    at: float
    started: float
    connected: bool
    broker: str
    waits_for: str
    queue: int
    spool: int
    connections: int
    reported: Reported
    takeovers: int = 0


def write(path: Path, status: LocalStatus) -> None:
    """Replaces the file. It is rewritten often and worth nothing after a crash: no fsync."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(codec.encode(status))
    temporary.replace(path)


def read(path: Path) -> LocalStatus:
    """Reads the file.

    Raises:
        InputError: ``not-running``; there is none that can be read.
    """
    data = files.read_small(
        path,
        cap=limits.MAX_MESSAGE_BYTES,
        code="not-running",
        hint="no agent has run with this state folder, or you may not read it",
    )
    return codec.decode(data, LocalStatus, what=str(path))


def alive(status: LocalStatus) -> bool:
    """Whether the process that wrote it still runs."""
    try:
        os.kill(status.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
