"""Several controllers of one fleet: one ingests, and another goes on where it ended."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from contracts import codec
from contracts.config import MqttConfig
from contracts.connection import new_client
from contracts.errors import UnavailableError
from contracts.messages import Telemetry
from fleet import controller as controller_module
from fleet.conductor import runner
from fleet.controller import Controller
from fleet.folder import Fleet, FleetConfig
from fleet.ingest import Consumer
from fleet.store import leases, ownership
from fleet.store.schema import TELEMETRY
from tests.support.counting import cost_of
from tests.support.full_disk import full_disk

WAIT_S = 90.0
LEASE_S = 1.0
QUIET_S = 2.5
"""Long enough for a client that was pushed off to come back, which takes it a second."""

Start = Callable[..., Controller]


def until(condition: Callable[[], bool], seconds: float = WAIT_S) -> bool:
    """Waits for what other threads bring about; whether it came."""
    for _ in range(int(seconds / 0.05)):
        if condition():
            return True
        threading.Event().wait(0.05)
    return False


def links_up(controller: Controller) -> bool:
    """Whether all its connections but ingest are there."""
    parts = (controller.outbox, controller.blocks, controller.asker)
    return all(part.link.connected.is_set() for part in parts)


class Disconnects:
    """Counts how often connections of a controller end."""

    def __init__(self, *controllers: Controller) -> None:
        self.count = 0
        for controller in controllers:
            clients = [controller.consumer._client]
            parts = (controller.outbox, controller.blocks, controller.asker)
            clients += [part.link._client for part in parts]  # type: ignore[misc]
            for client in clients:
                self._watch(client)

    def _watch(self, client: object) -> None:
        before = client.on_disconnect  # type: ignore[attr-defined]

        def on_disconnect(*arguments: object) -> None:
            self.count += 1
            before(*arguments)

        client.on_disconnect = on_disconnect  # type: ignore[attr-defined]


@pytest.fixture
def start(
    tmp_path: Path, mosquitto_broker: MqttConfig, fleet_name: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """Starts controllers of one fleet, which are stopped at the end."""
    monkeypatch.setattr(controller_module, "_LEASE_S", LEASE_S)
    config = FleetConfig(fleet_name, mqtt=mosquitto_broker, admit_unknown=True)
    folder = Fleet.init(tmp_path / "fleet", config).folder
    with ExitStack() as stack:

        def begin(ahead_s: float = 0.0) -> Controller:
            controller = Controller(Fleet.open(folder), lambda: time.time() + ahead_s)
            controller.start()
            assert until(lambda: controller.ownership.speaks)
            stack.callback(lambda: None if stopped(controller) else controller.stop())
            return controller

        yield begin


def stopped(controller: Controller) -> bool:
    """Whether a test has stopped it."""
    return controller._stopping.is_set()


def send(broker: MqttConfig, controller: Controller, first: int, count: int) -> None:
    """A device sends, and the broker acknowledges every message."""
    device = new_client(broker, f"{controller.fleet.config.fleet}-device")
    device.connect(broker.host, broker.port)
    device.loop_start()
    topic = controller.fleet.topics.of_device("d", "telemetry")
    for seq in range(first, first + count):
        device.publish(topic, codec.encode(Telemetry("b", seq, [])), 1).wait_for_publish(WAIT_S)
    device.disconnect()
    device.loop_stop()


def stored(controller: Controller) -> int:
    """Messages in the database."""
    with controller.store.read() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(TELEMETRY)) or 0)


def test_two_controllers_do_not_push_each_other_off(start: Start) -> None:
    """One has the session of ingest, and no other connection is shared; both are ready."""
    first, second = start(), start()
    assert until(lambda: links_up(first) and links_up(second) and first.consumer.connected.is_set())
    disconnects = Disconnects(first, second)
    assert not until(lambda: disconnects.count > 0, QUIET_S)
    assert first.consumer.connected.is_set() and not second.consumer.connected.is_set()
    assert all(first.ready.values()) and all(second.ready.values())


def test_the_second_goes_on_with_the_session_of_the_first(
    start: Start, mosquitto_broker: MqttConfig
) -> None:
    """What the broker acknowledged while nobody ingested is stored by the second."""
    first, second = start(), start()
    assert until(first.consumer.connected.is_set)
    send(mosquitto_broker, first, 0, 10)
    assert until(lambda: stored(first) == 10)
    assert second.consumer.counters.messages == 0
    acquire = leases.acquire
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "acquire", lambda *_: False)
        first.stop()
        send(mosquitto_broker, second, 10, 10)
        patch.setattr(leases, "acquire", acquire)
        assert until(lambda: stored(second) == 20)
    assert second.ingesting and second.consumer.counters.messages == 10


def test_who_has_lost_the_lease_stands_back_and_may_come_again(
    start: Start, mosquitto_broker: MqttConfig
) -> None:
    """A clock that is ahead takes the lease over; the first does not fight for the session."""
    first = start()
    assert until(first.consumer.connected.is_set)
    send(mosquitto_broker, first, 0, 5)
    assert until(lambda: stored(first) == 5)
    second = start(ahead_s=3 * LEASE_S)
    assert until(lambda: second.consumer.connected.is_set() and not first.ingesting)
    disconnects = Disconnects(second)
    assert not until(lambda: disconnects.count > 0, QUIET_S)
    second.stop()
    send(mosquitto_broker, first, 5, 5)
    assert until(lambda: stored(first) == 10)
    assert first.consumer.counters.messages == 10


def test_a_controller_without_its_database_stands_back(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot know whether another took over, and could commit nothing; it comes back."""
    controller = start()
    assert until(controller.consumer.connected.is_set)
    acquire = leases.acquire

    def away(*_: object) -> bool:
        raise UnavailableError("database-unavailable", "away")

    monkeypatch.setattr(leases, "acquire", away)
    assert until(lambda: not controller.ingesting)
    monkeypatch.setattr(leases, "acquire", acquire)
    assert until(controller.consumer.connected.is_set)


def test_a_controller_that_cannot_make_its_next_connection_makes_it_later(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk that kept it from renewing its lease keeps it from that as well."""
    controller = start()
    assert until(controller.consumer.connected.is_set)

    def away(*_: object) -> bool:
        raise UnavailableError("database-unavailable", "away")

    tried = threading.Event()

    def full() -> Consumer:
        tried.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "acquire", away)
        patch.setattr(controller, "_new_consumer", full)
        assert tried.wait(WAIT_S)
        assert until(lambda: not controller.ingesting)
    assert until(lambda: controller.ingesting and controller.consumer.connected.is_set())


def test_a_controller_on_a_full_disk_is_not_ready(tmp_path: Path) -> None:
    """It could commit nothing: who balances or watches has to know."""
    controller = Controller(Fleet.init(tmp_path / "fleet", FleetConfig("f")))
    try:
        assert controller.ready["disk"]
        with full_disk():
            assert not controller.ready["disk"]
        assert controller.ready["disk"]
    finally:
        controller.store.close()


def test_an_idle_engine_writes_nothing_while_nobody_else_wants_its_lease(tmp_path: Path) -> None:
    """Each write is a sync of the disk, day and night; a standby that asks is answered in time."""
    controller = Controller(Fleet.init(tmp_path / "fleet", FleetConfig("home")))
    controller.ownership.speaks = True
    controller._engine()
    assert controller.leading
    with cost_of(controller.store) as cost:
        for _ in range(3):
            controller._engine()
    assert cost.writes == [] and controller.steps == 4
    assert time.monotonic() < controller._renew_at < time.monotonic() + controller_module._LEASE_S
    controller._renew_at = 0.0
    with cost_of(controller.store) as cost:
        controller._engine()
    assert cost.writes == [], "nobody else wants it"
    leases.acquire(controller.store, runner.LEASE, "another", controller.clock(), 10.0)
    controller._renew_at = 0.0
    with cost_of(controller.store) as cost:
        controller._engine()
    assert any("lease" in text for text in cost.writes), "it is renewed when another asks"
    controller.ownership.speaks = False
    controller._engine()
    assert not controller.leading, "who does not own the fleet steps nothing, at once"
    controller.store.close()


def test_an_idle_controller_renews_no_lease_that_nobody_asks_for(tmp_path: Path) -> None:
    """Neither the owner's nor that of ingest; asked, both are renewed at half of their time."""
    controller = Controller(Fleet.init(tmp_path / "fleet", FleetConfig("home")))
    controller.ownership.speaks, controller.ingesting = True, True
    lease_s = controller_module._LEASE_S
    controller._ingest_until = time.monotonic() + lease_s
    controller.ownership._look()
    controller._ingest_until = 0.0
    controller._ingest()
    for _ in range(2):
        controller._ingest_until = controller.ownership._leads_until = 0.0
        with cost_of(controller.store) as cost:
            controller._ingest()
            controller.ownership._look()
        assert cost.writes == []
    for name in ("ingest", ownership.LEASE_NAME):
        assert not leases.acquire(controller.store, name, "another", controller.clock(), lease_s)
    with cost_of(controller.store) as cost:
        controller._ingest()
        controller.ownership._look()
    assert cost.writes == [], "half of the time is not over"
    controller._ingest_until = controller.ownership._leads_until = time.monotonic() + lease_s / 2
    with cost_of(controller.store) as cost:
        controller._ingest()
        controller.ownership._look()
    assert len([text for text in cost.writes if text.startswith("UPDATE lease")]) == 2
    assert min(controller._ingest_until, controller.ownership._leads_until) > (
        time.monotonic() + 0.9 * lease_s
    )
    controller.ingesting = False
    controller.sender.stop()  # who owns the fleet delivers its webhooks
    controller.store.close()
