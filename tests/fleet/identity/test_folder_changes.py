"""What an enrolment and a revocation leave in a fleet's folder when they meet, or are cut off."""

from __future__ import annotations

import argparse
import errno
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.certificates.device import new_request
from agent.cli import enroll as command
from agent.cli.device import read_config
from contracts import codec
from contracts.config import MqttConfig
from contracts.errors import InputError, ShoalError, UnavailableError
from contracts.renewal import EnrolmentRequest
from fleet import durable, parts
from fleet.boards.folder import load_config, write_folder
from fleet.cli.app import app
from fleet.folder import Fleet, FleetConfig
from fleet.identity.authority import Authority
from fleet.membership import leaving
from fleet.parts import PASSPHRASE
from fleet.store import devices
from fleet.store.entries import Actor

WAIT_S = 90.0


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """A fleet with certificates, without programs."""
    return Fleet.init(
        tmp_path / "fleet", FleetConfig("reef", mqtt=MqttConfig(port=1883), mutual_tls=True)
    )


def test_an_enrolment_gives_nothing_back_to_a_device_that_is_revoked_meanwhile(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read who is revoked, and is about to write; then another process revokes one."""
    fleet.enroll("stolen", "raspberry-pi-5", groups=["kitchen"])
    token = fleet.open_identity().new_token("new", "raspberry-pi-5")
    about_to_write, revoked = threading.Event(), threading.Event()
    write = parts.write_configuration

    def slow(*arguments: Any, **options: Any) -> Path:
        if threading.current_thread() is enrolling:
            about_to_write.set()
            # A revocation that has to wait for the enrolment does not end before it.
            revoked.wait(0.5)
        return write(*arguments, **options)

    def revoke() -> None:
        leaving.revoke(Fleet.open(fleet.folder), "stolen", Actor("me", "admin"))
        revoked.set()

    monkeypatch.setattr(parts, "write_configuration", slow)
    enrolling = threading.Thread(target=lambda: fleet.redeem(token, new_request("new")[1].encode()))
    revoking = threading.Thread(target=revoke)
    enrolling.start()
    assert about_to_write.wait(WAIT_S)
    revoking.start()
    for thread in (enrolling, revoking):
        thread.join(WAIT_S)
    assert revoked.is_set()
    acl = (fleet.folder / "broker/acl").read_text()
    assert "user stolen\ntopic deny shoal/v1/reef/#" in acl
    assert "kitchen" not in acl


def locked(*_: object) -> None:
    """What the database does when it is busy for long."""
    raise UnavailableError("database", "database is locked")


def test_an_enrolment_that_broke_off_in_the_database_is_repaired_by_the_same_request(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate was given out already; the device is then in the database too, once."""
    token = fleet.open_identity().new_token("d1", "raspberry-pi-5", labels={"site": "graz"})
    request = new_request("d1")[1].encode()
    with monkeypatch.context() as patch:
        patch.setattr(devices, "enroll", locked)
        with pytest.raises(UnavailableError):
            fleet.redeem(token, request)
    first = fleet.redeem(token, request)
    store = fleet.open_store()
    with store.write() as connection:
        assert devices.get(connection, "d1").enrolled_at is not None
        devices.relabel(store, connection, "d1", labels={"site": "linz"})
    assert fleet.redeem(token, request) == first
    with store.read() as connection:
        assert devices.get(connection, "d1").labels == {"site": "linz"}, "the operator's word"
    store.close()
    assert len(fleet.open_identity().certificates("d1")) == 1


def full(*_: object) -> None:
    """What a disk without room does."""
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", ["the passphrase", "the database", "the disk", "the signature"])
def test_a_replacement_that_fails_takes_nothing_from_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Its file, which has the only key, its certificate, and the list of revoked ones stay."""
    monkeypatch.setenv(PASSPHRASE, "right")
    config = FleetConfig("reef", mqtt=MqttConfig(port=1883), mutual_tls=True)
    fleet = Fleet.init(tmp_path / "fleet", config)
    _, path = fleet.enroll("d1", "raspberry-pi-5")
    before = path.read_bytes(), (fleet.folder / "ca/crl.pem").read_bytes()
    with monkeypatch.context() as patch:
        match what:
            case "the passphrase":
                patch.setenv(PASSPHRASE, "wrong")
            case "the database":
                patch.setattr(devices, "enroll", locked)
            case "the disk":
                patch.setattr(durable.Staged, "write", full)
            case "the signature":
                patch.setattr(Authority, "issue_client", full)
        with pytest.raises((ShoalError, OSError)):
            fleet.enroll("d1", "raspberry-pi-5", replace=True)
    assert (path.read_bytes(), (fleet.folder / "ca/crl.pem").read_bytes()) == before
    (certificate,) = fleet.open_identity().certificates("d1")
    assert certificate.revoked is None
    assert [file.name for file in path.parent.iterdir()] == ["agent.yaml"]

    fleet.enroll("d1", "raspberry-pi-5", replace=True)
    assert path.read_bytes() != before[0]
    old, new = fleet.open_identity().certificates("d1")
    assert (old.revoked is not None, new.revoked) == (True, None)


@pytest.mark.parametrize("what", ["the database", "the disk"])
def test_a_first_enrolment_that_fails_can_be_done_again(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The name is not taken by a device that nobody has the key of."""
    with monkeypatch.context() as patch:
        if what == "the database":
            patch.setattr(devices, "enroll", locked)
        else:
            patch.setattr(durable.Staged, "write", full)
        with pytest.raises((ShoalError, OSError)):
            fleet.enroll("d1", "raspberry-pi-5")
    assert not (fleet.folder / "devices/d1/agent.yaml").exists()
    fleet.enroll("d1", "raspberry-pi-5")
    assert len(fleet.open_identity().certificates("d1")) == 1


def test_a_board_without_its_compiler_is_not_enrolled_half(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are the files of an older key replaced in part."""
    monkeypatch.setenv(PASSPHRASE, "")
    command = ["fleet", "enroll", "chip", "--board", "esp32-s3", "--dir", str(fleet.folder)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    board = fleet.folder / "devices/chip/chip-board"
    before = {path: path.read_bytes() for path in board.rglob("*") if path.is_file()}
    monkeypatch.setattr(sys, "executable", str(fleet.folder / "nowhere/python"))
    done = CliRunner().invoke(app, [*command, "--replace"])
    assert (done.exit_code, "no-compiler" in done.stderr) == (1, True)
    with pytest.raises(UnavailableError):
        write_folder(load_config(fleet.folder / "devices/chip/agent.yaml"), board)
    assert {path: path.read_bytes() for path in board.rglob("*") if path.is_file()} == before
    (certificate,) = fleet.open_identity().certificates("chip")
    assert certificate.revoked is None


class Device:
    """A device with a token, whose way to the controller may lose the answer."""

    def __init__(self, fleet: Fleet, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._fleet = fleet
        self.lost = False
        self.requests: list[str] = []
        token = folder / "token"
        token.write_text(fleet.open_identity().new_token("d1", "raspberry-pi-5"))
        self._token = token
        monkeypatch.setattr(command, "post", self._post)

    def _post(self, _url: str, body: bytes, _context: object) -> bytes:
        asked = codec.decode(body, EnrolmentRequest, what="a request")
        self.requests.append(asked.request)
        answer = codec.encode(self._fleet.redeem(asked.token, asked.request.encode()))
        if self.lost:
            raise UnavailableError("controller-unreachable", "connection reset")
        return answer

    def enroll(self, config: Path) -> int:
        """``shoal-agent enroll``."""
        return command.enroll(
            argparse.Namespace(
                config=config, url="http://127.0.0.1:1", token_file=self._token, ca=None, json=False
            )
        )


def test_a_configuration_that_cannot_be_written_costs_no_token(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is missing: that is found before anybody is asked."""
    device = Device(fleet, tmp_path, monkeypatch)
    with pytest.raises(InputError) as caught:
        device.enroll(tmp_path / "missing/agent.yaml")
    assert caught.value.code == "bad-path"
    assert device.requests == []
    assert device.enroll(tmp_path / "agent.yaml") == 0


@pytest.mark.parametrize("lost", ["the answer", "the configuration"])
def test_an_enrolment_that_broke_off_is_finished_by_the_same_command(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """With the key that was stored before; nothing but the configuration is left behind."""
    device = Device(fleet, tmp_path, monkeypatch)
    config, pending = tmp_path / "agent.yaml", tmp_path / ".agent.yaml.enrolling"
    write = command._write

    def full(path: Path, data: bytes) -> None:
        if path == config:
            raise InputError("bad-path", "No space left on device")
        write(path, data)

    with monkeypatch.context() as patch:
        if lost == "the configuration":
            patch.setattr(command, "_write", full)
        device.lost = lost == "the answer"
        with pytest.raises((InputError, UnavailableError)):
            device.enroll(config)
    assert stat.S_IMODE(pending.stat().st_mode) == 0o600
    device.lost = False
    assert device.enroll(config) == 0
    assert device.requests[0] == device.requests[1]
    assert not pending.exists()
    assert read_config(config).mqtt.tls is not None
    pending.touch()
    with pytest.raises(InputError):
        device.enroll(config)
    assert not pending.exists(), "a power cut left it behind the configuration"


def test_what_the_operator_decides_for_all_stands_in_each_configuration(
    fleet: Fleet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Sources and consent, by the line and by a file; who joins is told which texts may leave."""
    settings = """
device_settings:
  sources:
  - {name: hall, kind: unix, path: /run/hall.sock, share: hard}
  - {name: door, kind: stdin}
  examples: {keep: true, share: ask}
  share_logs: false
"""
    path = fleet.folder / "fleet.yaml"
    path.write_text(path.read_text() + settings)
    fleet = Fleet.open(fleet.folder)
    device = Device(fleet, tmp_path, monkeypatch)
    assert device.enroll(tmp_path / "agent.yaml") == 0
    told = capsys.readouterr().out
    assert "hard examples of the source hall may leave this device" in told
    assert "door" not in told
    done = CliRunner().invoke(
        app,
        ["fleet", "enroll", "by-file", "--board", "raspberry-pi-5", "--file",
         "--dir", str(fleet.folder)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for written in (tmp_path / "agent.yaml", fleet.folder / "devices/by-file/agent.yaml"):
        config = read_config(written)
        assert [(one.name, one.share) for one in config.sources] == [
            ("hall", "hard"),
            ("door", "ask"),
        ]
        assert (config.examples.keep, config.examples.share) == (True, "ask")
        assert config.share_logs is False


def test_settings_of_devices_that_mean_nothing_are_refused_before_a_token_is_spent(
    fleet: Fleet,
) -> None:
    """A name that no agent knows, a value out of bounds."""
    path = fleet.folder / "fleet.yaml"
    text = path.read_text()
    for wrong in ("{share: hard}", "{sources: [{name: a, kind: usb}]}", "{telemetry_s: 0}"):
        path.write_text(f"{text}\ndevice_settings: {wrong}\n")
        with pytest.raises(InputError) as caught:
            Fleet.open(fleet.folder)
        assert "device_settings" in str(caught.value)
