"""A controller for tests: serves blocks from a real repository, keeps what a device says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from contracts import blocks, codec, topics
from contracts.answers import Answer
from contracts.config import MqttConfig
from contracts.connection import connect_properties, new_client
from contracts.desired import Desired, DesiredBundle, TrialRules
from contracts.errors import ShoalError
from contracts.messages import BundleRef, Reported, Status, Telemetry, UpdateEvent
from contracts.requests import BlobGet
from fleet.repository.repository import Repository

if TYPE_CHECKING:
    from typing_extensions import Self

_KINDS: dict[str, Any] = {
    "status": Status,
    "reported": Reported,
    "update": UpdateEvent,
    "telemetry": Telemetry,
    "response": Answer,
}


class Controller:
    """Connected while inside ``with``. Every message is decoded with the contract's type.

    Attributes:
        heard: ``(device, kind, decoded message)`` in order; of an application's answer the topic.
        correlations: MQTT 5 correlation data of the answers, by request id.
        spoil: changes a block's payload before it is sent, for tests.
        tell_time: what is told as the time with each block.
    """

    def __init__(self, config: MqttConfig, fleet: str, repository: Repository) -> None:
        self.config = config
        self.topics = topics.Topics(fleet)
        self.repository = repository
        self.heard: list[tuple[str, str, Any]] = []
        self.problems: list[str] = []
        self.correlations: dict[str, bytes | None] = {}
        self.spoil: Callable[[BlobGet, bytes], bytes] = lambda _, payload: payload
        self.tell_time: Callable[[], object] = time.time
        self._changed = threading.Condition()
        self._client = new_client(config, f"controller-{time.monotonic_ns()}")
        self._client.on_message = self._on_message
        self._ids = 0

    def __enter__(self) -> Self:
        self._client.connect(
            self.config.host, self.config.port, properties=connect_properties(self.config)
        )
        self._client.subscribe([(f"{self.topics.prefix}/{kind}/#", 1) for kind in "da"])
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, _client: paho.Client, _data: object, message: Any) -> None:
        address = (
            topics.Address(self.topics.fleet, "response", message.topic)
            if self.topics.is_application(message.topic)
            else topics.parse(message.topic)
        )
        if address.kind == "blob-get":
            self._answer(address.target, message.payload)
            return
        if address.kind not in _KINDS or not message.payload:
            return
        try:
            decoded = codec.decode(message.payload, _KINDS[address.kind], what=address.kind)
        except ShoalError as error:
            self.problems.append(f"{address.kind}: {error}: {message.payload[:300]!r}")
            return
        if address.kind == "response":
            data = getattr(message.properties, "CorrelationData", None)
            self.correlations[decoded.id] = data
        with self._changed:
            self.heard.append((address.target, address.kind, decoded))
            self._changed.notify_all()

    def _answer(self, device: str, payload: bytes) -> None:
        request = codec.decode(payload, BlobGet, what="blob/get")
        try:
            block = self.repository.read(request.path, request.offset, request.length)
            reply = blocks.pack(request.id, block)
        except ShoalError as error:
            reply = blocks.pack_error(request.id, error)
        topic = self.topics.blob(device, request.id)
        carried = Properties(PacketTypes.PUBLISH)
        carried.UserProperty = [("other", "1"), (blocks.TIME_PROPERTY, str(self.tell_time()))]
        self._client.publish(topic, self.spoil(request, reply), qos=1, properties=carried)

    def wait(self, what: str, wanted: Callable[[str, str, Any], bool], seconds: float = 120) -> Any:
        """The first message, heard already or later, that is wanted."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                for heard in self.heard:
                    if wanted(*heard):
                        return heard[2]
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    tail = [(k, msgspec.to_builtins(m)) for _, k, m in self.heard[-6:]]
                    raise AssertionError(
                        f"{what} did not happen in {seconds} s; problems: {self.problems}; "
                        f"last messages: {json.dumps(tail, default=str)[:3000]}"
                    )

    def wait_update(self, state: str, revision: int, seconds: float = 120) -> UpdateEvent:
        """The device's event of this state and revision."""
        return self.wait(
            f"update {revision} {state}",
            lambda _, kind, m: kind == "update" and m.state == state and m.revision == revision,
            seconds,
        )

    def desire(self, device: str, revision: int, ref: BundleRef, **trial: Any) -> None:
        """Publishes a desired document for the slot ``classify``."""
        self.desire_slots(device, revision, {"classify": ref}, **trial)

    def desire_slots(
        self, device: str, revision: int, refs: dict[str, BundleRef], **trial: Any
    ) -> None:
        """Publishes a desired document."""
        rules = TrialRules(**{"seconds": 0.3, **trial})
        wishes = {slot: DesiredBundle(ref, trial=rules) for slot, ref in refs.items()}
        self.desire_document(device, Desired(revision, wishes, rollout="test"))

    def desire_document(self, device: str, desired: Desired) -> None:
        """Publishes any desired document."""
        topic = self.topics.of_device(device, "desired")
        self._client.publish(topic, codec.encode(desired), qos=1, retain=True)

    def send(self, device: str, op: str, body: bytes, **properties: Any) -> None:
        """A raw request, with MQTT 5 properties by paho's names."""
        self.publish(self.topics.request(device, op), body, **properties)

    def publish(self, topic: str, body: bytes, *, retain: bool = False, **properties: Any) -> None:
        """A raw message, with MQTT 5 properties by paho's names."""
        carried = Properties(PacketTypes.PUBLISH)
        for name, value in properties.items():
            setattr(carried, name, value)
        self._client.publish(topic, body, qos=1, retain=retain, properties=carried)

    def answer(self, name: str, seconds: float = 120) -> Answer:
        """The last answer to the request with this id."""
        return self.wait(
            f"the answer to {name}",
            lambda _, kind, m: kind == "response" and m.id == name and m.done,
            seconds,
        )

    def ask(self, device: str, op: str, request: Any, seconds: float = 120) -> list[Answer]:
        """Sends a request and returns all its answers."""
        self._ids += 1
        name = f"r{self._ids}"
        body = {**msgspec.to_builtins(request), "id": name}
        self.send(device, op, json.dumps(body, ensure_ascii=False).encode())
        self.answer(name, seconds)
        return [m for _, kind, m in self.heard if kind == "response" and m.id == name]


def enrol(folder: Path, device: str, fleet: str, config: MqttConfig, root: bytes) -> Path:
    """Writes a device's folder for a broker without TLS."""
    folder.mkdir(parents=True, exist_ok=True)
    board = {
        "name": "pico-2-w",
        "model_ram_bytes": 131072,
        "model_flash_bytes": 1048576,
        "quantizations": ["int8"],
    }
    document = {
        "fleet": fleet,
        "device": device,
        "board": board,
        "groups": ["kitchen"],
        "labels": {"site": "lab"},
        "telemetry_s": 1,
        "mqtt": {"host": config.host, "port": config.port, "keepalive_s": 10},
    }
    (folder / "shoal.json").write_text(json.dumps(document))
    (folder / "root.json").write_bytes(root)
    return folder
