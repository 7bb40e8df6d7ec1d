"""Whom the controller signals, and the units for a broker that it may not signal."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fleet.broker import MosquittoBroker, reload
from fleet.folder import Fleet, FleetConfig
from tests.support.tools import free_port, need_tool


@pytest.mark.parametrize("text", [None, "", "noise", "-1", "0", "1", "99999999999", "\udcff"])
def test_nobody_but_a_mosquitto_is_signalled(tmp_path: Path, text: str | None) -> None:
    """A process group, init, a process that is long gone: a person is asked."""
    if text is not None:
        (tmp_path / reload.PID_FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert reload.running(tmp_path) is None
    found = reload.reload(tmp_path)
    assert not found.signalled
    assert "pkill -HUP mosquitto" in found.todo


def test_another_process_with_the_number_of_a_dead_broker_is_left_alone(tmp_path: Path) -> None:
    """SIGHUP would end this one."""
    (tmp_path / reload.PID_FILE).write_text(str(os.getpid()))
    assert not reload.reload(tmp_path).signalled


def test_a_broker_that_may_not_be_signalled_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It belongs to another user."""

    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(reload, "running", lambda folder: 4711)
    monkeypatch.setattr(os, "kill", forbidden)
    assert "sudo kill -HUP 4711" in reload.reload(tmp_path).todo


def test_a_broker_of_the_generated_configuration_can_be_found(tmp_path: Path) -> None:
    """It writes its process id; when it has ended, or was killed, nobody is taken for it."""
    port = free_port()
    program = need_tool("mosquitto", "/usr/sbin/mosquitto")
    fleet = Fleet.init(tmp_path / "fleet", FleetConfig("reef"))
    folder = fleet.folder / "broker"
    text = (folder / "mosquitto.conf").read_text()
    (folder / "mosquitto.conf").write_text(text.replace("listener 1883", f"listener {port}"))
    with MosquittoBroker(folder / "mosquitto.conf", port=port, program=program) as broker:
        assert reload.running(folder) is not None
        assert reload.reload(folder).signalled
        broker.kill()
        assert reload.running(folder) is None
        broker.start()
        assert reload.running(folder) is not None
    assert reload.running(folder) is None


def test_the_units_are_ones_that_systemd_reads(tmp_path: Path) -> None:
    """For a folder with all that means something in a unit in its name."""
    fleet = Fleet.init(tmp_path / 'a 100% "fleet"', FleetConfig("reef", mutual_tls=True))
    folder = fleet.folder / "broker" / reload.UNITS
    units = sorted(folder.iterdir())
    assert [path.name for path in units] == [
        "shoal-broker-reload.path", "shoal-broker-reload.service",
    ]  # fmt: skip
    command = [need_tool("systemd-analyze"), "verify", "--man=no", *map(str, units)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "shoal-broker-reload" not in done.stderr, done.stderr
    service = (folder / "shoal-broker-reload.service").read_text()
    assert '100%% \\"fleet\\"/broker/mosquitto.pid" mosquitto' in service
    watched = (folder / "shoal-broker-reload.path").read_text()
    for name in ("broker/acl", "ca/broker/crl.pem", "ca/broker/broker.pem"):
        assert f'/a 100%% "fleet"/{name}\n' in watched
