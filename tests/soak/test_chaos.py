"""The program that lets everything go wrong at once, for some seconds and for half an hour."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tools import need_tool

ROOT = Path(__file__).parents[2]


def play(folder: Path, *arguments: str, timeout_s: float) -> dict[str, object]:
    """Runs the program; what it found."""
    need_tool("mosquitto", "/usr/sbin/mosquitto")
    found = folder / "found.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak.chaos", "--json", str(found), "--keep",
         str(folder / "sea"), *arguments],
        cwd=ROOT, timeout=timeout_s, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    print(done.stdout.decode())
    outcome: dict[str, object] = json.loads(found.read_text())
    broken = [one for one in outcome["checks"] if not one["holds"]]  # type: ignore[attr-defined]
    assert not broken
    assert done.returncode == 0
    return outcome


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_some_seconds_of_it_hold(tmp_path: Path) -> None:
    """So that the program itself cannot rot: full disk, controller, agent, broker and its file."""
    found = play(tmp_path, "--minutes", "0.2", "--devices", "4", "--seed", "386", timeout_s=580)
    assert found["figures"]["batches_stored"] > 0  # type: ignore[index]


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_half_an_hour_of_it_holds(tmp_path: Path) -> None:
    """All of it."""
    play(tmp_path, timeout_s=3500)
