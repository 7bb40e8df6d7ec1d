"""The block server: one request that fails stops no other, and one device cannot take it all."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from paho.mqtt.subscribeoptions import SubscribeOptions

from contracts import blocks, codec, limits
from contracts.config import MqttConfig
from contracts.connection import new_client
from contracts.requests import BlobGet
from contracts.topics import Topics, parse
from fleet.mqtt.blocks import (
    MAX_OF_DEVICE,
    MAX_REQUEST_BYTES,
    MAX_UNACKNOWLEDGED_BYTES,
    MAX_WAITING,
    BlockServer,
    Unacknowledged,
    Waiting,
)
from fleet.mqtt.link import _guarded
from tests.support.broker import mosquitto
from tests.support.proxy import Proxy

TOPICS = Topics("f")
WAIT_S = 90.0
BLOCK = limits.MAX_BLOCK_BYTES


class Large:
    """A repository of which every file has a block of zeros."""

    def __init__(self) -> None:
        self.reads = 0
        self.read_one = threading.Condition()

    def read(self, _path: str, offset: int, length: int) -> blocks.Block:
        """Those zeros."""
        with self.read_one:
            self.reads += 1
            self.read_one.notify_all()
        return blocks.Block(offset, offset + length, bytes(length))

    def wait_for_read(self, count: int, timeout_s: float = WAIT_S) -> bool:
        """Whether so many blocks were read in time."""
        with self.read_one:
            return self.read_one.wait_for(lambda: self.reads >= count, timeout_s)


@contextmanager
def serving(broker: MqttConfig) -> Iterator[tuple[BlockServer, Large]]:
    """A started server on this broker."""
    repository = Large()
    server = BlockServer(repository, TOPICS, broker, "blocks")  # type: ignore[arg-type]
    server.start()
    try:
        assert server.link.connected.wait(WAIT_S)
        yield server, repository
    finally:
        server.stop()


def ask(server: BlockServer, device: str, request_id: str) -> None:
    """As if the request had just arrived."""
    request = BlobGet(request_id, "file", 0, BLOCK)
    server._on_get(TOPICS.blob_get(device), codec.encode(request))


def held(server: BlockServer) -> int:
    """Bytes of answers in the client's memory."""
    client = server.link._client
    with client._out_message_mutex:
        return sum(len(m.payload) for m in client._out_messages.values())


def test_the_thread_outlives_whatever_a_request_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next device is still answered."""
    server = BlockServer(None, TOPICS, MqttConfig(), "blocks")  # type: ignore[arg-type]
    seen: queue.SimpleQueue[str] = queue.SimpleQueue()

    def answer(device: str, _payload: bytes) -> None:
        seen.put(device)
        if device == "b":
            server.waiting.close()
        raise ZeroDivisionError

    monkeypatch.setattr(server, "_answer", answer)
    for device in ("a", "b"):
        server._on_get(TOPICS.blob_get(device), b"")
    server._run()
    assert [seen.get_nowait(), seen.get_nowait()] == ["a", "b"]


def test_answers_wait_while_the_broker_acknowledges_none() -> None:
    """No more than the bound is read and held; the rest follows when the broker is back."""
    most = MAX_UNACKNOWLEDGED_BYTES // BLOCK
    devices = [f"d{i}" for i in range(4 * most)]
    with (
        mosquitto() as broker,
        Proxy(broker.port) as proxy,
        serving(MqttConfig(port=proxy.port)) as (server, repository),
    ):
        proxy.silent = True
        for device in devices:
            ask(server, device, "r")
        assert repository.wait_for_read(most)
        assert not repository.wait_for_read(most + 1, 1.0)
        assert held(server) <= MAX_UNACKNOWLEDGED_BYTES + BLOCK
        proxy.silent = False
        assert repository.wait_for_read(len(devices))


def test_a_lost_connection_leaves_no_bytes_counted() -> None:
    """What was on the way is sent again, acknowledged, and makes room for others."""
    most = MAX_UNACKNOWLEDGED_BYTES // BLOCK
    with (
        mosquitto() as broker,
        Proxy(broker.port) as proxy,
        serving(MqttConfig(port=proxy.port)) as (server, repository),
    ):
        answered = threading.Semaphore(0)
        answer = server._answer

        def counted(device: str, payload: bytes) -> None:
            try:
                answer(device, payload)
            finally:
                answered.release()

        server._answer = counted  # type: ignore[method-assign]
        for lost in range(1, 4):
            proxy.silent = True
            for number in range(2 * most):
                ask(server, f"d{number}", f"r{lost}")
            assert repository.wait_for_read(2 * most * (lost - 1) + most)
            proxy.cut()
            proxy.silent = False
            assert all(answered.acquire(timeout=WAIT_S) for _ in range(2 * most))
            with server.unacknowledged._changed:
                assert server.unacknowledged._changed.wait_for(
                    lambda: server.unacknowledged.bytes == 0, WAIT_S
                )
        assert held(server) == 0


def test_a_device_that_asks_without_end_does_not_keep_others_waiting(
    mosquitto_broker: MqttConfig,
) -> None:
    """Its own requests are dropped, none of another device, which is next but one."""
    order: list[str] = []
    arrived = threading.Event()
    waiting = new_client(mosquitto_broker, "waiting")

    def on_message(_client: Any, _userdata: Any, message: Any) -> None:
        order.append(parse(message.topic).target)
        if order[-1] == "good":
            arrived.set()

    subscribed = threading.Event()
    waiting.on_message = on_message
    waiting.on_subscribe = lambda *_: subscribed.set()
    waiting.connect(mosquitto_broker.host, mosquitto_broker.port)
    options = SubscribeOptions(qos=1)
    waiting.subscribe([(TOPICS.blob(device, "r"), options) for device in ("good", "evil")])
    waiting.loop_start()
    try:
        assert subscribed.wait(WAIT_S)
        repository = Large()
        server = BlockServer(repository, TOPICS, mosquitto_broker, "b")  # type: ignore[arg-type]
        for _ in range(2 * MAX_WAITING):
            ask(server, "evil", "r")
        ask(server, "good", "r")
        assert server.dropped == 2 * MAX_WAITING - MAX_OF_DEVICE
        server.link.start()
        assert server.link.connected.wait(WAIT_S)
        server._thread.start()
        assert arrived.wait(WAIT_S)
        assert order[:2] == ["evil", "good"]
        server.stop()
    finally:
        waiting.disconnect()
        waiting.loop_stop()


def test_devices_are_served_in_turn() -> None:
    """One request of each, and of each in the order in which it asked."""
    waiting = Waiting()
    for device, payload in (("a", b"1"), ("a", b"2"), ("a", b"3"), ("b", b"1"), ("b", b"2")):
        waiting.put(device, payload)
    assert [waiting.take() for _ in range(5)] == [
        ("a", b"1"),
        ("b", b"1"),
        ("a", b"2"),
        ("b", b"2"),
        ("a", b"3"),
    ]
    waiting.close()
    assert waiting.take() is None


def test_the_oldest_requests_of_a_device_are_dropped() -> None:
    """The device has given those up the soonest."""
    waiting = Waiting()
    for number in range(MAX_OF_DEVICE + 2):
        waiting.put("a", b"%d" % number)
    assert waiting.take() == ("a", b"2")
    assert waiting.dropped == 2


def test_all_devices_together_wait_within_a_bound() -> None:
    """However many they are; there is room again when one was served."""
    waiting = Waiting()
    for number in range(MAX_WAITING + 1):
        waiting.put(f"d{number}", b"")
    assert waiting.dropped == 1
    waiting.take()
    waiting.put("late", b"")
    assert waiting.dropped == 1


def test_a_large_request_does_not_wait() -> None:
    """It would be refused when its turn comes, and takes memory until then."""
    server = BlockServer(None, TOPICS, MqttConfig(), "blocks")  # type: ignore[arg-type]
    server._on_get(TOPICS.blob_get("a"), bytes(MAX_REQUEST_BYTES + 1))
    server._on_get(TOPICS.blob_get("b"), bytes(MAX_REQUEST_BYTES))
    item = server.waiting.take()
    assert item is not None and item[0] == "b"


def test_an_acknowledgement_may_be_faster_than_the_count() -> None:
    """The network thread does not wait until the message is counted."""
    unacknowledged = Unacknowledged()
    unacknowledged.settle(1)
    unacknowledged.add(1, 10)
    unacknowledged.add(2, 20)
    assert unacknowledged.bytes == 20
    unacknowledged.settle(2)
    unacknowledged.add(1, 30)
    assert unacknowledged.bytes == 30


def test_a_handler_that_raises_does_not_end_the_network_thread() -> None:
    """The client ends its thread on an error of a callback."""

    class Message:
        topic = "t"
        payload = b""

    def handler(_topic: str, _payload: bytes) -> None:
        raise ZeroDivisionError

    call: Any = _guarded(handler)
    call(None, None, Message())
