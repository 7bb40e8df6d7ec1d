"""What a library writes to standard error is dropped, and nothing else is."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from agent.children.helper import Helper
from agent.children.quiet import quiet


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


def test_a_helper_that_starts_meanwhile_has_the_real_one() -> None:
    """Its errors would be lost for its whole life, and the sink would live as long."""
    one = Helper(idle_s=0.0)

    def start() -> None:
        with one.start("trust", 30):
            assert one._process is not None
            found.append(Path(f"/proc/{one._process.pid}/fd/2").readlink())

    found: list[Path] = []
    with quiet():
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
    assert found == [Path("/proc/self/fd/2").readlink()]
    while one._process is not None:
        pass
