"""A small disk for one program that a test starts: in memory, in a namespace of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.tools import need_tool

_SCRIPT = 'mount -t tmpfs -o "size=$1" shoal "$2" && shift 2 && exec "$@"'


class SmallDisk:
    """A folder that is a disk for a program and what that starts; it ends with the program.

    Args:
        folder: made when missing; empty for the program at its start.
        size: bytes of the disk.
    """

    def __init__(self, folder: Path, size: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder.absolute()
        self._size = size
        self._unshare = need_tool("unshare")
        self._pid = 0
        probe = subprocess.run(
            self.around(["true"]), capture_output=True, text=True, check=False, timeout=30
        )
        if probe.returncode:
            pytest.skip(f"no namespace with a disk of its own here: {probe.stderr.strip()}")

    def around(self, command: list[str]) -> list[str]:
        """The command with the disk; its process id is the program's."""
        return [
            self._unshare, "--map-root-user", "--mount", "sh", "-c", _SCRIPT, "sh",
            str(self._size), str(self._folder), *command,
        ]  # fmt: skip

    def of(self, pid: int) -> Path:
        """The folder as the running program sees it."""
        return Path(f"/proc/{pid}/root{self._folder}")

    def leave(self, pid: int, free: int) -> None:
        """Fills the disk until so many bytes are free."""
        ballast = self.of(pid) / "ballast"
        ballast.unlink(missing_ok=True)
        facts = os.statvfs(self.of(pid))
        room = facts.f_bavail * facts.f_frsize
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, room - free))

    def make_room(self, pid: int) -> None:
        """Ends what :meth:`leave` began."""
        (self.of(pid) / "ballast").unlink(missing_ok=True)
