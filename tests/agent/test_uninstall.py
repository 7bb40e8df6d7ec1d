"""``shoal-agent uninstall`` says what it could not remove."""

from __future__ import annotations

import argparse
import os
import pwd
from pathlib import Path

import pytest

from agent.cli import uninstall
from contracts.errors import RefusedError


def _board(folder: Path, patch: pytest.MonkeyPatch, user: str) -> None:
    """A board whose folders are in `folder`, and whose programs are those in its ``bin``."""
    (folder / "bin").mkdir()
    for name in ("etc", "var"):
        (folder / name).mkdir()
    patch.setenv("PATH", str(folder / "bin"))
    patch.setattr(os, "geteuid", lambda: 0)
    patch.setattr(uninstall, "UNIT", folder / "shoal-agent.service")
    patch.setattr(uninstall, "FOLDERS", (folder / "etc", folder / "var"))
    patch.setattr(uninstall, "PROGRAMS", folder / "opt")
    patch.setattr(uninstall, "USER", user)


def test_a_user_that_stays_is_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a userdel that fails, as while somebody is logged in, and of none at all."""
    user = pwd.getpwuid(os.getuid()).pw_name
    _board(tmp_path, monkeypatch, user)
    with pytest.raises(RefusedError, match=f"the user {user} .there is no userdel"):
        uninstall.uninstall(argparse.Namespace(json=False))
    assert not (tmp_path / "etc").exists()
    userdel = tmp_path / "bin" / "userdel"
    userdel.write_text(
        f"#!/bin/sh\necho userdel: user {user} is currently used by process 7 >&2\nexit 8\n"
    )
    userdel.chmod(0o755)
    with pytest.raises(RefusedError, match="is currently used by process 7") as raised:
        uninstall.uninstall(argparse.Namespace(json=False))
    assert raised.value.code == "not-removed"


def test_a_board_without_the_user_is_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is told of a user that is gone, whatever userdel says."""
    _board(tmp_path, monkeypatch, "no-such-user-here")
    assert uninstall.uninstall(argparse.Namespace(json=False)) == 0
    assert capsys.readouterr().out.startswith("removed")
