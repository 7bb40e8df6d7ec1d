"""A log on a full disk costs its lines alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import full_disk

PROGRAM = """
import threading
from {module} import {configure}
import structlog

{configure}({arguments})
done = threading.Event()

def work():
    structlog.get_logger("work").error("the disk is full")
    done.set()

thread = threading.Thread(target=work)
thread.start()
thread.join()
print("goes on" if done.is_set() else "ended")
"""


@pytest.mark.parametrize(
    ("module", "configure", "arguments"),
    [("fleet.logs", "configure_logs", "'info'"), ("agent.system.log", "configure", "")],
    ids=["controller", "agent"],
)
def test_a_thread_that_cannot_log_goes_on(
    tmp_path: Path, module: str, configure: str, arguments: str
) -> None:
    """A thread that ended at its own complaint would leave a program that stands still."""
    text = PROGRAM.format(module=module, configure=configure, arguments=arguments)
    with (tmp_path / "log").open("wb") as log:
        log.write(b"begun\n")
        log.flush()
        done = subprocess.run(
            [sys.executable, "-B", "-c", text],
            stdout=subprocess.PIPE,
            stderr=log,
            preexec_fn=full_disk.fill,
            timeout=60,
            check=False,
        )
    assert done.stdout.decode().strip() == "goes on"
    assert (tmp_path / "log").read_bytes() == b"begun\n"
