"""Groups that operators give: heard by a real agent, over a real mosquitto with mutual TLS."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fastapi.testclient import TestClient

from contracts.config import AgentConfig
from contracts.desired import Desired, DesiredBundle
from contracts.messages import BundleRef, Reported, SlotReport
from fleet.api.app import create_app
from fleet.ingest.decode import Message
from fleet.ingest.writer import Writer
from fleet.store import Store, desired, devices, tokens
from tests.fleet.broker.test_access import Client
from tests.fleet.membership.test_leaving import TOPICS, Reef, until
from tests.support import programs

ANSWER_S = 1.5
"""Seconds between two requests of a group whose answer has not come."""


@pytest.fixture
def reef(tmp_path: Path) -> Iterator[Reef]:
    """A fleet, its broker and its controller."""
    with Reef(tmp_path) as reef:
        yield reef


@contextlib.contextmanager
def agent(folder: Path, config: AgentConfig) -> Iterator[None]:
    """The agent program itself."""
    path = folder / "devices" / config.device / "agent.yaml"
    command = [sys.executable, "-m", "agent", "run", "--config", str(path)]
    with (folder / "agent.log").open("wb") as log:
        process = programs.start(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


class Asker:
    """Asks groups by MQTT, as the controller may."""

    def __init__(self, reef: Reef) -> None:
        self.client = Client(reef.fleet.controller_mqtt(), f"asker-{uuid.uuid4().hex[:6]}")
        self.client.subscribe(f"{TOPICS.prefix}/d/+/res/+")

    def _answered(self, request: str) -> bool:
        return any(topic.endswith(f"/res/{request}") for topic, _ in self.client.received)

    def hears(self, group: str, device: str) -> bool:
        """Whether a device answers a request to a group; one to itself shows that it is done."""
        theirs, own = f"g{uuid.uuid4().hex[:8]}", f"o{uuid.uuid4().hex[:8]}"
        for topic, request in (
            (TOPICS.group_request(group, "status"), theirs),
            (TOPICS.request(device, "status"), own),
        ):
            self.client.publish(topic, msgspec.json.encode({"id": request}))
        # Answers are given in the order of the requests.
        self.client.until(lambda: self._answered(own))
        return self._answered(theirs)


def test_a_group_that_an_operator_sets_is_heard_at_once_and_one_taken_away_is_not(
    reef: Reef,
) -> None:
    """Access control, desired document and subscription follow; also before any rollout."""
    config, _ = reef.fleet.enroll("d1", "raspberry-pi-5", groups=["hall"])
    assert reef.controller is not None
    with reef.store.write() as connection:
        secret = tokens.create(connection, "op", "operator", time.time())
    api = TestClient(create_app(reef.controller))
    api.headers["Authorization"] = f"Bearer {secret}"
    acl = reef.fleet.folder / "broker" / "acl"
    asker = Asker(reef)
    with agent(reef.fleet.folder, config):
        until(lambda: reef.state("d1") == "online", "never came")
        until(lambda: asker.hears("hall", "d1"), "the group of its enrolment")
        assert not asker.hears("pilot", "d1")
        assert api.patch("/v1/devices/d1", json={"groups": ["pilot"]}).status_code == 200
        assert "g/pilot/req" in acl.read_text() and "g/hall/req" not in acl.read_text()
        until(lambda: asker.hears("pilot", "d1"), "the new group is never heard")
        until(lambda: not asker.hears("hall", "d1"), "the old group is heard still")
    # It keeps what it was told, whatever its agent.yaml says.
    with agent(reef.fleet.folder, config):
        until(lambda: reef.state("d1") == "online", "never came back")
        until(lambda: asker.hears("pilot", "d1"), "forgotten by a restart")
        assert not asker.hears("hall", "d1")
    asker.client.close()
    assert reef.fleet.open_identity().profile("d1").groups == ["pilot"], "a renewal keeps it"


REF = BundleRef("noise", "1.0.0", "a" * 64)


def _groups(store: Store, device: str) -> Desired | None:
    with store.read() as connection:
        return devices.get(connection, device).desired


def _set(store: Store, groups: list[str], now: float) -> None:
    with store.write() as connection:
        devices.relabel(store, connection, "d1", groups=groups)
        desired.regroup(store, connection, "d1", now)


def test_a_device_that_never_reported_gets_its_groups_with_its_first_report(store: Store) -> None:
    """A document before would name no slots, and empty all that it has."""
    with store.write() as connection:
        devices.enroll(store, connection, "d1", "raspberry-pi-5", {}, [], 1.0)
    _set(store, ["pilot"], 2.0)
    assert _groups(store, "d1") is None
    with store.read() as connection:
        assert desired.unsent(connection, 10) == []
    said = Reported(
        "d1", "b", "1", "raspberry-pi-5", "litert", 3.0, slots={"noise": SlotReport(active=REF)}
    )
    Writer(store).write([Message("d1", said, b"")], 3.0)
    document = _groups(store, "d1")
    assert document is not None
    assert document.groups == ["pilot"]
    assert document.slots == {"noise": DesiredBundle(REF, kept=True)}
    with store.read() as connection:
        assert [device for device, _, _ in desired.unsent(connection, 10)] == ["d1"]


def test_groups_that_did_not_change_write_no_document_and_a_rollout_keeps_them(
    store: Store,
) -> None:
    """Each document wakes a device; what a rollout writes next says the same of groups."""
    with store.write() as connection:
        devices.enroll(store, connection, "d1", "raspberry-pi-5", {}, [], 1.0)
    said = Reported("d1", "b", "1", "raspberry-pi-5", "litert", 3.0)
    Writer(store).write([Message("d1", said, b"")], 3.0)
    _set(store, ["pilot"], 4.0)
    first = _groups(store, "d1")
    _set(store, ["pilot"], 5.0)
    assert first is not None and _groups(store, "d1") == first
    with store.read() as connection:
        known = devices.get(connection, "d1")
    again = desired.with_slot(known, 9, "noise", DesiredBundle(REF), "r1", 6.0)
    assert again.groups == ["pilot"] and set(again.slots) == {"noise"}
