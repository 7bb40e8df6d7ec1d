"""What Home Assistant is told of versions, and what its users may begin, over a real broker."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import paho.mqtt.client as paho
import pytest

from contracts import codec, program
from contracts.config import MqttConfig
from contracts.connection import new_client
from contracts.desired import Offered
from contracts.messages import BundleRef, Reported, SlotReport, UpdateEvent
from contracts.topics import Topics, home_assistant_update
from fleet.home_assistant import entity
from fleet.home_assistant.offers import Shelf
from fleet.home_assistant.steward import Steward
from fleet.store import audit, rollouts
from fleet.store import devices as stored
from tests.fleet.conductor.test_runner import Small

PATIENCE_S = 120.0


class Home(Small):
    """A fleet with a steward, and somebody who watches what it says."""

    def __init__(self, folder: Path, mqtt: MqttConfig, name: str) -> None:
        super().__init__(folder)
        self.topics = Topics(name)
        self.signed: dict[str, frozenset[str]] = {}
        self.heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.client = new_client(mqtt, f"watches-{name}")
        ready = threading.Event()
        self.client.on_connect = lambda *_: self.client.subscribe(
            [(f"{self.topics.prefix}/#", 1), (f"homeassistant/update/shoal-{name}-a/#", 1)]
        )
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.on_message = self._on_message
        self.client.connect(mqtt.host, mqtt.port)
        self.client.loop_start()
        assert ready.wait(PATIENCE_S)
        self.steward = Steward(
            self.store, self.topics, mqtt, f"steward-{name}", self.runner,
            signed=lambda: self.signed, installs=True, clock=lambda: self.now,
        )  # fmt: skip

    def _on_message(self, _client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        self.heard.put((message.topic, message.payload))

    def offers(self) -> dict[str, str]:
        """Versions by slot."""
        with self.store.read() as connection:
            device = stored.get(connection, "a")
            return {
                slot: ref.version
                for slot, ref in Shelf(connection, lambda: self.signed).offers(device).items()
            }

    def wait(self, topic: str, what: Any) -> bytes:
        """The first message of a topic for which something holds."""
        while True:
            name, payload = self.heard.get(timeout=PATIENCE_S)
            if name == topic and what(payload):
                return payload

    def press(self, ref: BundleRef) -> None:
        """As Home Assistant does."""
        self.client.publish(self.topics.install("a", "classify"), codec.encode(ref), qos=1)

    def close(self) -> None:
        """Everything ends."""
        self.steward.stop()
        self.client.disconnect()
        self.client.loop_stop()
        self.store.close()


@pytest.fixture
def home(mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path) -> Iterator[Home]:
    """A device that runs 1.0.0, as asked; 2.0.0 is published as well."""
    made = Home(tmp_path, mosquitto_broker, fleet_name)
    made.add("a")
    made.create("1.0.0", follow_s=0)
    made.settle("a")
    yield made
    made.close()


def test_the_newest_version_is_offered_until_its_rollout_is_stopped(home: Home) -> None:
    """And again when another rollout of it was not; a withdrawn one is not offered."""
    assert home.offers() == {"classify": "2.0.0"}
    home.publish("3.0.0")
    assert home.offers() == {"classify": "3.0.0"}
    rollout = home.create("3.0.0", follow_s=0)
    home.abort(rollout)
    assert home.offers() == {"classify": "2.0.0"}
    home.settle("a")
    home.create("3.0.0", follow_s=0)
    assert home.offers() == {"classify": "3.0.0"}
    home.fleet.withdraw("noise", "3.0.0")
    assert home.offers() == {"classify": "2.0.0"}


def test_a_release_of_the_agent_is_offered_where_there_is_an_archive(home: Home) -> None:
    """For the device's own platform and Python, never an older one."""
    device = home.device("a")
    assert device.reported is not None
    home.hear(
        "a",
        Reported(
            "a", "b", "1.0.0", "raspberry-pi-5", "tflite", home.now,
            slots={program.SLOT: SlotReport(program.ref("1.0.0"))},
            platform={program.TAG: "aarch64-cp313"},
        ),
    )  # fmt: skip
    home.signed = {"1.1.0": frozenset({"x86-64-cp313"}), "0.9.0": frozenset({"aarch64-cp313"})}
    assert home.offers() == {program.SLOT: "1.0.0"}
    home.signed["1.2.0"] = frozenset({"aarch64-cp313"})
    assert home.offers() == {program.SLOT: "1.2.0"}


def test_what_is_pressed_becomes_a_rollout_to_that_device_and_is_told_when_it_cannot(
    home: Home,
) -> None:
    """With the usual rules: a rollout that holds the device goes first, and the note says so."""
    offered = home.topics.of_device("a", "offered")
    config = home_assistant_update(home.topics.fleet, "a", "classify")
    home.steward.start()
    told = json.loads(home.wait(config, bool))
    assert told["command_topic"] == home.topics.install("a", "classify")
    wanted = codec.decode(told["payload_install"].encode(), BundleRef, what="payload")
    assert wanted == home.refs["2.0.0"]
    for wrong in (home.refs["1.0.0"], BundleRef("noise", "9.9.9", "0" * 64)):
        home.press(wrong)  # not what is offered: something old was still shown
        expected = f"{wrong} is not what".encode()
        home.wait(offered, lambda payload, expected=expected: expected in payload)
    home.client.publish(home.topics.install("a", "classify"), b"no JSON", qos=1)
    home.wait(offered, lambda payload: b"the installation" in payload)
    home.press(wanted)
    home.wait(offered, lambda payload: not codec.decode(payload, Offered, what="offered")
              .slots["classify"].note)  # fmt: skip
    with home.store.read() as connection:
        (rollout,) = rollouts.active(connection)
        stored_one = rollouts.get(connection, rollout)
        entries = audit.page(connection, None, 50)[0]
    assert (stored_one.created_by, stored_one.spec.selector) == ("home-assistant", "device=a")
    assert {("rollout.create", "done"), ("rollout.create", "not-offered")} <= {
        (one.action, one.outcome) for one in entries if one.actor == "home-assistant"
    }
    home.press(wanted)  # twice
    home.wait(offered, lambda payload: f"rollout {rollout} is under way".encode() in payload)
    home.settle("a")
    assert home.active("a") == "2.0.0"
    with home.store.write() as connection:
        stored.revoke(connection, "a", home.now)
    home.press(wanted)  # the next look is at once
    assert home.wait(config, lambda payload: not payload) == b""
    assert home.wait(offered, lambda payload: not payload) == b""


def test_a_look_reads_the_devices_that_changed_and_no_others(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fleet of thousands it read them all, every few seconds."""
    home.add("b")
    home.settle("b")
    steward, read, some = home.steward, [], stored.some

    def counted(connection: Any, names: Any) -> dict[str, stored.Device]:
        read.append(sorted(names))
        return some(connection, names)

    steward.link.start()
    assert steward.link.connected.wait(PATIENCE_S)
    monkeypatch.setattr(stored, "some", counted)

    def look() -> list[list[str]]:
        read.clear()
        steward._look()
        return list(read)

    assert [look(), look()] == [[["a", "b"]], [[]]]
    home.publish("3.0.0")
    offered = home.topics.of_device("a", "offered")
    assert look() == [["a", "b"]]
    home.wait(offered, lambda payload: b"3.0.0" in payload)
    device = home.device("b")
    assert device.reported is not None
    home.hear("b", msgspec.structs.replace(device.reported, agent_version="9.9.9"))
    assert look() == [["b"]]
    with home.store.write() as connection:
        stored.revoke(connection, "a", home.now)
    assert look() == [["a"]]
    home.wait(offered, lambda payload: not payload)
    steward._on_up()
    assert look() == [["a", "b"]]


def test_the_templates_of_the_entity_read_our_messages(home: Home) -> None:
    """What is shown of a device that updates, of one that does not, and of an empty one."""
    old, new = home.refs["1.0.0"], home.refs["2.0.0"]
    found = entity.document(home.topics, "a", "classify", new, installs=False)
    assert "command_topic" not in found

    def shown(key: str, message: object) -> str:
        template = jinja2.Environment(autoescape=False).from_string(found[key])
        return template.render(value_json=json.loads(codec.encode(message)))

    event = UpdateEvent(
        "b", 1, 2, "classify", new, "downloading", 1.0, done_bytes=25, total_bytes=100
    )
    reported = Reported(
        "a", "b", "0", "x", "litert", 1.0, slots={"classify": SlotReport(old)}, last_update=event
    )
    assert json.loads(shown("value_template", reported)) == {
        "in_progress": True, "update_percentage": 25, "installed_version": "1.0.0",
    }  # fmt: skip
    empty = json.loads(shown("value_template", Reported("a", "b", "0", "x", "litert", 1.0)))
    assert empty == {"in_progress": False, "update_percentage": None}
    assert shown("latest_version_template", Offered({})) == ""
    assert json.loads(shown("json_attributes_template", Offered({}))) == {"note": ""}
