"""Ingest with a real broker: acknowledged after the commit, counted once, checked first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import codec
from contracts.config import MqttConfig
from contracts.connection import new_client
from contracts.errors import InputError, UnavailableError
from contracts.histogram import Histogram
from contracts.messages import (
    BundleRef,
    Reported,
    Result,
    Sample,
    Status,
    Telemetry,
    UpdateEvent,
)
from contracts.topics import Topics
from fleet.ingest import Consumer
from fleet.ingest.decode import decode
from fleet.ingest.writer import Writer
from fleet.store import Store, devices, history
from fleet.store.schema import DEVICE, TELEMETRY

REF = BundleRef("m", "1.0.0", "a" * 64)


def _until(holds: Callable[[], Any], seconds: float = 120.0) -> None:
    """The broker gives no event for 'all delivered': asks again until it holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.02)


def _seqs(store: Store) -> list[int]:
    with store.read() as connection:
        return list(connection.scalars(sa.select(TELEMETRY.c.seq).order_by(TELEMETRY.c.seq)))


class _Publisher:
    """A device that publishes telemetry and waits for the broker's acknowledgement."""

    def __init__(self, mqtt: MqttConfig, topics: Topics, device: str = "d1") -> None:
        self._client = new_client(mqtt, f"{topics.fleet}-{device}")
        self._client.connect(mqtt.host, mqtt.port)
        self._client.loop_start()
        self._topics = topics
        self._device = device

    def telemetry(self, seq: int, boot: str = "b") -> None:
        payload = codec.encode(Telemetry(boot, seq, []))
        self.send("telemetry", payload)

    def send(self, kind: Any, payload: bytes, *, retain: bool = False) -> None:
        topic = self._topics.of_device(self._device, kind)
        self._client.publish(topic, payload, 1, retain).wait_for_publish(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def test_every_message_is_stored_once(broker: MqttConfig, fleet_name: str, store: Store) -> None:
    """Status, report, updates, telemetry and results of a device arrive in their tables."""
    topics = Topics(fleet_name)
    changes: list[str] = []
    consumer = Consumer(
        topics,
        broker,
        Writer(store, admit_unknown=True),
        on_changes=lambda found: changes.extend(c.kind for c in found),
    )
    consumer.start()
    assert consumer.connected.wait(60)
    device = _Publisher(broker, topics)
    event = UpdateEvent("b", 0, 1, "classify", REF, "trial", 5.0)
    device.send("status", codec.encode(Status("online", "b", 3, 1.0)), retain=True)
    device.send("reported", codec.encode(
        Reported("d1", "b", "1", "raspberry-pi-5", "litert", 1.0, last_update=event)
    ), retain=True)  # fmt: skip
    device.send("update", codec.encode(event))
    device.send("result", codec.encode(Result("src", 1.5, "on", 0.9, REF)))
    device.send("result", codec.encode(Result("src", 1.5, "on", 0.9, REF)))
    for seq in (0, 1, 1, 2):
        device.telemetry(seq)
    device.send("status", codec.encode(Status("offline", "b", 2, 1.0)))
    _until(lambda: consumer.counters.messages == 10)
    with store.read() as connection:
        found = devices.get(connection, "d1")
        assert found.state == "online", "a late will of an older connection changes nothing"
        assert found.hardware == "raspberry-pi-5"
        assert found.update == event
        assert len(history.updates(connection, "d1", None, 10)[0]) == 1
        assert len(history.results(connection, "d1", 10)) == 1
    assert _seqs(store) == [0, 1, 2]
    assert changes.count("update") == 1
    device.close()
    consumer.stop()


def test_what_was_not_committed_comes_again(
    mosquitto_broker: MqttConfig, fleet_name: str, store: Store
) -> None:
    """A process that dies before its commit has acknowledged nothing: the next one gets it all."""
    topics = Topics(fleet_name)
    reached = threading.Event()

    class Dying(Writer):
        """Fails as a full disk does, for ever."""

        def write(self, batch: Any, now: float) -> Any:
            reached.set()
            raise UnavailableError("database", "the disk is full")

    first = Consumer(topics, mosquitto_broker, Dying(store, admit_unknown=True))
    first.start()
    assert first.connected.wait(60)
    device = _Publisher(mosquitto_broker, topics)
    for seq in range(50):
        device.telemetry(seq)
    assert reached.wait(60)
    first.stop()
    assert _seqs(store) == []
    second = Consumer(topics, mosquitto_broker, Writer(store, admit_unknown=True))
    second.start()
    _until(lambda: _seqs(store) == list(range(50)))
    device.close()
    second.stop()


def test_messages_wait_at_the_broker_while_no_controller_runs(
    mosquitto_broker: MqttConfig, fleet_name: str, store: Store
) -> None:
    """The session outlives the process."""
    topics = Topics(fleet_name)
    first = Consumer(topics, mosquitto_broker, Writer(store, admit_unknown=True))
    first.start()
    assert first.connected.wait(60)
    first.stop()
    device = _Publisher(mosquitto_broker, topics)
    for seq in range(20):
        device.telemetry(seq)
    second = Consumer(topics, mosquitto_broker, Writer(store, admit_unknown=True))
    second.start()
    _until(lambda: _seqs(store) == list(range(20)))
    device.close()
    second.stop()


def test_processes_share_the_messages_and_lose_none(
    mosquitto_broker: MqttConfig, fleet_name: str, store: Store
) -> None:
    """Two processes each take a part; together they have stored everything once."""
    topics = Topics(fleet_name)
    both = [
        Consumer(topics, mosquitto_broker, Writer(store, admit_unknown=True),
                 name=name, primary=name == "main", shared=True)
        for name in ("main", "two")
    ]  # fmt: skip
    for consumer in both:
        consumer.start()
        assert consumer.connected.wait(60)
    device = _Publisher(mosquitto_broker, topics)
    for seq in range(200):
        device.telemetry(seq)
    _until(lambda: _seqs(store) == list(range(200)))
    assert all(consumer.counters.messages > 0 for consumer in both)
    assert sum(consumer.counters.messages for consumer in both) == 200
    device.close()
    for consumer in both:
        consumer.stop()


def test_malformed_messages_are_counted_and_hold_nothing_up(
    broker: MqttConfig, fleet_name: str, store: Store
) -> None:
    """They are acknowledged, as they would be as wrong again."""
    topics = Topics(fleet_name)
    consumer = Consumer(topics, broker, Writer(store, admit_unknown=True))
    consumer.start()
    assert consumer.connected.wait(60)
    device = _Publisher(broker, topics)
    for payload in (b"", b"{", b"[]", b'{"boot":"b","seq":-1,"samples":[]}', b"\xff" * 100):
        device.send("telemetry", payload)
    device.telemetry(7)
    _until(lambda: _seqs(store) == [7])
    assert consumer.counters.rejected == 5
    device.close()
    consumer.stop()


def test_devices_that_were_never_enrolled_or_are_revoked_are_not_heard(store: Store) -> None:
    """Their messages are dropped, and counted."""
    writer = Writer(store)
    with store.write() as connection:
        devices.enroll(store, connection, "good", "raspberry-pi-5", {}, [], 1.0)
        devices.enroll(store, connection, "bad", "raspberry-pi-5", {}, [], 1.0)
        devices.revoke(connection, "bad", 2.0)
    topics = Topics("f")
    batch = [
        decode("f", topics.of_device(name, "telemetry"), codec.encode(Telemetry("b", 1, [])))
        for name in ("good", "bad", "unknown")
    ]
    dropped = writer.write(batch, 3.0).unknown
    assert dropped == 2
    with store.read() as connection:
        assert list(connection.scalars(sa.select(TELEMETRY.c.device))) == ["good"]
        assert list(connection.scalars(sa.select(DEVICE.c.id).order_by(DEVICE.c.id))) == [
            "bad",
            "good",
        ]


def test_a_wiped_device_that_counts_from_zero_again_is_believed(store: Store) -> None:
    """Its newer boot and clock make its event the newest; an old straggler is not."""
    writer = Writer(store, admit_unknown=True)
    topics = Topics("f")

    def event(boot: str, seq: int, at: float, state: Any) -> Any:
        body = UpdateEvent(boot, seq, 1, "classify", REF, state, at)
        return decode("f", topics.of_device("d", "update"), codec.encode(body))

    writer.write([event("b1", 9, 100.0, "committed")], 1.0)
    writer.write([event("b1", 8, 99.0, "trial")], 2.0)
    with store.read() as connection:
        found = devices.get(connection, "d").update
        assert found is not None and found.state == "committed"
    writer.write([event("b2", 0, 200.0, "downloading")], 3.0)
    with store.read() as connection:
        found = devices.get(connection, "d").update
        assert found is not None and found.state == "downloading"


@pytest.mark.parametrize(
    "sample",
    [
        Sample(1.0, 1.0, latency_us=Histogram("unit20")),
        Sample(1.0, 1.0, latency_us=Histogram("log8", {"x": 1})),
        Sample(1.0, 1.0, latency_us=Histogram("log8", {"-1": 1})),
        Sample(1.0, 1.0, latency_us=Histogram("log8", {"01": 1})),
        Sample(1.0, 1.0, confidence=Histogram("unit20", {"1": 2**60})),
        Sample(1.0, 1.0, requests=2**60),
        Sample(1.0, 1.0, labels={"a": 2**60}),
        Sample(1.0, 1.0, requests=2**40 + 1),
        Sample(1.0, 1.0, labels={"a": 2**40 + 1}),
        Sample(1.0, 1.0, labels={str(i): 1 for i in range(4097)}),
        Sample(1.0, 1.0, latency_us=Histogram("log8", {"3": 2**40 + 1})),
        Sample(1.0, 1.0, latency_us=Histogram("log8", {"3": 1}, 1.7e308)),
        Sample(1.0, 1.0, confidence=Histogram("unit20", {"3": 1}, -1.7e308)),
        Sample(1.0, 1.7e308),
        Sample(1.0, 1.0, drift=1e300),
        Sample(1.0, 1.0, gauges={"rss_bytes": 1e300}),
        Sample(1.0, 1.0, gauges={"x" * 65: 1.0}),
        Sample(1.0, 1.0, gauges={str(i): 1.0 for i in range(257)}),
    ],
)
def test_figures_that_would_break_a_roll_up_are_refused_at_the_door(sample: Sample) -> None:
    """A hostile device cannot stop the roll-up of all others."""
    payload = codec.encode(Telemetry("b", 1, [sample]))
    with pytest.raises(InputError):
        decode("f", "shoal/v1/f/d/d1/telemetry", payload)


def test_a_device_cannot_report_as_another() -> None:
    """The topic decides, which the broker's access control guards."""
    payload = codec.encode(Reported("other", "b", "1", "x", "litert", 1.0))
    with pytest.raises(InputError):
        decode("f", "shoal/v1/f/d/d1/reported", payload)
    with pytest.raises(InputError):
        decode("g", "shoal/v1/f/d/d1/telemetry", codec.encode(Telemetry("b", 1, [])))


@given(st.sampled_from(["status", "reported", "update", "telemetry", "result"]), st.binary())
@settings(max_examples=300, deadline=None)
def test_no_payload_gets_past_decoding_with_another_error(kind: str, payload: bytes) -> None:
    """Bytes of any kind give a message or an InputError, nothing else."""
    try:
        decode("f", f"shoal/v1/f/d/d1/{kind}", payload)
    except InputError as error:
        assert error.code in ("bad-message", "too-large")
