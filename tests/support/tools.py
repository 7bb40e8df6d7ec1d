"""Programs that a test runs: found, skipped with a reason, or in CI an error."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

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


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
