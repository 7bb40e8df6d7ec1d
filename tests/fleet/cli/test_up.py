"""``shoal fleet up``: real programs, a real broker, on ports of loopback."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from fleet.broker import reload
from fleet.broker.run import is_taken, wait_until_connectable
from fleet.cli.app import app
from fleet.folder import Fleet
from tests.support import programs
from tests.support.tools import free_port, need_tool

ROOT = Path(__file__).parents[3]
PATIENCE_S = 120.0


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """A fleet with certificates, on free ports."""
    need_tool("mosquitto", "/usr/sbin/mosquitto")
    ports = ["--mqtt-port", str(free_port()), "--api-port", str(free_port())]
    done = CliRunner().invoke(app, ["fleet", "init", str(tmp_path / "home"), "--tls", *ports])
    assert done.exit_code == 0, done.stderr
    return Fleet.open(tmp_path / "home")


class Up:
    """The program, and what it prints."""

    def __init__(self, fleet: Fleet, environment: dict[str, str] | None = None) -> None:
        self.fleet = fleet
        self.log = fleet.folder.parent / f"up-{time.monotonic_ns()}.log"
        with self.log.open("wb") as stream:
            self.process = programs.start(
                [sys.executable, "-m", "fleet", "fleet", "up", "--dir", str(fleet.folder)],
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdout=stream,
                stderr=stream,
            )

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text()

    def until(self, condition: Callable[[], object]) -> None:
        """Waits for what other processes bring about."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.text
            assert self.process.poll() is None, self.text
            time.sleep(0.05)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends it; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def up(fleet: Fleet) -> Iterator[Up]:
    """The program, once it says that it listens."""
    program = Up(fleet)
    try:
        program.until(lambda: "Dashboard" in program.text)
        yield program
    finally:
        program.end()


def broker_of(fleet: Fleet) -> int:
    """The process id of the fleet's broker."""
    pid = reload.running(fleet.folder / "broker")
    assert pid is not None
    return pid


def test_one_command_starts_all_and_its_end_ends_all(fleet: Fleet) -> None:
    """It says where the dashboard and the token are; a command and a device get in."""
    with up(fleet) as program:
        assert f"Dashboard  {fleet.api_url}" in program.text
        assert f"Token      {fleet.token_file}" in program.text
        config, _ = fleet.enroll("kitchen", "raspberry-pi-5")
        wait_until_connectable(config.mqtt)
        found = CliRunner().invoke(app, ["fleet", "devices", "--dir", str(fleet.folder)])
        assert found.exit_code == 0, found.stderr
        assert "kitchen" in found.stdout
        pid = broker_of(fleet)
        assert program.end() == 0
    assert not is_taken(fleet.config.mqtt.port)
    assert not is_taken(fleet.config.api.port)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_fleet_of_this_machine_alone_is_open_to_no_other(tmp_path: Path) -> None:
    """Without an address the API has no TLS; the ports of all its programs are on loopback."""
    ports = ["--mqtt-port", str(free_port()), "--api-port", str(free_port())]
    done = CliRunner().invoke(app, ["fleet", "init", str(tmp_path / "plain"), *ports])
    assert done.exit_code == 0, done.stderr
    plain = Fleet.open(tmp_path / "plain")
    with up(plain):
        sockets = [one for one in psutil.net_connections("tcp") if one.status == "LISTEN"]
        mine = [one.laddr.ip for one in sockets if one.laddr and str(one.laddr.port) in ports]
    assert len(mine) == 2
    assert all(ipaddress.ip_address(ip).is_loopback for ip in mine), mine


def test_ctrl_c_ends_the_controller_before_the_broker(fleet: Fleet) -> None:
    """A terminal signals the whole group; what the controller still says must arrive."""
    with up(fleet) as program:
        assert os.getpgid(broker_of(fleet)) != os.getpgid(program.process.pid)
        assert program.end(signal.SIGINT) == 0


def test_a_broker_that_dies_is_started_again(fleet: Fleet) -> None:
    """And the controller comes back to it."""
    with up(fleet) as program:
        first = broker_of(fleet)
        os.kill(first, signal.SIGKILL)
        program.until(lambda: reload.running(fleet.folder / "broker") not in (None, first))
        wait_until_connectable(fleet.controller_mqtt())
        assert "the broker ended" in program.text


def test_a_broker_that_a_killed_controller_left_is_used(fleet: Fleet) -> None:
    """With its queues; and it is not ended by who did not start it."""
    with up(fleet) as first:
        pid = broker_of(fleet)
        first.end(signal.SIGKILL)
    try:
        with up(fleet):
            assert broker_of(fleet) == pid
        assert broker_of(fleet) == pid
        with up(fleet) as last:
            os.kill(pid, signal.SIGKILL)
            last.until(lambda: reload.running(fleet.folder / "broker") not in (None, pid))
            wait_until_connectable(fleet.controller_mqtt())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def test_a_port_that_is_taken_is_one_line_that_names_the_setting(fleet: Fleet) -> None:
    """Of the broker and of the API alike; nothing is left running."""
    for port, setting in ((fleet.config.mqtt.port, "mqtt.port"), (fleet.config.api.port, "api.")):
        with socket.create_server(("127.0.0.1", port)):
            program = Up(fleet)
            assert program.process.wait(PATIENCE_S) == 1
        lines = [one for one in program.text.splitlines() if one.startswith("error: ")]
        assert len(lines) == 1, program.text
        assert str(port) in lines[0]
        assert setting in lines[0], lines
        assert "Traceback" not in program.text
        assert reload.running(fleet.folder / "broker") is None


def test_without_mosquitto_a_fleet_with_certificates_says_what_to_install(
    fleet: Fleet, tmp_path: Path
) -> None:
    """One without certificates, for this machine alone, has the broker of the package."""
    empty = tmp_path / "bin"
    empty.mkdir()
    script = (
        "import fleet.broker.run as run, sys\n"
        "from contracts.errors import UnavailableError\n"
        "def missing():\n"
        "    raise UnavailableError('no-mosquitto', 'mosquitto is not installed: apt-get')\n"
        "run.find_mosquitto = missing\n"
        "import fleet.cli.up as up\n"
        "up.find_mosquitto = missing\n"
        "from fleet.cli.app import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, "fleet", "up", "--dir", str(fleet.folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "error: mosquitto is not installed" in done.stderr
    assert "Traceback" not in done.stderr
