"""Ingest's MQTT client: reads ahead without losing a byte, acknowledges in bulk."""

from __future__ import annotations

import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.config import MqttConfig
from contracts.connection import connect_properties, new_client
from fleet.ingest.session import IngestClient, ReadAhead


@given(st.binary(max_size=3000), st.lists(st.integers(1, 700), min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_bytes_come_out_as_they_went_in(data: bytes, sizes: list[int]) -> None:
    """However they are asked for; the end of the connection is seen, as is "nothing yet"."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        ahead = ReadAhead(near)
        with pytest.raises(BlockingIOError):
            ahead.recv(1)
        far.sendall(data)
        found = b""
        while len(found) < len(data):
            size = sizes[len(found) % len(sizes)]
            part = ahead.recv(size)
            assert 0 < len(part) <= size
            found += part
        assert found == data
        assert ahead.pending() == 0
        far.close()
        assert ahead.recv(1) == b""


class _Taker:
    """A persistent session that keeps packet ids, and acknowledges when it is told to."""

    def __init__(self, mqtt: MqttConfig, name: str, topic: str, wanted: int) -> None:
        self.mids: list[int] = []
        self.payloads: list[bytes] = []
        self.reached = threading.Event()
        self.subscribed = threading.Event()
        self._wanted, self._topic = wanted, topic
        self.client = IngestClient.of(mqtt, name)
        self.client.on_connect = lambda *_: self.client.subscribe(topic, 1)
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = self._heard
        properties = connect_properties(mqtt)
        properties.ReceiveMaximum = 4000
        self.client.connect(mqtt.host, mqtt.port, clean_start=False, properties=properties)
        self.client.loop_start()
        assert self.subscribed.wait(60)

    def _heard(self, *arguments: object) -> None:
        message = arguments[2]
        self.mids.append(message.mid)  # type: ignore[attr-defined]
        self.payloads.append(bytes(message.payload))  # type: ignore[attr-defined]
        if len(self.mids) == self._wanted:
            self.reached.set()

    def leave(self) -> None:
        # Its answer tells that the broker has read all that was written before it.
        self.subscribed.clear()
        self.client.subscribe(f"{self._topic}/other", 1)
        assert self.subscribed.wait(60)
        self.client.disconnect()
        self.client.loop_stop()


def test_what_is_acknowledged_in_bulk_does_not_come_again_and_the_rest_does(
    mosquitto_broker: MqttConfig, fleet_name: str
) -> None:
    """Large and small payloads in one flood: all arrive whole, and the broker counts our acks."""
    sent = [bytes([n % 251]) * (50_000 if n % 100 == 0 else n % 700) for n in range(1500)]
    taker = _Taker(mosquitto_broker, fleet_name, f"{fleet_name}/x", len(sent))
    sender = new_client(mosquitto_broker, f"{fleet_name}-sender")
    sender.connect(mosquitto_broker.host, mosquitto_broker.port)
    sender.loop_start()
    for payload in sent:
        sender.publish(f"{fleet_name}/x", payload, 1)
    assert taker.reached.wait(60), "more than the default window is in flight"
    assert taker.payloads == sent
    taker.client.acknowledge(taker.mids[:1490])
    taker.leave()
    again = _Taker(mosquitto_broker, fleet_name, f"{fleet_name}/x", 10)
    assert again.reached.wait(60)
    sender.publish(f"{fleet_name}/x", b"last", 1).wait_for_publish(10)
    again.client.acknowledge(again.mids)
    assert again.payloads[:10] == sent[1490:]
    sender.disconnect()
    sender.loop_stop()
    again.leave()
