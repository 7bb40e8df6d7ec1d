"""Copies a device's folder to its board with mpremote, and restarts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from contracts.errors import InputError, ShoalError, UnavailableError


def _mpremote(port: str, *words: str, timeout_s: float = 120) -> str:
    command = [sys.executable, "-m", "mpremote", "connect", port, *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(
            "board-silent", f"the board on {port} did not answer within {timeout_s:.0f} s"
        ) from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        if any("No module named mpremote" in line for line in said):
            raise UnavailableError("no-mpremote", "mpremote is missing: pip install mpremote")
        raise ShoalError(
            "flash-failed",
            f"mpremote {' '.join(words[:3])} on {port}: {said[-1] if said else 'no answer'}; "
            "is it the right port, and does the board run MicroPython?",
        )
    return done.stdout


def flash(folder: Path, port: str) -> str:
    """Copies what `folder` holds to the root of the board's file system and restarts it.

    Args:
        folder: written by :func:`fleet.boards.folder.write_folder`.
        port: serial port, or ``auto``.

    Returns:
        What mpremote said.

    Raises:
        InputError: ``not-a-board-folder``.
        UnavailableError: ``board-silent``, ``no-mpremote``.
        ShoalError: ``flash-failed``.
    """
    parts = ["lib", "shoal", "main.py"]
    if not all((folder / part).exists() for part in parts):
        raise InputError(
            "not-a-board-folder",
            f"{folder} has no {', '.join(parts)}: write it with `shoal boards files`",
        )
    words = ["fs", "--recursive", "cp", *[str(folder / part) for part in parts], ":"]
    said = _mpremote(port, *words)
    return said + _mpremote(port, "reset")
