"""The controller's log holds no text of a user, whoever logs and whatever is caught by nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio, gc, logging, threading
import structlog
from contracts.errors import InputError, UnavailableError
from fleet.logs import configure_logs
configure_logs("info")

def fails(text):
    raise ValueError(f"cannot encode {text}")

async def lost():
    task = asyncio.ensure_future(coro())
    await asyncio.sleep(0)
    await asyncio.sleep(0)

async def coro():
    fails("zqx1q")

class Odd:
    def __del__(self):
        fails("zqx2q")

log = structlog.get_logger("api")
for error in (ValueError("zqx3q"), InputError("bad-message", "Invalid value 'zqx4q'"),
              UnavailableError("database", "the server is away")):
    try:
        raise error
    except Exception:
        log.exception("failed")
try:
    fails("zqx5q")
except ValueError:
    logging.getLogger("uvicorn.error").exception("Exception in ASGI application\\nzqx6q")
    logging.getLogger("library").warning("cannot read %s", "zqx7q")
asyncio.run(lost())
gc.collect()
Odd()
thread = threading.Thread(target=fails, args=("zqx8q",))
thread.start()
thread.join()
fails("zqx9q")
"""


def test_the_controllers_log_has_kinds_and_places_of_errors_and_no_values(tmp_path: Path) -> None:
    """Its own, those of libraries, and those that nobody catches."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, program], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "zqx" not in done.stderr + done.stdout
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line.get("said") for line in lines if line["event"] == "a library says"] == [
        "Exception in ASGI application", "cannot read %s", "Task exception was never retrieved",
    ]  # fmt: skip
    assert [line["event"] for line in lines if line["event"] != "a library says"] == [
        "failed", "failed", "failed", "an error was not raised", "a thread ended",
        "the program ended",
    ]  # fmt: skip
    said = [line["exception"].get("message") for line in lines if line["event"] == "failed"]
    assert said == [None, "bad-message", "the server is away"]
    assert any("fails" in one for one in lines[-1]["exception"]["frames"])
