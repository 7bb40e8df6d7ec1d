"""Programs that a test runs: found, skipped with a reason, or in CI an error."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def need_tool(*candidates: str) -> str:
    """The path of the first program that exists.

    Skips the test when none does; with ``CI=true`` it fails, because there a skip would hide it.
    """
    for candidate in candidates:
        found = shutil.which(candidate) or (candidate if Path(candidate).is_file() else None)
        if found:
            return found
    message = f"{candidates[0]} is not installed (apt-get install it, or run 'make test-tools')"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


_SOON_S, _LATE_S = 0.05, 0.4


def until(
    holds: Callable[[], Any], seconds: float = 180.0, said: Callable[[], str] = lambda: ""
) -> Any:
    """What `holds` returns as soon as that is true: there is no event to wait for across processes.

    It looks less and less often: a look at a controller costs both sides some 10 ms of work.

    Args:
        holds: looks.
        seconds: after which the test fails.
        said: what the test fails with.
    """
    deadline, pause = time.monotonic() + seconds, _SOON_S
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {said()}"
        time.sleep(pause)
        pause = min(_LATE_S, pause * 1.3)
    return found


_WORKERS = 16
_FIRST_PORT, _LAST_PORT = 20_000, 32_000


def _slice() -> Iterator[int]:
    """The ports of this worker, again and again, from one of them at random.

    No other worker takes them, and the kernel gives none of them to a client: so a port that
    was free is free until the program that a test starts listens on it.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    size = (_LAST_PORT - _FIRST_PORT) // _WORKERS
    first = _FIRST_PORT + int(worker) % _WORKERS * size
    start = secrets.randbelow(size)
    for step in itertools.count(start):
        yield first + step % size


_PORTS = _slice()
_PORTS_LOCK = threading.Lock()


def free_port() -> int:
    """A TCP port that nobody listens on, and that nobody else is given in this run."""
    for _ in range(_LAST_PORT - _FIRST_PORT):
        with _PORTS_LOCK:
            port = next(_PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            return port
    raise RuntimeError(f"no free port between {_FIRST_PORT} and {_LAST_PORT}")
