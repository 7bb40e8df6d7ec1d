"""What an enrolment and a revocation leave in a fleet's folder when they meet, or are cut off."""

from __future__ import annotations

import argparse
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from agent.certificates.device import new_request
from agent.cli import enroll as command
from agent.cli.device import read_config
from contracts import codec
from contracts.config import MqttConfig
from contracts.errors import InputError, UnavailableError
from contracts.renewal import EnrolmentRequest
from fleet import folder as folders
from fleet.folder import Fleet, FleetConfig
from fleet.store import devices

WAIT_S = 20.0


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
    write = folders.write_configuration

    def slow(*arguments: Any, **options: Any) -> Path:
        if threading.current_thread() is enrolling:
            about_to_write.set()
            # A revocation that has to wait for the enrolment does not end before it.
            revoked.wait(0.5)
        return write(*arguments, **options)

    def revoke() -> None:
        Fleet.open(fleet.folder).revoke("stolen")
        revoked.set()

    monkeypatch.setattr(folders, "write_configuration", slow)
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
        devices.relabel(connection, "d1", {"site": "linz"}, None)
    assert fleet.redeem(token, request) == first
    with store.read() as connection:
        assert devices.get(connection, "d1").labels == {"site": "linz"}, "the operator's word"
    store.close()
    assert len(fleet.open_identity().certificates("d1")) == 1


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
