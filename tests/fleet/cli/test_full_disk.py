"""A command that finds the disk full says so in one line, and leaves nothing half made."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fleet.cli.app import app
from fleet.config import FleetConfig
from fleet.folder import Fleet


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
