"""What provisions a Linux board: the systemd unit and the cloud-init example."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from agent.release import starter
from fleet.joining import command, installer
from tests.support.tools import need_tool

LINUX = Path("firmware_configs/linux")
UNIT = LINUX / "shoal-agent.service"


def _unit(folder: Path) -> Path:
    """The unit with a program that this machine has."""
    path = folder / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/shoal/bin/python", "/bin/true"))
    return path


def test_the_unit_is_one_that_systemd_reads(tmp_path: Path) -> None:
    """A directive with a wrong name or value is a warning, and none is accepted."""
    command = [need_tool("systemd-analyze"), "verify", "--man=no", str(_unit(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert UNIT.name not in done.stderr, done.stderr


def test_the_unit_gives_the_agent_next_to_nothing(tmp_path: Path) -> None:
    """What systemd says of it: an exposure of at most 3.0 out of 10."""
    command = [need_tool("systemd-analyze"), "security", "--offline=true", "--threshold=30"]
    done = subprocess.run(
        [*command, "--no-pager", str(_unit(tmp_path))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-500:]


def test_the_unit_starts_an_unprivileged_agent_that_is_watched() -> None:
    """As its own user, ready when it says so, started again when it is silent."""
    lines = UNIT.read_text().splitlines()
    for line in ("User=shoal", "Type=notify", "WatchdogSec=60", "StateDirectory=shoal"):
        assert line in lines


def test_the_unit_runs_the_starter_with_words_that_it_knows() -> None:
    """A misspelt option would keep every board from starting."""
    (line,) = [one for one in UNIT.read_text().splitlines() if one.startswith("ExecStart=")]
    python, isolated, m, module, *words = line.removeprefix("ExecStart=").split()
    assert (python, isolated, m) == ("/opt/shoal/bin/python", "-I", "-m")
    assert module == starter.__name__
    given = starter.parser().parse_args(words)
    assert given.home == Path("/var/lib/shoal/program")
    assert given.base == Path("/opt/shoal")
    assert given.arguments == ["run", "--config", "/etc/shoal/agent.yaml"]


def test_the_cloud_init_example_has_room_for_the_line_that_enrol_prints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Word for word, whatever quotes are in it; nothing comes from a public index."""
    text = (LINUX / "cloud-init.yaml").read_text()
    assert text.startswith("#cloud-config\n")
    assert "pip" not in text
    monkeypatch.setattr(installer, "authority", lambda fleet: b"a certificate")
    fleet: Any = SimpleNamespace(api_url="https://fleet.example:8443")
    line = command.line(fleet, "secret")
    (step,) = yaml.safe_load(text.replace("echo TOKEN | sudo python3 -c 'LINE'", line))["runcmd"]
    assert step.strip() == line


def test_provisioning_names_what_it_installs() -> None:
    """The name of the package on the public index belongs to nobody here."""
    found = subprocess.run(
        ["bash", str(LINUX / "provision.sh"), "agent.yaml"], capture_output=True, text=True
    )
    assert found.returncode != 0
    assert "name the wheel" in found.stderr


def test_provisioning_again_never_takes_the_old_key_before_the_new_file_is_whole() -> None:
    """The one command that names the file in its place is a rename."""
    text = (LINUX / "provision.sh").read_text()
    (line,) = [
        line
        for line in text.splitlines()
        if "/etc/shoal/agent.yaml" in line and not line.startswith(("#", "echo"))
    ]
    assert line == 'mv -fT "$new" /etc/shoal/agent.yaml'
    assert text.index('sync "$new"') < text.index(line)
