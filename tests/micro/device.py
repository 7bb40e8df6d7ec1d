"""Runs MicroPython scripts in the unix port, held to the heap of a board."""

from __future__ import annotations

import atexit
import json
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from fleet.boards.compiler import compile_agent
from tests.support.tools import need_tool

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).parent / "scripts"
HEAP = "256k"


def micropython() -> str:
    """The unix port, from the environment's own folder or the path."""
    return need_tool("micropython", str(Path(sys.executable).parent / "micropython"))


@cache
def compiled() -> Path:
    """The agent compiled for this machine, as a board has it."""
    folder = Path(tempfile.mkdtemp(prefix="shoal-micro-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    compile_agent("x86_64", folder / "micro")
    return folder


def environment(**extra: str) -> dict[str, str]:
    """Variables that let a script import the package ``micro``."""
    return {"MICROPYPATH": f"{compiled()}:{SCRIPTS}:.frozen", **extra}


def command(script: str, *words: str, heap: str = HEAP) -> list[str]:
    """The command line of a script in ``tests/micro/scripts``."""
    return [micropython(), "-X", f"heapsize={heap}", str(SCRIPTS / script), *words]


def run(script: str, *words: str, heap: str = HEAP, timeout: float = 180) -> Any:
    """Runs a script to its end and returns the JSON of its last line."""
    done = subprocess.run(
        command(script, *words, heap=heap),
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, f"{script} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return json.loads(done.stdout.strip().splitlines()[-1])
