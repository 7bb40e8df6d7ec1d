"""A topic that the broker refuses costs that topic alone: real mosquitto, mutual TLS."""

from __future__ import annotations

import contextlib
import itertools
import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
import pytest
import yaml

from agent.daemon import Agent
from contracts import codec
from contracts.answers import Answer
from contracts.config import AgentConfig, MqttConfig, TlsConfig
from contracts.connection import tls_context
from contracts.messages import Reported
from contracts.topics import Topics, home_assistant_discovery
from fleet.broker import MosquittoBroker
from fleet.broker.acl import READER
from fleet.folder import CONFIG, Fleet, FleetConfig
from tests.support.tools import free_port, need_tool

PATIENCE_S = 90.0


class Reef:
    """A fleet with its broker, and clients of it."""

    def __init__(self, folder: Path, *, home_assistant: bool = False) -> None:
        port = free_port()
        self.fleet = Fleet.init(
            folder / "fleet",
            FleetConfig(
                "reef",
                mqtt=MqttConfig(port=port),
                mutual_tls=True,
                home_assistant=home_assistant,
            ),
        )
        self.folder = folder
        self.topics = Topics("reef")
        self.configuration = self.fleet.folder / "broker/mosquitto.conf"
        program = need_tool("mosquitto", "/usr/sbin/mosquitto")
        self.broker = MosquittoBroker(self.configuration, port=port, program=program)
        self.mqtt = MqttConfig(port=port)

    def allow_home_assistant(self) -> None:
        """As an operator does; the next start of a part of the controller reads it."""
        path = self.fleet.folder / CONFIG
        path.write_text(
            yaml.safe_dump({**yaml.safe_load(path.read_text()), "home_assistant": True})
        )
        self.fleet = Fleet.open(self.fleet.folder)

    def tls(self, name: str) -> TlsConfig:
        """The certificate of ``controller`` or of Home Assistant."""
        folder = self.fleet.folder / "ca"
        return TlsConfig(*(str(folder / f) for f in ("ca.pem", f"{name}.pem", f"{name}.key.pem")))


class Watcher:
    """A client of the fleet that remembers what it hears."""

    def __init__(self, reef: Reef, tls: TlsConfig, *topics: str, version: int = 5) -> None:
        self.heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.acknowledged: queue.Queue[int] = queue.Queue()
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, f"w{time.monotonic_ns()}", protocol=version
        )
        self.client.tls_set_context(tls_context(tls))
        ready: queue.Queue[None] = queue.Queue()
        self.client.on_connect = lambda *_: ready.put(None)
        self.client.on_subscribe = lambda *_: ready.put(None)
        self.client.on_message = lambda _c, _u, m: self.heard.put((m.topic, m.payload))
        self.client.on_publish = lambda _c, _u, mid, *_: self.acknowledged.put(mid)
        self.lost = 0
        self.client.on_disconnect = self._lost
        self.client.connect(reef.mqtt.host, reef.mqtt.port)
        self.client.loop_start()
        ready.get(timeout=PATIENCE_S)
        if topics:
            self.client.subscribe([(topic, 1) for topic in topics])
            ready.get(timeout=PATIENCE_S)

    def _lost(self, *_: object) -> None:
        self.lost += 1

    def wait(self, topic: str, what: Any) -> Any:
        """The first message of a topic for which `what` gives something."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            name, payload = self.heard.get(timeout=max(0.01, deadline - time.monotonic()))
            if name == topic and payload and (found := what(payload)):
                return found

    def close(self) -> None:
        """Goodbye."""
        self.client.disconnect()
        self.client.loop_stop()


def reported(payload: bytes) -> Reported:
    """A reported document."""
    return codec.decode(payload, Reported, what="reported")


@contextlib.contextmanager
def running(config: AgentConfig, folder: Path) -> Iterator[Agent]:
    """An agent in this process."""
    agent = Agent(config, folder)
    agent.start()
    try:
        yield agent
    finally:
        agent.stop()


@pytest.fixture(scope="module")
def reef(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reef]:
    """A fleet without Home Assistant, as it is by default."""
    made = Reef(tmp_path_factory.mktemp("reef"))
    with made.broker:
        yield made


@pytest.mark.parametrize("version", [5, 4])
@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("qos", [0, 1])
def test_a_refused_message_leaves_the_connection(
    reef: Reef, version: int, qos: int, retain: bool
) -> None:
    """For MQTT 5 and 3.1.1: what follows on the same connection arrives."""
    config, _ = reef.fleet.enroll(f"d{version}{qos}{retain:d}", "raspberry-pi-5")
    assert config.mqtt.tls is not None
    own = reef.topics.of_device(config.device, "telemetry")
    controller = Watcher(reef, reef.tls("controller"), own)
    device = Watcher(reef, config.mqtt.tls, version=version)
    for topic in ("homeassistant/x", reef.topics.of_device("other", "status"), "$SYS/x", "a"):
        device.client.publish(topic, b"refused", qos=qos, retain=retain)
    device.client.publish(own, b"after", qos=1)
    assert controller.wait(own, lambda payload: payload) == b"after"
    assert device.lost == 0
    device.close()
    controller.close()


def test_an_agent_that_may_not_be_discovered_goes_on_and_says_so(
    reef: Reef, tmp_path: Path
) -> None:
    """One connection, an answer to a query, and a reason in the reported document."""
    config, _ = reef.fleet.enroll("shy", "raspberry-pi-5")
    topic = reef.topics.of_device("shy", "reported")
    answers = reef.topics.response("shy", "q1")
    controller = Watcher(reef, reef.tls("controller"), topic, answers)
    wanted = msgspec.structs.replace(config, home_assistant=True)
    with running(wanted, tmp_path) as agent:
        waits = controller.wait(topic, lambda payload: reported(payload).waits)
        assert [wait.reason.code for wait in waits] == ["not-allowed"]
        assert "homeassistant/device/shoal-reef-shy/config" in waits[0].reason.message
        assert "home_assistant: true in the fleet's fleet.yaml" in waits[0].reason.message
        assert not waits[0].blocks, "no update waits for it"
        controller.client.publish(reef.topics.request("shy", "status"), b'{"id": "q1"}', qos=1)
        answer = controller.wait(
            answers, lambda payload: codec.decode(payload, Answer, what="answer")
        )
        assert answer.reported.device == "shy"
        assert agent.link.connections == 1
        assert agent.link.refusals.count >= 1
        assert agent.gauges_now()["refused_by_broker"] >= 1
    controller.close()


def test_a_broker_that_ends_the_connection_at_a_refused_topic_loses_that_topic_alone(
    tmp_path: Path,
) -> None:
    """As mosquitto does without a bound on its queues, and as other brokers can be told to."""
    reef = Reef(tmp_path)
    text = reef.configuration.read_text()
    lines = ["max_queued_messages 0" if "max_queued_m" in one else one for one in text.split("\n")]
    reef.configuration.write_text("\n".join(lines))
    with reef.broker:
        config, _ = reef.fleet.enroll("shy", "raspberry-pi-5")
        topic = reef.topics.of_device("shy", "reported")
        controller = Watcher(reef, reef.tls("controller"), topic)
        wanted = msgspec.structs.replace(config, home_assistant=True)
        with running(wanted, tmp_path) as agent:
            waits = controller.wait(topic, lambda payload: reported(payload).waits)
            assert [wait.reason.code for wait in waits] == ["not-allowed"]
            for _ in range(5):  # each would be told to Home Assistant
                agent.reporting.changed()
            agent.link.publish(topic, b"last", done=(done := queue.Queue[object]()).put)
            assert done.get(timeout=PATIENCE_S) == 0
            assert agent.link.connections == 2
        controller.close()


def test_home_assistant_hears_of_devices_where_the_fleet_says_so(tmp_path: Path) -> None:
    """The rule is kept by later enrolments; Home Assistant reads with a certificate of its own."""
    reef = Reef(tmp_path)
    reef.fleet.enroll("early", "raspberry-pi-5", groups=["upstairs"])
    reef.allow_home_assistant()
    config, _ = reef.fleet.enroll("kitchen.lamp", "raspberry-pi-5")
    assert config.home_assistant, "the device is told with its enrolment"
    reef.fleet.enroll("late", "raspberry-pi-5", groups=["upstairs"])
    topic = home_assistant_discovery("reef", "kitchen.lamp")
    status = reef.topics.of_device("kitchen.lamp", "status")
    with reef.broker, running(config, tmp_path) as agent:
        reader = Watcher(reef, reef.tls(READER), "homeassistant/#", status)
        document = reader.wait(topic, msgspec.json.decode)
        assert document["dev"]["name"] == "kitchen.lamp"
        assert document["availability"][0]["topic"] == status
        with pytest.raises(queue.Empty):  # its own request is not delivered to it, nor to others
            reader.client.publish(reef.topics.request("kitchen.lamp", "status"), b'{"id": "x"}')
            reader.client.publish(status, b"forged", qos=1, retain=True)
            for _ in itertools.count():
                _, payload = reader.heard.get(timeout=0.5)
                assert payload != b"forged"
        assert agent.link.connections == 1
        assert agent.link.refusals.waits() == []
        reader.close()


def test_no_device_writes_the_discovery_of_another() -> None:
    """Also where names differ by what Home Assistant's topics cannot hold."""
    names = ["a.b", "a_b", "a-b", "a..b", "a._b"]
    assert len({home_assistant_discovery("f", name) for name in names}) == len(names)
