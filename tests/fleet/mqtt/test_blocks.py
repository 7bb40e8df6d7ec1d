"""The block server: one request that fails stops no other."""

from __future__ import annotations

import queue
from typing import Any

import pytest

from contracts.config import MqttConfig
from contracts.topics import Topics
from fleet.mqtt.blocks import BlockServer
from fleet.mqtt.link import _guarded


def test_the_thread_outlives_whatever_a_request_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next device is still answered."""
    server = BlockServer(None, Topics("f"), MqttConfig(), "blocks")  # type: ignore[arg-type]
    seen: queue.SimpleQueue[str] = queue.SimpleQueue()

    def answer(topic: str, _payload: bytes) -> None:
        seen.put(topic)
        raise ZeroDivisionError

    monkeypatch.setattr(server, "_answer", answer)
    for topic in ("a", "b"):
        server._on_get(topic, b"")
    server._queue.put(None)
    server._run()
    assert [seen.get_nowait(), seen.get_nowait()] == ["a", "b"]


def test_a_handler_that_raises_does_not_end_the_network_thread() -> None:
    """The client ends its thread on an error of a callback."""

    class Message:
        topic = "t"
        payload = b""

    def handler(_topic: str, _payload: bytes) -> None:
        raise ZeroDivisionError

    call: Any = _guarded(handler)
    call(None, None, Message())
