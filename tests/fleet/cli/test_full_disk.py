"""A command that finds the disk full says so in one line, and leaves nothing half made."""

from __future__ import annotations

import errno
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contracts import limits
from fleet.cli.app import app
from fleet.config import FleetConfig
from fleet.folder import Fleet
from tests.support.small_disk import SmallDisk


def test_enrolment_on_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a traceback; with room again the same command works."""
    folder = tmp_path / "home"
    Fleet.init(folder, FleetConfig("home"))
    command = ["fleet", "enroll", "kitchen", "--board", "raspberry-pi-5", "--dir", str(folder)]

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit)
    assert "Traceback" not in done.output
    assert "No space left on device" in done.output
    assert not (folder / "devices" / "kitchen" / "agent.yaml").exists()
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert (folder / "devices" / "kitchen" / "agent.yaml").exists()


def test_a_database_on_a_full_disk_is_not_to_be_restored(tmp_path: Path) -> None:
    """SQLite says "disk I/O error" where there is no room for its log: nothing is broken."""
    disk = tmp_path / "disk"
    fleet = shlex.join([sys.executable, "-m", "fleet", "fleet"])
    script = (
        f"{fleet} init {disk}/home >/dev/null; cat /dev/zero > {disk}/fill; "
        f"{fleet} devices --dir {disk}/home; {fleet} enroll a --board raspberry-pi-5 "
        f"--dir {disk}/home; {fleet} doctor --dir {disk}/home; "
        f"rm {disk}/fill; {fleet} enroll a --board raspberry-pi-5 --dir {disk}/home >&2"
    )
    done = subprocess.run(
        SmallDisk(disk, 3 * limits.MIB).around(["sh", "-c", script]),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "is the disk full?" in done.stderr
    assert f"make room where {disk}/home/state.db is" in done.stdout
    assert "restore BACKUP" not in done.stdout
