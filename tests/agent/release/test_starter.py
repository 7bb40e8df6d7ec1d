"""The starter as a process: what it starts, when it gives up, and what ends with what."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.release import home, starter
from tests.support.tools import until

NAME = "ab" * 32
OWN = "import sys; sys.argv[0] = 'x'; import agent.release.starter as s; s.PAUSE_S = 0.01; "


class Device:
    """A folder with a base, whose programs are shell scripts, and a release on trial."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.said = folder / "said"
        self.home.mkdir()
        self.program(folder / "base", "echo base >> said; exit 7")

    def program(self, at: Path, script: str) -> None:
        """An environment whose program is a script."""
        (at / "bin").mkdir(parents=True)
        python = at / "bin/python"
        python.write_text(f"#!/bin/sh\ncd {self.folder}\n{script}\n")
        python.chmod(0o755)
        (at / "ready.json").write_text("{}")

    def on_trial(self, script: str, **changes: Any) -> None:
        """A release on trial."""
        self.program(self.home / "releases" / NAME, script)
        trial = {"release": NAME, "starts": 0, "max_starts": 3, "deadline_s": 60.0} | changes
        (self.home / "trial.json").write_text(json.dumps(trial))

    def start(self) -> subprocess.Popen[bytes]:
        """The starter."""
        return subprocess.Popen(
            [
                sys.executable, "-c", OWN + "sys.exit(s.main())",
                "--home", str(self.home), "--base", str(self.folder / "base"), "run", "--x", "1",
            ],
            cwd=Path(__file__).parents[3],
        )  # fmt: skip

    def lines(self) -> list[str]:
        """What the programs wrote."""
        return self.said.read_text().split() if self.said.exists() else []

    def failed(self) -> dict[str, Any]:
        """What the starter wrote down."""
        found: dict[str, Any] = json.loads((self.home / "failed.json").read_text())
        return found


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """One with nothing on trial."""
    return Device(tmp_path)


def test_what_was_installed_is_started_when_there_is_no_release(device: Device) -> None:
    """Its exit code is the starter's: it has become the program."""
    assert device.start().wait(60) == 7
    assert device.lines() == ["base"]


def test_what_is_current_is_started_with_the_words_that_were_given(device: Device) -> None:
    """And is told where its releases are."""
    device.program(device.home / "releases" / NAME, 'echo "$@" $SHOAL_STARTER > said')
    (device.home / "current").symlink_to(f"releases/{NAME}")
    assert device.start().wait(60) == 0
    words = device.lines()
    assert words[:6] == ["-I", "-m", "agent", "run", "--x", "1"]
    told = home.Started.read({home.VARIABLE: device.said.read_text().split(" 1 ", 1)[1].strip()})
    assert told is not None
    assert told.release == NAME
    assert not told.watched


def test_a_current_release_that_is_gone_is_passed_over(device: Device) -> None:
    """What was installed runs."""
    (device.home / "current").symlink_to(f"releases/{NAME}")
    assert device.start().wait(60) == 7


def test_a_release_that_crashes_is_given_up_after_its_starts(device: Device) -> None:
    """Each is counted; then what worked runs."""
    device.on_trial("echo new >> said; exit 1")
    assert device.start().wait(60) == 7
    assert device.lines() == ["new", "new", "new", "base"]
    assert device.failed()["code"] == "trial-restarts"
    assert not (device.home / "trial.json").exists()


def test_a_release_that_hangs_is_killed_at_its_deadline(device: Device) -> None:
    """And not tried again."""
    device.on_trial("echo new >> said; exec sleep 600", deadline_s=0.2)
    assert device.start().wait(60) == 7
    assert device.lines() == ["new", "base"]
    assert device.failed()["code"] == "trial-deadline"


def test_a_release_that_passed_its_trial_runs_on_beyond_the_deadline(device: Device) -> None:
    """And its end is the starter's end: systemd starts it again."""
    device.on_trial("rm home/trial.json; sleep 0.5; echo new >> said; exit 3", deadline_s=0.1)
    assert device.start().wait(60) == 3
    assert device.lines() == ["new"]
    assert not (device.home / "failed.json").exists()


def test_an_agent_that_asks_for_it_is_chosen_anew_at_once(device: Device) -> None:
    """It has withdrawn its trial, or begun another one."""
    device.on_trial(f"rm home/trial.json; echo new >> said; exit {home.AGAIN}")
    assert home.AGAIN == starter.AGAIN
    assert device.start().wait(60) == 7
    assert device.lines() == ["new", "base"]


def test_a_release_that_was_not_whole_is_not_started(device: Device) -> None:
    """A power cut came before its last file."""
    device.on_trial("echo new >> said")
    (device.home / "releases" / NAME / "ready.json").unlink()
    assert device.start().wait(60) == 7
    assert device.lines() == ["base"]
    assert device.failed()["code"] == "release-missing"


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "7", '{"release": 7}',
        '{"release": "../x", "starts": 0, "max_starts": 1, "deadline_s": 1}',
        '{"release": "ab", "starts": "0", "max_starts": 1, "deadline_s": 1}',
    ],
)  # fmt: skip
def test_a_trial_that_cannot_be_read_is_none(device: Device, text: str) -> None:
    """What worked is chosen, whatever stands there."""
    (device.home / "trial.json").write_text(text)
    chosen = starter.choose(starter.Disk(), device.home, device.folder / "base")
    assert chosen == (device.folder / "base", "", None)


def test_a_start_that_cannot_be_counted_does_not_happen(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk a release that crashes would be started for ever."""
    device.on_trial("exit 1")

    def full(*_: object) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(starter.Disk, "write", full)
    chosen = starter.choose(starter.Disk(), device.home, device.folder / "base")
    assert chosen == (device.folder / "base", "", None)
    assert (device.home / "trial.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_goes_to_the_release_on_trial_and_ends_both(
    device: Device, number: signal.Signals
) -> None:
    """As systemd stops it: nothing is started after that."""
    device.on_trial("trap 'echo told >> said; exit 5' TERM INT; echo $$ >> said; sleep 600 & wait")
    process = device.start()
    until(lambda: device.lines(), 60)
    process.send_signal(number)
    assert process.wait(60) == 5
    assert device.lines()[1:] == ["told"]


def test_a_release_on_trial_ends_with_a_starter_that_is_killed(device: Device) -> None:
    """Two agents must not run on one state folder; the start was counted."""
    device.on_trial("echo $$ >> said; exec sleep 600")
    process = device.start()
    until(lambda: device.lines(), 60)
    child = int(device.lines()[0])
    process.kill()
    process.wait(60)

    def gone() -> bool:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return True
        return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    until(gone, 60)
    trial = json.loads((device.home / "trial.json").read_text())
    assert trial["starts"] == 1


def test_a_second_starter_on_the_same_folder_ends_at_once(device: Device) -> None:
    """It must not use up the starts of the trial."""
    device.on_trial("echo $$ >> said; exec sleep 600")
    first = device.start()
    until(lambda: device.lines(), 60)
    assert device.start().wait(60) == 1
    trial = json.loads((device.home / "trial.json").read_text())
    assert trial["starts"] == 1
    first.kill()
    first.wait(60)
