"""``shoal-agent uninstall``: takes from a board what joining a fleet put there, all of it."""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

from agent.cli import output
from agent.cli.device import INSTALLED, STATE, read_config
from contracts.errors import RefusedError, ShoalError

SERVICE: Final = "shoal-agent.service"
UNIT: Final = Path("/etc/systemd/system") / SERVICE
FOLDERS: Final = (INSTALLED.parent, STATE)
PROGRAMS: Final = Path("/opt")
USER: Final = "shoal"
_TRIES: Final = 40
_PAUSE_S: Final = 0.25


def uninstall(arguments: argparse.Namespace) -> int:
    """Ends the service and removes it, its user, its key, its models and its environment.

    Raises:
        RefusedError: ``not-root``.
    """
    if os.geteuid() != 0:
        raise RefusedError("not-root", "root is needed: put sudo before the command")
    try:
        device = read_config(INSTALLED).device
    except ShoalError:
        device = ""
    _run("systemctl", "disable", "--now", SERVICE)
    UNIT.unlink(missing_ok=True)
    _run("systemctl", "daemon-reload")
    for folder in FOLDERS:
        _remove(folder)
    said = _run("userdel", USER)
    # This program's own environment goes last.
    link = PROGRAMS / "shoal"
    if link.is_symlink():
        link.unlink()
    for folder in [link, *PROGRAMS.glob("shoal-[0-9]*"), PROGRAMS / ".shoal-joining"]:
        shutil.rmtree(folder, ignore_errors=True)
    left = [str(path) for path in (UNIT, *FOLDERS, link) if path.exists()]
    if _is_user(USER):
        left.append(f"the user {USER} ({said or 'there is no userdel'})")
    if left:
        raise RefusedError("not-removed", f"could not be removed: {', '.join(left)}")
    if arguments.json:
        output.document({"device": device, "removed": True})
    else:
        output.line(f"removed; on the controller: shoal fleet retire {device or 'DEVICE'}")
    return 0


def _remove(folder: Path) -> None:
    """Removes a folder, also when a process that is about to end still writes into it."""
    for _ in range(_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_PAUSE_S)


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _run(*command: str) -> str:
    """What a program said, that may be missing, or have nothing to do."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace")
    return " ".join(done.stderr.split())[:500]
