"""Devices that leave, identities that are doubled, and what runs out, over HTTP."""

from __future__ import annotations

import time

import pytest

from contracts import codec
from contracts.messages import Status, Telemetry
from fleet import expiry
from fleet.controller import Controller
from fleet.ingest.decode import decode
from fleet.ingest.writer import Writer
from fleet.store import clones, devices, timeline
from fleet.store.departures import Departure
from tests.fleet.api.conftest import Signed


def hear(controller: Controller, kind: str, body: object, device: str = "d1") -> None:
    """A message of a device is ingested."""
    message = decode("home", f"shoal/v1/home/d/{device}/{kind}", codec.encode(body))
    written = Writer(controller.store).write([message], controller.clock())
    controller._on_changes(written.changes)


@pytest.mark.parametrize("what", ["revoke", "retire", "rename"])
def test_only_an_admin_lets_devices_leave(signed: Signed, what: str) -> None:
    """And nobody is let go who is not there."""
    body = {"name": "d9"} if what == "rename" else None
    for role, status in (("nobody", 401), ("viewer", 403), ("operator", 403)):
        assert signed(role).post(f"/v1/devices/d1/{what}", json=body).status_code == status
    answer = signed("admin").post(f"/v1/devices/nobody/{what}", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no-such-device")


def test_a_device_is_revoked(controller: Controller, signed: Signed) -> None:
    """It is in the list still, and in the audit log."""
    controller.fleet.enroll("kitchen", "raspberry-pi-5")
    admin = signed("admin")
    found = admin.post("/v1/devices/kitchen/revoke").json()
    assert (found["device"], found["told"], found["todo"]) == ("kitchen", False, "")
    assert admin.get("/v1/devices/kitchen").json()["state"] == "revoked"
    first = admin.get("/v1/audit").json()["items"][0]
    assert (first["action"], first["actor"], first["target"]) == (
        "device.revoke", "the admin", "kitchen",
    )  # fmt: skip
    asked = admin.post("/v1/queries", json={"devices": ["kitchen"], "op": "status", "timeout_s": 1})
    assert asked.status_code == 400


def test_the_history_of_a_retired_device_is_read_under_another_name(
    controller: Controller, signed: Signed
) -> None:
    """Its name is free; who left is listed."""
    hear(controller, "telemetry", Telemetry("b", 1, []))
    admin = signed("admin")
    history = admin.post("/v1/devices/d1/retire").json()["history"]
    assert admin.get("/v1/devices/d1").status_code == 404
    for part in ("updates", "telemetry", "results"):
        assert admin.get(f"/v1/devices/{history}/{part}").status_code == 200
        assert admin.get(f"/v1/devices/d1/{part}").status_code == 404
    (gone,) = admin.get("/v1/departures").json()["items"]
    assert (gone["id"], gone["device"], gone["why"]) == (history, "d1", "retired")
    assert gone.keys() == set(Departure.__struct_fields__)
    assert "d1" not in [one["id"] for one in admin.get("/v1/devices").json()["items"]]


def test_a_device_is_renamed_and_enrols_itself_under_the_new_name(
    controller: Controller, signed: Signed
) -> None:
    """With a one-time token; what it had before counts no more."""
    from agent.certificates.device import new_request

    controller.fleet.enroll("old", "raspberry-pi-5", labels={"site": "graz"})
    hear(controller, "telemetry", Telemetry("b", 1, []), device="old")
    admin = signed("admin")
    taken = admin.post("/v1/devices/old/rename", json={"name": "d1"})
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "name-taken")
    assert admin.post("/v1/devices/old/rename", json={"name": "a/b"}).status_code == 422
    renamed = admin.post("/v1/devices/old/rename", json={"name": "new"}).json()
    assert admin.get("/v1/devices/old").status_code == 404
    assert admin.get("/v1/devices/new").json()["labels"] == {"site": "graz"}
    request = new_request(None)[1]
    made = admin.post("/v1/enroll", json={"token": renamed["token"], "request": request}).json()
    assert (made["device"], made["labels"]) == ("new", {"site": "graz"})


def test_who_has_one_identity_with_another_is_listed(
    controller: Controller, signed: Signed
) -> None:
    """By address where it is known, once as an event; a device of another certificate is not."""
    viewer = signed("viewer")
    assert viewer.get("/v1/clones").json() == {"items": []}
    for session, (boot, address) in enumerate(
        [("a", "10.0.0.5"), ("b", "10.0.0.9"), ("a", "10.0.0.5"), ("b", "10.0.0.9")], 1
    ):
        hear(controller, "status", Status("online", boot, session, 1.0, address))
    (found,) = viewer.get("/v1/clones").json()["items"]
    assert (found["device"], found["sign"], found["count"]) == ("d1", "sessions", 2)
    assert found["addresses"] == ["10.0.0.5", "10.0.0.9"]
    assert set(found["boots"]) == {"a", "b"}
    assert "10.0.0.5 and 10.0.0.9" in found["message"]
    with controller.store.write() as connection:
        devices.enroll(controller.store, connection, "d1", "raspberry-pi-5", {}, [], 1.0)
    assert viewer.get("/v1/clones").json() == {"items": []}


def test_a_renewal_with_a_replaced_certificate_is_a_sign_of_a_copy(
    controller: Controller, signed: Signed
) -> None:
    """It is refused, and its address is told."""
    controller.note_copy("d1", "203.0.113.7")
    controller.note_copy("nobody", "203.0.113.7")
    (found,) = signed("viewer").get("/v1/clones").json()["items"]
    assert (found["device"], found["sign"]) == ("d1", "renewal")
    assert found["addresses"] == ["203.0.113.7"]
    with controller.store.read() as connection:
        assert [name for name, _ in clones.every(connection, time.time() + 1)] == []


def test_all_that_runs_out_is_listed(controller: Controller, signed: Signed) -> None:
    """The first to end first, each with what to do."""
    admin = signed("admin")
    admin.post("/v1/tokens", json={"name": "ci", "role": "viewer", "seconds": 40 * 86400})
    controller.expiring = expiry.Kept(controller._expiring, controller.clock)
    items = signed("viewer").get("/v1/expiry").json()["items"]
    assert [one["expires"] for one in items] == sorted(one["expires"] for one in items)
    kinds = {(one["kind"], one["name"].split(" ")[0]) for one in items}
    assert kinds >= {
        ("role", "root"), ("role", "targets"), ("role", "snapshot"), ("role", "timestamp"),
        ("certificate", "authority"), ("certificate", "broker"), ("certificate", "controller"),
        ("list", "revocation"), ("token", "ci"),
    }  # fmt: skip
    assert all(one["todo"] for one in items)


def test_a_timeline_has_the_audit_log_for_operators(controller: Controller, signed: Signed) -> None:
    """A viewer sees what the device did, page by page; nobody one that is not there."""
    operator, viewer = signed("operator"), signed("viewer")
    assert operator.patch("/v1/devices/d1", json={"labels": {"a": "b"}}).is_success
    (one,) = operator.get("/v1/devices/d1/timeline").json()["items"]
    assert (one["kind"], one["what"], one["by"]) == ("audit", "device.change", "the operator")
    assert viewer.get("/v1/devices/d1/timeline").json() == {"items": [], "next": None}
    assert viewer.get("/v1/devices/none/timeline").status_code == 404
    assert viewer.get("/v1/devices/d1/timeline?cursor=eHg").status_code == 400
    with controller.store.write() as connection:
        timeline.note_presence(connection, [("d1", "online"), ("d1", "offline")], 5.0)
    first = viewer.get("/v1/devices/d1/timeline", params={"limit": 1}).json()
    more = {"limit": 1, "cursor": first["next"]}
    second = viewer.get("/v1/devices/d1/timeline", params=more).json()
    assert [first["items"][0]["what"], second["items"][0]["what"]] == ["offline", "online"]
    assert second["next"] is None
