"""What was measured is in the database once, whatever becomes of controller and broker."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from agent.telemetry.delivery import WINDOW
from contracts import codec
from contracts.config import MqttConfig
from contracts.connection import connect_properties, new_client
from contracts.messages import BundleRef, Result
from contracts.topics import Topics
from fleet.broker.run import MosquittoBroker
from fleet.ingest import Consumer
from fleet.ingest.writer import Writer
from fleet.store import Store, delivery, history, telemetry
from fleet.store.schema import ROLLUP, TELEMETRY
from tests.support.many_devices import Key, ManyDevices, Witness
from tests.support.tools import need_tool


@pytest.fixture
def own_broker() -> Iterator[MosquittoBroker]:
    """A mosquitto that a test may kill; it keeps nothing on disk."""
    with MosquittoBroker(program=need_tool("mosquitto", "/usr/sbin/mosquitto")) as broker:
        yield broker


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A migrated store."""
    store = Store(f"sqlite:///{tmp_path / 'state.db'}")
    store.migrate()
    yield store
    store.close()


def until(
    holds: Callable[[], bool],
    seconds: float = 180.0,
    said: Callable[[], object] = str,
    every_s: float = 0.2,
) -> None:
    """Asks again until it holds; else it fails with what is said."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within the time: {said()}"
        time.sleep(every_s)


def until_all(there: Callable[[], int], wanted: int, said: Callable[[], object] = str) -> None:
    """Asks again until so many are there, for as long as they become more."""
    most, deadline = there(), time.monotonic() + 180.0
    while most < wanted:
        assert time.monotonic() < deadline, f"{most} of {wanted}, and no more come: {said()}"
        time.sleep(1.0)
        now = there()
        if now > most:
            most, deadline = now, time.monotonic() + 180.0


class Ingest:
    """The controller's ingest, which a test may take away."""

    def __init__(self, store: Store, mqtt: MqttConfig, fleet: str, speed: float) -> None:
        self._make = lambda: Consumer(
            Topics(fleet), mqtt, Writer(store, admit_unknown=True), ack_s=20 / speed
        )
        self._consumer: Consumer | None = None

    def start(self) -> None:
        """It is there."""
        self._consumer = self._make()
        self._consumer.start()
        assert self._consumer.connected.wait(60)

    def stop(self) -> None:
        """It is not."""
        assert self._consumer is not None
        self._consumer.stop()


def stored(store: Store) -> set[Key]:
    """The batches in the database."""
    with store.read() as connection:
        rows = connection.execute(
            sa.select(TELEMETRY.c.device, TELEMETRY.c.boot, TELEMETRY.c.seq)
        ).all()
    assert len(rows) == len(set(rows))
    return {(row.device, row.boot, row.seq) for row in rows}


def count(store: Store) -> int:
    """How many they are."""
    with store.read() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(TELEMETRY)) or 0


def requests(store: Store) -> int:
    """Requests in the roll-ups."""
    while telemetry.roll_up(store):
        pass
    with store.read() as connection:
        total = sa.select(sa.func.sum(ROLLUP.c.requests)).where(
            ROLLUP.c.resolution == telemetry.HOUR
        )
        return int(connection.scalar(total) or 0)


def check_all_arrives(store: Store, witness: Witness, devices: ManyDevices) -> None:
    """Everything measured until now comes, and nothing is there that was not measured."""
    measured = set(witness.requests)
    until_all(lambda: count(store), len(measured), lambda: devices)
    # What was measured since counts among those as well: some may still be on their way.
    until_all(
        lambda: len(measured & stored(store)),
        len(measured),
        lambda: sorted(measured - stored(store))[:20],
    )
    until(lambda: devices.waiting <= 4 * len(devices.devices))
    devices.__exit__()
    time.sleep(0.5)  # what is on its way at the end may or may not come
    found = stored(store)
    assert measured <= found
    assert found <= set(witness.requests)
    assert requests(store) == sum(witness.requests[key] for key in found)


EVERY_S = 10.0
SELDOM = f"""
seed: 5
traffic: {{requests_per_s: 0.1, telemetry_s: {EVERY_S}, idle_s: 0}}
"""


@pytest.mark.parametrize(
    ("number", "speed", "hours"),
    [
        pytest.param(40, 60.0, 0.25, id="quarter"),
        pytest.param(
            1000, 20.0, 1.0, id="hour", marks=[pytest.mark.soak, pytest.mark.timeout(3600)]
        ),
    ],
)
def test_a_controller_is_away_and_the_broker_loses_all_it_has(
    own_broker: MosquittoBroker,
    store: Store,
    fleet_name: str,
    number: int,
    speed: float,
    hours: float,
) -> None:
    """0 lost, 0 double; and while nobody listens no device fills the broker."""
    ingest = Ingest(store, own_broker.config, fleet_name, speed)
    witness = Witness()
    ingest.start()
    with witness.watching():
        devices = ManyDevices(
            own_broker.config, fleet_name, number, speed=speed, scenario=SELDOM
        ).__enter__()
        until_all(lambda: count(store), 3 * number)
        until(lambda: all(d.spool.acknowledged for d in devices.devices), said=lambda: devices)
        ingest.stop()
        before = devices.counters.published
        for half in (0, 1):
            if half:
                own_broker.kill()
                own_broker.start()
            already = len(witness.requests)
            time.sleep(hours * 1800 / speed)
            # Of a machine that is too slow for it, time goes by and little is measured.
            batches = int(0.9 * number * hours * 1800 / EVERY_S)
            until_all(lambda a=already: len(witness.requests) - a, batches)
        while_away = devices.counters.published - before
        measured = len(witness.requests)
        # What they hold comes while they go on as a thousand devices do, not as twenty thousand.
        devices.go_at(1.0)
        ingest.start()
        began = time.monotonic()
        check_all_arrives(store, witness, devices)
    assert while_away <= number * (2 * WINDOW + 40)
    print(
        f"\n{number} devices, {hours:g} h away: {measured} batches measured, "
        f"{while_away / number:.0f} sent by each meanwhile, all there "
        f"{time.monotonic() - began:.0f} s after; {devices.counters.published_bytes / 1e6:.1f} MB "
        f"sent for {witness.bytes / 1e6:.1f} MB measured"
    )


def test_one_device_that_fills_the_broker_s_queue_costs_no_other_its_data(
    own_broker: MosquittoBroker, store: Store, fleet_name: str
) -> None:
    """The broker acknowledges what it throws away; the devices keep it."""
    ingest = Ingest(store, own_broker.config, fleet_name, 30.0)
    witness = Witness()
    ingest.start()
    with witness.watching():
        devices = ManyDevices(own_broker.config, fleet_name, 5, speed=30.0).__enter__()
        until(lambda: count(store) >= 15)
        ingest.stop()
        mallory = new_client(own_broker.config, f"{fleet_name}-mallory")
        mallory.connect(own_broker.config.host, own_broker.config.port)
        mallory.loop_start()
        topic = Topics(fleet_name).of_device("mallory", "telemetry")
        junk = os.urandom(400_000)
        for _ in range(200):
            mallory.publish(topic, junk, 1).wait_for_publish(20)
        full = len(witness.requests)
        until(lambda: len(witness.requests) >= full + 60)
        ingest.start()
        check_all_arrives(store, witness, devices)
        mallory.disconnect()
        mallory.loop_stop()


def test_what_nobody_listens_to_waits_on_the_device(
    own_broker: MosquittoBroker, store: Store, fleet_name: str
) -> None:
    """A broker without a session of ingest says so, and takes the messages nowhere."""
    witness = Witness()
    with witness.watching():
        devices = ManyDevices(own_broker.config, fleet_name, 5, speed=30.0).__enter__()
        until(lambda: len(witness.requests) >= 50)
        assert devices.waiting >= 50
        ingest = Ingest(store, own_broker.config, fleet_name, 30.0)
        ingest.start()
        check_all_arrives(store, witness, devices)


def test_results_that_a_device_retains_are_removed_and_counted(
    own_broker: MosquittoBroker, store: Store, fleet_name: str
) -> None:
    """While the controller listens, and before it came. What they say is taken all the same."""
    topics, config = Topics(fleet_name), own_broker.config
    ingest = Ingest(store, config, fleet_name, 1.0)
    mallory = new_client(config, f"{fleet_name}-mallory")
    mallory.connect(config.host, config.port, properties=connect_properties(config))
    mallory.loop_start()
    topic = topics.of_device("mallory", "result")

    def retain(at: float) -> None:
        result = Result("s", at, "on", 0.5, BundleRef("m", "1.0.0", "0" * 64))
        mallory.publish(topic, codec.encode(result), 1, retain=True).wait_for_publish(10)

    retain(1.0)
    assert _retained(config, topic, f"{fleet_name}-look")
    ingest.start()
    until(lambda: not _retained(config, topic, f"{fleet_name}-look"))
    retain(2.0)
    until(lambda: not _retained(config, topic, f"{fleet_name}-look"))
    ingest.stop()
    with store.read() as connection:
        assert delivery.losses(connection, 0) == {"mallory": {"retained": 2}}
        assert [one.at for one in history.results(connection, "mallory", 9)] == [2.0, 1.0]
    mallory.disconnect()
    mallory.loop_stop()


def _retained(config: MqttConfig, topic: str, name: str) -> bool:
    """Whether a broker retains something on a topic."""
    found: list[bytes] = []
    client = new_client(config, name)
    fence = threading.Event()
    client.on_message = lambda _c, _u, m: (
        fence.set() if m.topic == name else found.append(m.payload)
    )
    client.connect(config.host, config.port, clean_start=True)
    client.loop_start()
    client.subscribe([(topic, 1), (name, 1)])
    client.publish(name, b"x", 1)
    assert fence.wait(60)
    client.disconnect()
    client.loop_stop()
    return bool(found)
