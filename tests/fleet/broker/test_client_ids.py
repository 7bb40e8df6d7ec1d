"""Client ids on a real mosquitto with mutual TLS: a device takes no session but its own."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from agent.link import Link
from agent.system.clock import SystemClock
from contracts import codec
from contracts.config import MqttConfig
from contracts.messages import Telemetry
from contracts.requests import BlobGet
from contracts.topics import Topics
from fleet.broker import MosquittoBroker
from fleet.controller import Controller
from fleet.folder import Fleet, FleetConfig
from fleet.store.schema import TELEMETRY
from tests.fleet.broker.test_access import WAIT_S, Client
from tests.support.tools import free_port, need_tool

TOPICS = Topics("reef")
SENT = 40


def until(condition: Callable[[], bool], what: str) -> None:
    """Waits for what other threads bring about."""
    for _ in range(int(WAIT_S / 0.05)):
        if condition():
            return
        threading.Event().wait(0.05)
    pytest.fail(what)


class Reef:
    """A fleet with two devices, one of them hostile, and its broker."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.fleet = Fleet.init(
            folder, FleetConfig("reef", mqtt=MqttConfig(port=port), mutual_tls=True)
        )
        self.good = self.fleet.enroll("good", "raspberry-pi-5")[0].mqtt
        self.evil = self.fleet.enroll("evil", "raspberry-pi-5")[0].mqtt
        self.broker = MosquittoBroker(
            folder / "broker/mosquitto.conf",
            port=port,
            program=need_tool("mosquitto", "/usr/sbin/mosquitto"),
        )

    def stored(self, controller: Controller) -> int:
        """Messages of the honest device in the database."""
        with controller.store.read() as connection:
            return int(
                connection.scalar(
                    sa.select(sa.func.count())
                    .select_from(TELEMETRY)
                    .where(TELEMETRY.c.device == "good")
                )
                or 0
            )

    def send(self, first: int) -> None:
        """The honest device sends, and the broker acknowledges every message."""
        device = Client(self.good, "sender")
        for seq in range(first, first + SENT):
            payload = codec.encode(Telemetry("b", seq, []))
            assert device.publish(TOPICS.of_device("good", "telemetry"), payload) == 0
        device.close()

    def until_stored(self, controller: Controller, count: int) -> None:
        """Waits until so many are stored."""
        until(lambda: self.stored(controller) >= count, "acknowledged messages are not stored")


@pytest.fixture(scope="module")
def reef(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reef]:
    """One for all tests here."""
    reef = Reef(tmp_path_factory.mktemp("reef") / "fleet")
    with reef.broker:
        yield reef


def test_a_device_cannot_end_the_session_that_ingest_will_come_back_to(reef: Reef) -> None:
    """What the broker acknowledged while the controller was away is stored at its return."""
    controller = Controller(reef.fleet)
    controller.consumer.start()
    assert controller.consumer.connected.wait(WAIT_S)
    before = reef.stored(controller)
    controller.consumer.stop()
    controller.store.close()
    reef.send(before)
    Client(reef.evil, "shoal-ingest-reef-main").close()

    controller = Controller(reef.fleet)
    controller.consumer.start()
    try:
        reef.until_stored(controller, before + SENT)
    finally:
        controller.consumer.stop()
        controller.store.close()


@pytest.fixture
def sharing(reef: Reef, monkeypatch: pytest.MonkeyPatch) -> Iterator[Controller]:
    """A controller of the fleet with ``shared_ingest: true``."""
    config = msgspec.structs.replace(reef.fleet.config, shared_ingest=True)
    monkeypatch.setattr(reef.fleet, "config", config)
    controller = Controller(reef.fleet)
    controller.consumer.start()
    controller.blocks.start()
    yield controller
    controller.consumer.stop()
    controller.blocks.stop()
    controller.store.close()


def test_a_device_gets_no_turn_among_those_that_share(reef: Reef, sharing: Controller) -> None:
    """The broker would take a message as delivered that it then may not deliver."""
    assert sharing.consumer.connected.wait(WAIT_S) and sharing.blocks.link.connected.wait(WAIT_S)
    thief = Client(reef.evil, "thief")
    thief.subscribe(f"$share/ingest/{TOPICS.every_device('telemetry')}")
    thief.subscribe(f"$share/blocks/{TOPICS.every_blob_get()}")
    before = reef.stored(sharing)
    reef.send(before)
    device = Client(reef.good, "asks")
    for number in range(SENT):
        request = codec.encode(BlobGet(f"b{number}", "root.json", 0, 10))
        assert device.publish(TOPICS.blob_get("good"), request) == 0
    device.close()
    reef.until_stored(sharing, before + SENT)
    # Of one device so many may wait; what is too many was taken, and is dropped.
    taken = sharing.blocks
    until(lambda: taken.served + taken.dropped == SENT, "block requests are not taken")
    thief.close()


def test_a_device_cannot_push_another_off(reef: Reef, tmp_path: Path) -> None:
    """Under the name of the other it gets a session of its own."""
    link = Link(
        reef.good,
        fleet="reef",
        device="good",
        groups=[],
        folder=tmp_path,
        boot="b",
        next_session=iter(range(1, 9)).__next__,
        clock=SystemClock(),
        on_message=lambda inbound: None,
        on_change=lambda connected: None,
    )
    link.start()
    try:
        assert link.connected.wait(WAIT_S)
        thief = Client(reef.evil, "shoal-reef-good")
        taken = threading.Event()
        link.publish(TOPICS.of_device("good", "update"), b"{}", done=lambda code: taken.set())
        assert taken.wait(WAIT_S)
        thief.close()
        assert (link.connections, link.last_error) == (1, "")
    finally:
        link.stop()


def test_the_secret_of_a_fleet_stays_and_is_made_for_an_older_folder(
    reef: Reef,
) -> None:
    """Every process of a fleet finds the same, so that a session outlives its process."""
    path = reef.fleet.folder / "ca/session.secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = reef.fleet.session_secret()
    assert Fleet.open(reef.fleet.folder).session_secret() == first
    assert len(first) == 32
    kept = path.read_bytes()
    path.unlink()
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(reef.fleet.session_secret())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1 and found[0] != first
    path.write_bytes(kept)
