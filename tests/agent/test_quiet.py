"""What a library writes to standard error is dropped, and nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.runtime.quiet import quiet


def test_lines_of_the_library_are_dropped_and_others_stay(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A log line of another thread is not lost while a model is loaded."""
    with quiet():
        os.write(2, b"INFO: [environment.cc:36] Creating LiteRT environment\n")
        os.write(2, b'{"event": "connected"}\n')
        os.write(2, b"ERROR: not a model\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == '{"event": "connected"}\nafter\n'


def test_an_error_within_comes_through_and_the_descriptor_is_restored(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Silence ends with the block, however it ends."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ValueError, match="no"), quiet():
        raise ValueError("no")
    os.write(2, b"heard\n")
    assert capfd.readouterr().err == "heard\n"
    assert len(list(Path("/proc/self/fd").iterdir())) == before
