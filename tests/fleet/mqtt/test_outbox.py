"""The outbox: whatever fails, desired documents go out in the end."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from typing import Any

import paho.mqtt.client as paho
import pytest
import sqlalchemy as sa

from contracts import codec
from contracts.config import MqttConfig
from contracts.connection import new_client
from contracts.desired import Desired
from contracts.topics import Topics
from fleet.mqtt.outbox import Outbox
from fleet.store import Store, desired, devices, ownership
from fleet.store.schema import DEVICE, LEASE
from tests.support.read_only import read_only


class _Device:
    """Takes the desired documents of device `d1`."""

    def __init__(self, mqtt: MqttConfig, topics: Topics) -> None:
        self.arrived: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._client = new_client(mqtt, f"{topics.fleet}-d1")
        subscribed: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: subscribed.put(None)
        self._client.connect(mqtt.host, mqtt.port)
        self._client.loop_start()
        self._client.subscribe(topics.of_device("d1", "desired"), 1)
        subscribed.get(timeout=60)

    def _on_message(self, _client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        self.arrived.put(codec.decode(message.payload, Desired, what="desired").revision)

    def close(self) -> None:
        """Disconnects."""
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def topics(fleet_name: str) -> Topics:
    """Of the test's own fleet."""
    return Topics(fleet_name)


@pytest.fixture
def device(mosquitto_broker: MqttConfig, topics: Topics) -> Iterator[_Device]:
    """A device that listens."""
    device = _Device(mosquitto_broker, topics)
    yield device
    device.close()


@pytest.fixture
def outbox(
    mosquitto_broker: MqttConfig, topics: Topics, store: Store, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Outbox]:
    """An outbox that does not wait long; not started."""
    monkeypatch.setattr("fleet.mqtt.outbox._IDLE_S", 0.05)
    monkeypatch.setattr("fleet.mqtt.outbox._RETRY_S", 0.05, raising=False)
    fence = take_fence(store, "a")
    outbox = Outbox(store, topics, mosquitto_broker, f"{topics.fleet}-outbox", fence=lambda: fence)
    yield outbox
    outbox.stop()


def take_fence(store: Store, instance: str) -> int:
    """Makes a process the owner; returns its fence."""
    with store.write() as connection:
        connection.execute(LEASE.update().values(holder=""))
    assert ownership.take(store, instance, time.time() + 1000.0 * ord(instance), 10.0)
    with store.read() as connection:
        return ownership.newest(connection)


def _want(store: Store, revision: int) -> None:
    with store.write() as connection:
        devices.enroll(store, connection, "d1", "raspberry-pi-5", {}, [], 1.0)
        desired.write(store, connection, [("d1", Desired(revision=revision), None)])


def _failing(monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> queue.SimpleQueue[None]:
    """Lets a function of the store fail at first; each failure is told."""
    whole, failed = getattr(desired, name), queue.SimpleQueue[None]()
    left = [None] * times

    def brittle(*arguments: Any) -> Any:
        if left:
            left.pop()
            failed.put(None)
            raise ZeroDivisionError
        return whole(*arguments)

    monkeypatch.setattr(desired, name, brittle)
    return failed


def test_documents_go_out_after_the_database_was_read_only(
    outbox: Outbox, device: _Device, store: Store
) -> None:
    """A failover ends nothing: what could not be marked as sent is sent again, then marked."""
    _want(store, 1)
    read_only(store, True)
    outbox.start()
    assert outbox.link.connected.wait(60)
    assert device.arrived.get(timeout=60) == 1
    assert device.arrived.get(timeout=60) == 1, "it tries again"
    read_only(store, False)
    _want(store, 2)
    outbox.wake()
    while device.arrived.get(timeout=60) != 2:
        pass


@pytest.mark.parametrize("name", ["unsent", "mark_sent", "unreached"])
def test_documents_go_out_after_a_defect(
    outbox: Outbox, device: _Device, store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whatever is raised: the thread goes on trying, as its connection stays."""
    _want(store, 1)
    failed = _failing(monkeypatch, name, 2)
    outbox.start()
    for _ in range(2):
        failed.get(timeout=60)
    _want(store, 2)
    while device.arrived.get(timeout=60) != 2:
        pass


def test_what_a_broker_may_have_lost_is_sent_again_although_the_first_look_fails(
    outbox: Outbox, device: _Device, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connect asks for a look at every device until there was one."""
    _want(store, 1)
    with store.write() as connection:
        connection.execute(DEVICE.update().values(sent_revision=1))
        unsent = sa.select(DEVICE.c.desired_revision - DEVICE.c.sent_revision)
        assert connection.scalar(unsent) == 0
    failed = _failing(monkeypatch, "unreached", 1)
    outbox.start()
    failed.get(timeout=60)
    assert device.arrived.get(timeout=60) == 1
