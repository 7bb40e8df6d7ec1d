"""``shoal fleet doctor`` finds each of many planted faults, and names what mends it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socketserver
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from contracts.config import MqttConfig
from fleet import enforcement as access
from fleet.broker import reload
from fleet.cli.app import app
from fleet.doctor import Finding, examine
from fleet.folder import Fleet, FleetConfig
from tests.support.bundles import noise_bundle
from tests.support.tools import free_port, need_tool

PASSPHRASE = "SHOAL_PASSPHRASE"


class Case:
    """A copy of a sound fleet with certificates, and how it is looked at."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.patch = patch
        self.clock: Callable[[], float] = time.time
        self.options: dict[str, Any] = {"free": lambda _: (1 << 40, 1 << 41)}
        self.stack = contextlib.ExitStack()

    @property
    def fleet(self) -> Fleet:
        """As it is now."""
        return Fleet.open(self.folder)

    def set(self, **fields: Any) -> None:
        """Changes ``fleet.yaml``."""
        path = self.folder / "fleet.yaml"
        document = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**document, **fields}, sort_keys=False))

    def listens(self, port: int) -> None:
        """Another program takes a port, and says nothing to anybody."""
        server = socketserver.ThreadingTCPServer(
            ("127.0.0.1", port), socketserver.BaseRequestHandler
        )
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        self.stack.callback(server.server_close)
        self.stack.callback(thread.join)
        self.stack.callback(server.shutdown)

    def found(self) -> list[Finding]:
        """What the doctor says, but that nothing runs here."""
        quiet = {"broker-down", "controller-down"}
        said = examine(self.folder, clock=self.clock, **self.options)
        return [finding for finding in said if finding.code not in quiet]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet with a published bundle and two devices, one of which is revoked."""
    work = tmp_path_factory.mktemp("doctor")
    config = FleetConfig("reef", mqtt=MqttConfig(port=free_port()), mutual_tls=True)
    fleet = Fleet.init(work / "fleet", config)
    fleet.publish(noise_bundle(work / "bundle").path)
    for name in ("kitchen", "garden"):
        fleet.enroll(name, "raspberry-pi-5")
    identity = fleet.open_identity()
    identity.revoke("garden")
    access.apply(fleet, identity, revoked=True)
    return fleet.folder


@pytest.fixture
def case(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """A copy of the fleet, at home in its folder; nothing of it runs."""
    shutil.copytree(template, tmp_path / "fleet")
    monkeypatch.delenv(PASSPHRASE, raising=False)
    made = Case(tmp_path / "fleet", monkeypatch)
    made.set(mqtt={"port": free_port()}, api={"port": free_port()})
    made.fleet.write_broker_configuration()
    with made.stack:
        yield made


def remove(path: str) -> Callable[[Case], None]:
    """Removes what a pattern means."""

    def plant(case: Case) -> None:
        found = list(case.folder.glob(path))
        assert found
        for one in found:
            one.unlink()

    return plant


def write(path: str, data: bytes) -> Callable[[Case], None]:
    """Replaces what a pattern means."""

    def plant(case: Case) -> None:
        (one,) = case.folder.glob(path)
        one.write_bytes(data)

    return plant


def expose(path: str) -> Callable[[Case], None]:
    """Lets others read."""

    def plant(case: Case) -> None:
        for one in case.folder.glob(path):
            one.chmod(0o644)

    return plant


def swap_pair(case: Case) -> None:
    """One key of a pair from another one."""
    shutil.copyfile(case.folder / "ca/controller.key.pem", case.folder / "ca/broker.key.pem")


def forge(case: Case) -> None:
    """One byte of what is signed."""
    newest = max((case.folder / "repository/metadata").glob("*.targets.json"), key=_version)
    newest.write_bytes(newest.read_bytes().replace(b'"release":1', b'"release":7'))


def _version(path: Path) -> int:
    return int(path.name.split(".")[0])


def older_schema(case: Case) -> None:
    """The database of an earlier version."""
    with sqlite3.connect(case.folder / "state.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0140'")


def newer_schema(case: Case) -> None:
    """The database of a later version."""
    with sqlite3.connect(case.folder / "state.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


def locked_keys(case: Case) -> None:
    """Keys with a passphrase that is not set."""
    case.patch.setenv(PASSPHRASE, "right")
    shutil.rmtree(case.folder)
    config = FleetConfig("reef", mqtt=MqttConfig(port=free_port()), mutual_tls=True)
    Fleet.init(case.folder, config)
    case.patch.delenv(PASSPHRASE)


def signed_later(case: Case) -> None:
    """The clock went back."""
    later = time.time() + 7200
    os.utime(case.folder / "repository/metadata/timestamp.json", (later, later))


def revoked_elsewhere(case: Case) -> None:
    """A revocation that broke off before the list was written."""
    before = (case.folder / "ca/crl.pem").read_bytes()
    case.fleet.open_identity().revoke("kitchen")
    (case.folder / "ca/crl.pem").write_bytes(before)
    (case.folder / "ca/broker/crl.pem").write_bytes(before)


def stranger(case: Case) -> None:
    """The folder of another user."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a folder away")
    os.chown(case.folder, 12345, -1)


def foreign_api(case: Case) -> None:
    """Another program on the API's port."""
    case.listens(case.fleet.config.api.port)


def foreign_broker(case: Case) -> None:
    """Another program on the broker's port."""
    case.listens(case.fleet.config.mqtt.port)


def no_mosquitto(case: Case) -> None:
    """No broker is installed."""
    case.patch.setattr("fleet.broker.run.shutil.which", lambda *_, **__: None)


def at(seconds: float) -> Callable[[Case], None]:
    """A moment from now, or one of its own."""

    def plant(case: Case) -> None:
        case.clock = lambda: time.time() + seconds

    return plant


def at_boot(case: Case) -> None:
    """A clock that was never set."""
    case.clock = lambda: 60.0


DAY = 86400.0
FAULTS: dict[str, tuple[Callable[[Case], None], str, str]] = {
    "no fleet here": (remove("fleet.yaml"), "not-a-fleet", "shoal fleet init"),
    "a setting that is none": (lambda c: c.set(prot=1), "bad-message", "correct"),
    "no certificates, but an address": (
        lambda c: c.set(host="fleet.example.org", mutual_tls=False), "tls-needed", "correct",
    ),
    "a key that others read": (expose("keys/timestamp-*.pem"), "exposed", "chmod go= "),
    "a token that others read": (expose("tokens/admin"), "exposed", "tokens/admin"),
    "the folder of another": (stranger, "wrong-owner", "sudo chown -R"),
    "a secret that is cut off": (write("ca/session.secret", b""), "bad-secret", "rm "),
    "no online key": (remove("keys/snapshot-*.pem"), "key-missing", "keys rotate snapshot"),
    "no passphrase": (locked_keys, "key-locked", PASSPHRASE),
    "no authority": (remove("ca/ca.pem"), "no-authority", "shoal fleet restore"),
    "a key of another certificate": (swap_pair, "broker-certificate", "shoal fleet up"),
    "a name that no certificate has": (
        lambda c: c.set(names=["fleet.local"]), "broker-certificate", "shoal fleet up",
    ),
    "copies that are old": (write("ca/broker/crl.pem", b"old"), "broker-copy", "shoal fleet up"),
    "a revocation that is not in the list": (revoked_elsewhere, "revocations", "shoal fleet up"),
    "a signature that ran out": (at(400 * DAY), "expiry-role", "keys resign --targets"),
    "a certificate that ran out": (at(7000 * DAY), "expiry-certificate", "controller renews it"),
    "a folder that moved": (
        lambda c: c.folder.rename(c.folder.parent / "b") and setattr(
            c, "folder", c.folder.parent / "b"
        ), "configuration-moved", "shoal fleet up",
    ),
    "another port": (
        lambda c: c.set(mqtt={"port": free_port()}), "configuration-old", "shoal fleet up",
    ),
    "access control that is old": (write("broker/acl", b"user x\n"), "acl-old", "shoal fleet up"),
    "no configuration of the broker": (
        remove("broker/mosquitto.conf"), "no-configuration", "shoal fleet up",
    ),
    "a name that nobody knows": (
        lambda c: c.set(mqtt={"host": "nowhere.invalid", "port": 1}), "name-unknown", "mqtt.host",
    ),
    "no mosquitto": (no_mosquitto, "no-mosquitto", "apt-get install mosquitto"),
    "another program at the broker's port": (foreign_broker, "broker-foreign", "mqtt.port"),
    "another program at the API's port": (foreign_api, "api-foreign", "api.port"),
    "a list that somebody changed": (forge, "wrong-signature", "keys resign --targets"),
    "metadata that is gone": (
        remove("repository/metadata/*.snapshot.json"), "repository-corrupt", "shoal fleet restore",
    ),
    "a manifest that is damaged": (
        write("repository/targets/bundles/*/*/*.manifest.json", b"{}"), "bundle-corrupt",
        "shoal fleet publish",
    ),
    "files of a bundle that are gone": (
        remove("repository/blobs/*"), "bundle-corrupt", "shoal fleet publish",
    ),
    "no database": (remove("state.db"), "no-database", "shoal fleet restore"),
    "a database that is none": (write("state.db", b"noise" * 999), "database", "fleet restore"),
    "a database of before": (older_schema, "old-schema", "shoal fleet up"),
    "a database of later": (newer_schema, "newer-database", "pip install --upgrade"),
    "a database that is away": (
        lambda c: c.set(database=f"postgresql://x@127.0.0.1:{free_port()}/x"), "database",
        "start the database",
    ),
    "no room": (
        lambda c: c.options.update(free=lambda _: (1 << 20, 1 << 40)), "disk-full", "retention",
    ),
    "a clock that was not set": (at_boot, "clock-wrong", "timedatectl"),
    "a clock that went back": (signed_later, "clock-wrong", "timedatectl"),
    "few open files": (
        lambda c: c.options.update(most_files=lambda: 256), "few-files", "LimitNOFILE=",
    ),
}  # fmt: skip
"""What is broken: how, the code of the finding, and a part of its cure."""


def test_a_sound_fleet_has_no_finding(case: Case) -> None:
    """But that nothing runs."""
    assert case.found() == []
    said = list(examine(case.folder, **case.options))
    assert {one.code: one.cure.split(" --dir")[0] for one in said} == {
        "broker-down": "shoal fleet up", "controller-down": "shoal fleet up",
    }  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_planted_fault_is_found_and_its_cure_named(case: Case, fault: str) -> None:
    """By its code, with a command or a setting; nothing else raises."""
    plant, code, cure = FAULTS[fault]
    plant(case)
    found = case.found()
    mine = [one for one in found if one.code.startswith(code)]
    assert mine, f"{fault}: {found}"
    assert any(cure in one.cure for one in mine), mine


def test_there_are_as_many_faults_as_promised() -> None:
    """Twenty-five kinds at least."""
    assert len(FAULTS) >= 25


def test_a_broker_that_has_not_read_its_files_is_found(case: Case, tmp_path: Path) -> None:
    """A revocation that it was not told of."""
    from fleet.broker import MosquittoBroker

    case.patch.setattr(reload, "reload", lambda _: reload.Reload(signalled=True))
    program = need_tool("mosquitto", "/usr/sbin/mosquitto")
    fleet = case.fleet
    conf = fleet.folder / "broker/mosquitto.conf"
    with MosquittoBroker(conf, port=fleet.config.mqtt.port, program=program):
        assert case.found() == []
        identity = fleet.open_identity()
        identity.revoke("kitchen")
        access.apply(fleet, identity, revoked=True)
        (finding,) = case.found()
    assert finding.code == "broker-old"
    assert finding.cure.startswith("kill -HUP ")


def test_the_command_prints_what_is_wrong_and_exits_with_it(case: Case) -> None:
    """For people and for machines."""
    (case.folder / "tokens/admin").chmod(0o644)
    done = CliRunner().invoke(app, ["fleet", "doctor", "--dir", str(case.folder)])
    assert done.exit_code == 1
    assert "BROKEN folder: 1 private files can be read by others" in done.output
    assert "mend: chmod go= " in done.output
    done = CliRunner().invoke(app, ["fleet", "doctor", "--json", "--dir", str(case.folder)])
    assert '"code": "exposed"' in done.output


def test_a_host_that_nobody_knows_is_told_wherever_it_is_met(tmp_path: Path) -> None:
    """A mistyped ``--host``: the controller runs, and starting it again would not help."""
    folder = tmp_path / "home"
    port = free_port()
    done = CliRunner().invoke(
        app, ["fleet", "init", str(folder), "--host", "nowhere.invalid", "--api-port", str(port)]
    )
    assert done.exit_code == 0, done.output
    assert "Note: nowhere.invalid is not found from here" in done.output
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            socketserver.ThreadingTCPServer(("", port), socketserver.BaseRequestHandler)
        )
        assert server.server_address[1] == port, "as the controller, which listens everywhere"
        codes = {finding.code for finding in examine(folder)}
        done = CliRunner().invoke(app, ["fleet", "devices", "--dir", str(folder)])
    assert "name-unknown" in codes
    assert "api-foreign" not in codes
    assert done.exit_code == 1
    assert "the name is not known here" in done.output
    assert "shoal fleet up" not in done.output
