"""What an enrolment and a revocation leave in a fleet's folder when they meet, or are cut off."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from agent.certificate import new_request
from contracts.config import MqttConfig
from fleet import folder as folders
from fleet.folder import Fleet, FleetConfig

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
