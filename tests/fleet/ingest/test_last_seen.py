"""Last seen is when the device last spoke, whatever the broker has kept of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from contracts import codec
from contracts.config import MqttConfig
from contracts.connection import new_client
from contracts.messages import BundleRef, Reported, Sample, Status, Telemetry, UpdateEvent
from contracts.topics import Topics
from fleet.ingest import Consumer
from fleet.ingest.heard import MAX_CATCH_UP_S, CatchUp, spoken_at
from fleet.ingest.writer import Writer
from fleet.store import Store, devices, history
from fleet.store.devices import Device
from tests.fleet.ingest.test_ingest import _until

REF = BundleRef("m", "1.0.0", "a" * 64)
DAY_S = 24 * 3600.0
NOW = time.time() + 1000 * DAY_S
"""The controller's clock in these tests: a year ago is a time that can be right."""


@contextmanager
def _publisher(mqtt: MqttConfig, topics: Topics) -> Iterator[Any]:
    client = new_client(mqtt, f"{topics.fleet}-device")
    client.connect(mqtt.host, mqtt.port)
    client.loop_start()

    def send(kind: Any, document: Any, *, retain: bool = False, device: str = "d1") -> None:
        topic = topics.of_device(device, kind)
        client.publish(topic, codec.encode(document), 1, retain).wait_for_publish(10)

    try:
        yield send
    finally:
        client.disconnect()
        client.loop_stop()


@contextmanager
def _ingest(mqtt: MqttConfig, topics: Topics, store: Store, now: float = NOW) -> Iterator[Consumer]:
    writer = Writer(store, admit_unknown=True)
    consumer = Consumer(topics, mqtt, writer, clock=lambda: now)
    consumer.start()
    assert consumer.connected.wait(60)
    try:
        yield consumer
    finally:
        consumer.stop()


def _seen(store: Store, device: str) -> bool:
    with store.read() as connection:
        return device in devices.some(connection, [device])


def _device(store: Store) -> Device:
    with store.read() as connection:
        return devices.get(connection, "d1")


def _reported(at: float) -> Reported:
    event = UpdateEvent("b", 0, 1, "classify", REF, "refused", at)
    return Reported("d1", "b", "1", "raspberry-pi-5", "litert", at, last_update=event)


def _telemetry(seq: int, at: float) -> Telemetry:
    return Telemetry("b", seq, [Sample(at, 10.0)])


def test_a_device_that_was_off_for_a_year_was_seen_a_year_ago(
    broker: MqttConfig, fleet_name: str, store: Store
) -> None:
    """What the broker has kept is given to a controller that starts, and says when it was said."""
    topics, long_ago = Topics(fleet_name), NOW - 370 * DAY_S
    with _publisher(broker, topics) as send:
        send("status", Status("offline", "b", 7, long_ago - 3600), retain=True)
        send("reported", _reported(long_ago), retain=True)
        for start in range(2):  # on an empty database, and again (embedded: silent then)
            with _ingest(broker, topics, store) as consumer:
                send("telemetry", _telemetry(start, NOW), device=f"marker{start}")
                _until(lambda start=start: _seen(store, f"marker{start}"))
                assert consumer.counters.messages == 3 or start
            device = _device(store)
            assert device.state == "offline"
            assert device.seen_at == pytest.approx(long_ago)
            assert device.state_at is not None and device.state_at <= long_ago
            assert device.reported_at == pytest.approx(long_ago)
        with store.read() as connection:
            (event,), _ = history.updates(connection, "d1", None, 10)
        assert event.received_at == pytest.approx(long_ago), "it is no failure of today"


@pytest.mark.parametrize(
    "at", [3.0, NOW + 30 * DAY_S, 1e300, -1.0], ids=["1970", "ahead", "absurd", "before"]
)
def test_a_kept_document_of_a_wrong_clock_says_nothing(
    mosquitto_broker: MqttConfig, fleet_name: str, store: Store, at: float
) -> None:
    """Nobody knows when it was said: the device counts as never heard, not as just heard."""
    topics = Topics(fleet_name)
    with _publisher(mosquitto_broker, topics) as send:
        send("status", Status("online", "b", 7, at), retain=True)
        send("reported", _reported(at), retain=True)
        with _ingest(mosquitto_broker, topics, store) as consumer:
            _until(lambda: consumer.counters.messages == 2)
            assert _device(store).seen_at is None
            send("telemetry", _telemetry(0, at))
            _until(lambda: consumer.counters.messages == 3)
    assert _device(store).seen_at == NOW, "what is said now is said now, whatever its clock"


def test_what_waited_in_the_session_was_said_before(
    mosquitto_broker: MqttConfig, fleet_name: str, store: Store
) -> None:
    """A controller that was away for a day does not take its queue for what is said now."""
    topics, then = Topics(fleet_name), NOW - DAY_S
    with _publisher(mosquitto_broker, topics) as send:
        with _ingest(mosquitto_broker, topics, store, then) as consumer:
            send("status", Status("online", "b", 7, then))
            send("telemetry", _telemetry(0, then))
            _until(lambda: consumer.counters.messages == 2)
        send("telemetry", _telemetry(1, then + 60))
        send("status", Status("offline", "b", 7, then))
        with _ingest(mosquitto_broker, topics, store) as consumer:
            _until(lambda: consumer.counters.messages == 2)
            device = _device(store)
            assert (device.state, device.state_at) == ("offline", then + 60)
            assert device.seen_at == then + 60
            send("status", Status("online", "b2", 8, NOW))
            _until(lambda: consumer.counters.messages == 3)
    device = _device(store)
    assert (device.state, device.state_at, device.seen_at) == ("online", NOW, NOW)


def test_a_will_is_the_brokers_word(
    mosquitto_broker: MqttConfig, fleet_name: str, store: Store
) -> None:
    """A device that was cut off spoke before: the broker, which says so, may do that much later."""
    topics, now = Topics(fleet_name), [NOW]
    consumer = Consumer(
        topics, mosquitto_broker, Writer(store, admit_unknown=True), clock=lambda: now[0]
    )
    consumer.start()
    assert consumer.connected.wait(60)
    with _publisher(mosquitto_broker, topics) as send:
        send("status", Status("online", "b", 7, NOW))
        _until(lambda: consumer.counters.messages == 1)
        now[0] += 3600
        send("status", Status("offline", "b", 7, NOW))
        _until(lambda: consumer.counters.messages == 2)
    consumer.stop()
    device = _device(store)
    assert (device.seen_at, device.state_at) == (NOW, NOW + 3600)


def test_a_moment_to_come_does_not_stay(
    mosquitto_broker: MqttConfig, fleet_name: str, store: Store
) -> None:
    """A controller whose clock was a month ahead shows devices as heard when it is right again."""
    topics = Topics(fleet_name)
    with _publisher(mosquitto_broker, topics) as send:
        for seq, now in enumerate((NOW + 30 * DAY_S, NOW)):
            with _ingest(mosquitto_broker, topics, store, now) as consumer:
                send("telemetry", _telemetry(seq, now))
                _until(lambda consumer=consumer: consumer.counters.messages == 1)
            assert _device(store).seen_at == now


def test_catching_up_ends_with_the_first_message_of_now() -> None:
    """It ends by time where all clocks are wrong, and there is none without a session."""
    now, running = [NOW], [0.0]
    queue = CatchUp(lambda: now[0], lambda: running[0])
    assert queue.heard(NOW - DAY_S) == "live", "nobody has connected"
    queue.connected(session_present=False)
    assert queue.heard(NOW - DAY_S) == "live", "there was no session"
    queue.connected(session_present=True)
    assert queue.heard(NOW - DAY_S) == "queued"
    assert queue.heard(NOW + DAY_S) == "queued", "a clock that is ahead ends nothing"
    assert queue.heard(float("nan")) == "queued"
    assert queue.heard(NOW + 1) == "live"
    assert queue.heard(NOW - DAY_S) == "live", "a queue keeps its order"
    queue.connected(session_present=True)
    running[0] += MAX_CATCH_UP_S
    assert queue.heard(3.0) == "live"
    assert spoken_at("queued", 3.0, NOW) is None
