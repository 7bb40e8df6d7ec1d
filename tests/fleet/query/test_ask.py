"""Queries over a real broker: fan-out, partial answers, votes, streams, forged answers."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from contracts import codec
from contracts.answers import Answer, Classified, Generated
from contracts.config import MqttConfig
from contracts.connection import new_client
from contracts.errors import UnavailableError
from contracts.messages import BundleRef
from contracts.requests import CancelRequest, ClassifyRequest, GenerateRequest
from contracts.topics import Topics
from fleet.query import Asker
from fleet.query.ask import votes

REF = BundleRef("m", "1.0.0", "a" * 64)


class _Devices:
    """Devices on one connection that answer as a test says."""

    def __init__(self, mqtt: MqttConfig, topics: Topics, labels: dict[str, str]) -> None:
        self.topics = topics
        self.labels = labels
        self.cancelled = threading.Event()
        self.ready = threading.Event()
        self.client = new_client(mqtt, f"{topics.fleet}-devices")
        self.client.on_subscribe = lambda *_: self.ready.set()
        self.client.on_message = self._on_message
        self.client.connect(mqtt.host, mqtt.port)
        self.client.subscribe([(topics.requests_of(name), 1) for name in labels])
        self.client.loop_start()
        assert self.ready.wait(60)

    def _on_message(self, _client: Any, _userdata: Any, message: Any) -> None:
        device, op = message.topic.split("/")[4], message.topic.rsplit("/", 1)[1]
        if op == "classify":
            request = codec.decode(message.payload, ClassifyRequest, what="request")
            label = self.labels[device]
            if label:
                self.answer(device, request.id or "", classified=_classified(label))
                # Also in the name of another device, which is not believed.
                other = next(name for name in self.labels if name != device)
                self.answer(device, request.id or "", claims=other, classified=_classified("lie"))
        elif op == "generate":
            request_id = codec.decode(message.payload, GenerateRequest, what="request").id or ""
            for seq, chunk in enumerate(("Hel", "lo")):
                self.answer(device, request_id, seq=seq, done=False, chunk=chunk)
            if self.labels[device]:
                total = Generated("Hello", "stop", 1, 2, REF)
                self.answer(device, request_id, seq=2, generated=total)
        elif op == "cancel":
            codec.decode(message.payload, CancelRequest, what="cancel")
            self.cancelled.set()

    def answer(self, device: str, request: str, *, claims: str = "", **fields: Any) -> None:
        payload = codec.encode(Answer(id=request, device=claims or device, **fields))
        self.client.publish(self.topics.response(device, request), payload, 1)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def _classified(label: str) -> Classified:
    return Classified(label, 0.9, [], REF, 10.0)


async def _collect(asker: Asker, names: list[str], op: str, request: Any, seconds: float,
                   **more: Any) -> list[Answer]:  # fmt: skip
    return [answer async for answer in asker.ask(names, op, request, seconds, **more)]


def test_a_fan_out_gives_every_device_one_answer_or_one_error(
    broker: MqttConfig, fleet_name: str
) -> None:
    """Three answer, one is silent until the limit, one is known to be offline."""
    topics = Topics(fleet_name)
    devices = _Devices(broker, topics, {"a": "on", "b": "on", "c": "off", "mute": ""})
    asker = Asker(topics, broker, f"{fleet_name}-ask")
    asker.start()
    assert asker.link.connected.wait(60)
    names = ["a", "b", "c", "mute", "away"]
    answers = asyncio.run(
        _collect(asker, names, "classify", ClassifyRequest(text="x"), 3.0,
                 offline=lambda name: name == "away")
    )  # fmt: skip
    by_name = {answer.device: answer for answer in answers}
    assert len(answers) == 5
    errors = {name: a.error.code for name, a in by_name.items() if a.error}
    assert errors == {"mute": "no-answer", "away": "device-offline"}
    together = votes(answers)
    assert together is not None
    assert together["label"] == "on"
    assert together["votes"] == {"off": 1, "on": 2}
    assert together["agreement"] == pytest.approx(2 / 3)
    asker.stop()
    devices.close()


def test_a_stream_comes_in_chunks_and_a_silent_one_is_cancelled(
    broker: MqttConfig, fleet_name: str
) -> None:
    """Chunks as they come, then totals; a device that does not finish is told to stop."""
    topics = Topics(fleet_name)
    devices = _Devices(broker, topics, {"a": "ends", "mute": ""})
    asker = Asker(topics, broker, f"{fleet_name}-ask")
    asker.start()
    assert asker.link.connected.wait(60)
    answers = asyncio.run(_collect(asker, ["a"], "generate", GenerateRequest(prompt="x"), 10.0))
    assert [a.chunk for a in answers] == ["Hel", "lo", None]
    assert answers[-1].generated is not None and answers[-1].done
    assert not devices.cancelled.is_set()
    answers = asyncio.run(_collect(asker, ["mute"], "generate", GenerateRequest(prompt="x"), 1.5))
    assert answers[-1].error is not None and answers[-1].error.code == "no-answer"
    assert devices.cancelled.wait(60)
    asker.stop()
    devices.close()


def test_without_a_broker_a_query_fails_at_once(fleet_name: str) -> None:
    """It does not wait for its limit."""
    asker = Asker(Topics(fleet_name), MqttConfig(port=1), "x")
    with pytest.raises(UnavailableError):
        asyncio.run(_collect(asker, ["a"], "classify", ClassifyRequest(text="x"), 60.0))


def test_answers_that_a_device_retains_are_removed_and_counted(
    mosquitto_broker: MqttConfig, fleet_name: str
) -> None:
    """Before the controller came, and while it listens; they are no answers."""
    topics = Topics(fleet_name)
    device = new_client(mosquitto_broker, f"{fleet_name}-mallory")
    device.connect(mosquitto_broker.host, mosquitto_broker.port)
    device.loop_start()
    asker = Asker(topics, mosquitto_broker, f"{fleet_name}-asker")

    def retain(numbers: range) -> None:
        for number in numbers:
            topic = topics.response("mallory", f"{number:06}")
            device.publish(topic, b"x" * 1000, 1, retain=True).wait_for_publish(10)

    counted = 0

    def until(expected: int) -> None:
        nonlocal counted
        deadline = time.monotonic() + 120
        while counted < expected:
            assert time.monotonic() < deadline
            counted += asker.take_retained().get("mallory", 0)
            time.sleep(0.05)

    retain(range(200))
    asker.start()
    until(200)
    retain(range(200, 300))
    until(300)
    assert counted == 300
    left: list[str] = []
    fence = threading.Event()
    look = new_client(mosquitto_broker, f"{fleet_name}-look")
    look.on_message = lambda _c, _u, m: (
        fence.set() if m.topic == fleet_name else left.append(m.topic)
    )
    look.connect(mosquitto_broker.host, mosquitto_broker.port)
    look.loop_start()
    look.subscribe([(topics.every_response(), 1), (fleet_name, 1)])
    look.publish(fleet_name, b"x", 1)
    assert fence.wait(60)
    assert left == []
    for client in (device, look):
        client.disconnect()
        client.loop_stop()
    asker.stop()
