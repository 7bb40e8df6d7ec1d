"""Whose word a label is: the operator's chooses devices, the device's own is only shown."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from fastapi.testclient import TestClient

from contracts.desired import Desired, DesiredBundle
from contracts.messages import BundleRef, Reported, SlotReport
from fleet.controller import Controller
from fleet.ingest.decode import Message
from fleet.ingest.writer import Writer
from fleet.store import desired, devices
from tests.fleet.api.conftest import NOW, Signed

REF = BundleRef("noise", "1.0.0", "a" * 64)


def _say(controller: Controller, device: str, **fields: Any) -> None:
    """A device reports."""
    reported = Reported(device, "boot", "1", "raspberry-pi-5", "litert", NOW)
    reported = msgspec.structs.replace(reported, **fields)
    Writer(controller.store).write([Message(device, reported, b"")], NOW)


def _asked(client: TestClient, selector: str) -> set[str]:
    """Whom a query goes to; all are offline, and say so each."""
    answer = client.post("/v1/queries", json={"selector": selector, "text": "the secret"})
    if answer.status_code != 200:
        assert answer.json()["error"]["code"] == "no-devices"
        return set()
    return {one["device"] for one in answer.json()["answers"]}


def _planned(client: TestClient, selector: str) -> int:
    """How many devices a rollout means."""
    document = {"bundle": "noise", "version": "1.0.0", "selector": selector}
    matching: int = client.post("/v1/rollouts/plan", json=document).json()["matching"]
    return matching


def test_changing_groups_leaves_labels_to_whom_they_belong(
    controller: Controller, signed: Signed
) -> None:
    """What the device says later is shown; it was never made the operator's word."""
    client = signed("operator")
    _say(controller, "d1", labels={"site": "oslo", "floor": "2"}, groups=["kitchen"])
    changed = client.patch("/v1/devices/d1", json={"groups": ["pilot"]}).json()
    assert changed["labels"] == {"site": "lyon"}
    assert changed["groups"] == ["pilot"]
    assert changed["own_labels"] == {"site": "oslo", "floor": "2"}
    assert changed["own_groups"] == ["kitchen"]
    with controller.store.read() as connection:
        assert devices.get(connection, "d1").labels == {"site": "lyon"}
    _say(controller, "d1", labels={"floor": "3"})
    found = client.get("/v1/devices/d1").json()
    assert found["own_labels"] == {"floor": "3"} and found["own_groups"] == []
    assert found["labels"] == {"site": "lyon"} and found["groups"] == ["pilot"]


def test_changing_labels_makes_no_groups_the_operators(
    controller: Controller, signed: Signed
) -> None:
    """Also of a device that was never enrolled: all that it has is its own word."""
    Writer(controller.store, admit_unknown=True).write(
        [Message("guest", Reported("guest", "b", "1", "esp32-s3", "tflm", NOW, groups=["x"]), b"")],
        NOW,
    )
    changed = signed("operator").patch("/v1/devices/guest", json={"labels": {"a": "b"}}).json()
    assert changed["labels"] == {"a": "b"} and changed["groups"] == []
    assert changed["own_groups"] == ["x"] and changed["board"] == "esp32-s3"


@pytest.mark.parametrize("label", ["clearance=secret", "group=staff", "task=generate"])
def test_a_claim_selects_nobody_for_a_text_or_a_model(
    controller: Controller, signed: Signed, label: str
) -> None:
    """Queries, rollouts and metrics go by the operator's word, until a claim is asked for."""
    slots = {"generate": SlotReport(active=REF)}
    _say(controller, "d2", labels={"clearance": "secret"}, groups=["staff"], slots=slots)
    client = signed("operator")
    assert _asked(client, label) == set()
    assert _planned(client, label) == 0
    answer = client.post("/v1/queries", json={"selector": label, "text": "x"})
    assert f"'own:{label}'" in answer.json()["error"]["message"]
    assert _asked(client, f"own:{label}") == {"d2"}
    assert _planned(client, f"own:{label}") == 1
    with controller.store.write() as connection:
        devices.relabel(
            controller.store, connection, "d4", labels={"clearance": "secret"}, groups=["staff"]
        )
        wish = Desired(1, {"generate": DesiredBundle(REF)})
        desired.write(controller.store, connection, [("d4", wish, None)])
    assert _asked(client, label) == {"d4"}
    assert _planned(client, label) == 1


def test_a_generator_that_was_never_given_gets_no_chat(
    controller: Controller, signed: Signed
) -> None:
    """Not by its name, not in a group, not listed; a slot that is desired but empty neither."""
    client = signed("operator")
    slots = {"generate": SlotReport(active=REF)}
    _say(controller, "d2", slots=slots)

    def chat(model: str) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": "the secret"}]}
        code: str = client.post("/v1/chat/completions", json=body).json()["error"]["code"]
        return code

    assert chat("d2") == chat("all") == "no-such-model"
    assert client.get("/v1/models").json()["data"] == []
    with controller.store.write() as connection:
        wish = Desired(1, {"generate": DesiredBundle(REF)})
        desired.write(controller.store, connection, [("d2", wish, None), ("d3", wish, None)])
        devices.relabel(controller.store, connection, "d2", groups=["kitchen"])
    assert chat("d2") == chat("group=kitchen") == "device-offline"
    assert chat("d3") == "no-such-model"
    listed = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert listed == ["all", "group=kitchen", "d2"]
