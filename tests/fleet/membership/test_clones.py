"""Two devices with one identity, on a real mosquitto with mutual TLS: noticed, and cheap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from agent import connection as connections
from agent.certificates.device import Certificate
from contracts.config import AgentConfig
from contracts.errors import ShoalError
from fleet.membership import used
from fleet.store import clones, webhooks
from tests.fleet.membership.test_leaving import Device, Reef, reef, renewal, until

__all__ = ["reef"]


def cloned(reef: Reef, sign: str = "sessions") -> Any:
    """What is known of the clones of d1; None: nothing of this kind."""
    with reef.store.read() as connection:
        found = dict(clones.every(connection)).get("d1")
    return found if found is not None and found.sign == sign else None


def copies(reef: Reef, config: AgentConfig, tmp_path: Path) -> tuple[Device, Device]:
    """Two boards flashed from one image: the same key, boots of their own."""
    one, other = Device(config, tmp_path), Device(config, tmp_path)
    other.link._boot = "b2"
    for device in (one, other):
        device.link.start()
        reef._stack.callback(device.link.stop)
    return one, other


def test_the_pair_is_noticed_once_by_address_and_goes_easy_on_everybody(
    reef: Reef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each says that the other took its session; the controller tells of both, once."""
    monkeypatch.setattr(connections, "FIRST_TAKEN_S", 0.4)
    config, _ = reef.fleet.enroll("d1", "raspberry-pi-5")
    with reef.store.write() as connection:
        hook = webhooks.Webhook("w1", "http://127.0.0.1:9/", "s" * 20, ["device-cloned"], 1.0, 1)
        webhooks.add(connection, hook)
    with capture_logs() as logs:
        one, other = copies(reef, config, tmp_path)
        until(lambda: (found := cloned(reef)) and found.count >= 3, "not noticed")
        until(lambda: one.link._backoff._taken_s >= 1.6, "it does not wait longer")
        until(lambda: other.link.takeovers, "only one of them says so")
    said = [log for log in logs if "taken over by another client" in log["event"]]
    assert len(said) == 2, "each says so once"
    told = [log for log in logs if log["event"] == "two devices have one identity"]
    assert [(log["device"], log["log_level"]) for log in told] == [("d1", "error")]
    with reef.store.read() as connection:
        (delivery,) = webhooks.due(connection, 2e9, 10)
    assert json.loads(delivery.payload)["data"]["addresses"] == ["127.0.0.1"]
    found = cloned(reef)
    assert {seen.boot for seen in found.devices} == {"b1", "b2"}


def test_two_that_were_renewed_apart_are_noticed(reef: Reef, tmp_path: Path) -> None:
    """A copy asked for a certificate of its own before the device was seen with its next."""
    config, _ = reef.fleet.enroll("d1", "raspberry-pi-5")
    tls = config.mqtt.tls
    assert tls is not None and tls.certificate is not None and tls.key is not None
    identity = reef.fleet.open_identity()
    renewed = [
        identity.renew(*renewal(tls.certificate, tls.key, "d1")).encode().decode() for _ in range(2)
    ]
    registry = reef.fleet.folder / "ca/identity.db"
    seen = [("d1", connections.fingerprint(msgspec.structs.replace(tls, certificate=pem)))
            for pem in renewed]  # fmt: skip
    assert used.note(registry, reef.store, seen[:1], 1.8e9) == []
    assert cloned(reef, "certificates") is None
    assert used.note(registry, reef.store, seen[1:], 1.8e9) == ["d1"]
    assert cloned(reef, "certificates").count == 1


def test_a_device_that_renews_is_seen_with_its_new_certificate(
    reef: Reef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From then on the one before gets no other: whoever has it is a copy, and is told of."""
    device = reef.device("d1")
    tls = device.config.mqtt.tls
    assert tls is not None and tls.certificate is not None and tls.key is not None
    from agent.certificates import device as certificates

    def post(_url: str, body: bytes, _context: object) -> bytes:
        asked = json.loads(body)
        pem = reef.fleet.open_identity().renew(
            asked["certificate"].encode(), asked["request"].encode(), asked["signature"]
        )
        return json.dumps({"certificate": pem}).encode()

    monkeypatch.setattr(certificates, "post", post)
    (tmp_path / "state").mkdir()
    certificate = Certificate(device.config, tmp_path, tmp_path / "state")
    device.link.renewed(certificate.renew())
    device.link._client._sock_close()  # the next connection uses it
    first, second = reef.fleet.open_identity().certificates("d1")

    def in_use() -> bool:
        return reef.fleet.open_identity().certificates("d1")[1].used is not None

    until(in_use, "not seen")
    assert (first.used is not None, second.parent) == (True, first.serial)
    with pytest.raises(ShoalError) as caught:
        reef.fleet.open_identity().renew(*renewal(tls.certificate, tls.key, "d1"))
    assert caught.value.code == "superseded"
    assert cloned(reef) is None, "a renewal is no clone"
