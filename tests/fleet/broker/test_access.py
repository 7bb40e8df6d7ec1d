"""Access control of a real mosquitto with mutual TLS and the generated configuration."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import paho.mqtt.client as paho
import pytest

from contracts.config import AgentConfig, MqttConfig
from contracts.connection import new_client
from contracts.topics import DeviceKind, Topics
from fleet.broker import MosquittoBroker, write_configuration
from fleet.identity import Enrolment, Identity
from tests.support.tools import free_port, need_tool

FLEET = "reef"
TOPICS = Topics(FLEET)
WAIT_S = 90.0


class Client:
    """An MQTT 5 client that remembers what it was told."""

    def __init__(
        self, config: MqttConfig, client_id: str, *, will: tuple[str, bytes] | None = None
    ) -> None:
        self.client = new_client(config, client_id)
        self.received: list[tuple[str, bytes]] = []
        self.granted: dict[int, list[int]] = {}
        self.acknowledged: dict[int, int] = {}
        self.refusal = ""
        self.client.on_message = lambda _c, _u, m: self.received.append((m.topic, m.payload))
        self.client.on_subscribe = lambda _c, _u, mid, codes, _p: self.granted.update(
            {mid: [code.value for code in codes]}
        )
        self.client.on_publish = lambda _c, _u, mid, code, _p: self.acknowledged.update(
            {mid: code.value}
        )
        if will:
            self.client.will_set(*will, qos=1, retain=True)
        self.client.connect(config.host, config.port, keepalive=30)
        self.until(self.client.is_connected)

    def until(self, condition: object) -> None:
        """Runs the network until a condition holds."""
        deadline = time.monotonic() + WAIT_S
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < deadline, "timed out"
            code = self.client.loop(0.05)
            assert code == paho.MQTT_ERR_SUCCESS, code

    def subscribe(self, topic: str) -> None:
        """Subscribes and waits for the broker's answer."""
        _, mid = self.client.subscribe(topic, qos=1)
        assert mid is not None
        self.until(lambda: mid in self.granted)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Publishes and returns the broker's reason code (0: accepted, 0x87: not allowed)."""
        info = self.client.publish(topic, payload, qos=1, retain=retain)
        self.until(lambda: info.mid in self.acknowledged)
        return self.acknowledged[info.mid]

    def close(self) -> None:
        """Disconnects in order: no will."""
        self.client.disconnect()

    def cut(self) -> None:
        """Drops the connection so that the broker publishes the will."""
        sock = self.client.socket()
        assert sock is not None
        sock.close()


class Fleet:
    """A broker with mutual TLS, its authority, and enrolled devices."""

    def __init__(self, folder: Path) -> None:
        self.identity = Identity.create(folder / "identity", FLEET)
        self.port = free_port()
        self.folder = folder / "broker"
        self.where = Enrolment(MqttConfig(port=self.port), trust_root="{}")
        self.agents: dict[str, AgentConfig] = {}
        for name, groups in {"a": ["kitchen"], "b": ["attic"], "c": []}.items():
            self.agents[name] = self.identity.enroll(
                name, "raspberry-pi-5", self.where, groups=groups
            )
        self.controller = MqttConfig(port=self.port, tls=self.identity.own.controller_tls)
        self.write()
        self.broker = MosquittoBroker(
            self.folder / "mosquitto.conf",
            port=self.port,
            program=need_tool("mosquitto", "/usr/sbin/mosquitto"),
        )

    def write(self) -> None:
        """Writes the broker's files for who is enrolled now."""
        with self.identity.own.access() as access:
            write_configuration(
                self.folder,
                port=self.port,
                fleet=FLEET,
                groups=access.groups,
                revoked=access.denied,
                credentials=self.identity.own.broker_credentials,
                persistence=False,
            )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A broker that all tests here share."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    with fleet.broker:
        yield fleet


def every_topic(device: str) -> dict[str, str]:
    """One topic of every kind below a device."""
    return {
        **{kind: TOPICS.of_device(device, kind) for kind in get_args(DeviceKind)},
        "request": TOPICS.request(device, "classify"),
        "response": TOPICS.response(device, "id1"),
        "blob-get": TOPICS.blob_get(device),
        "blob": TOPICS.blob(device, "id2"),
    }


WRITABLE = {"status", "reported", "update", "telemetry", "result", "response", "blob-get"}
READABLE = {"status", "desired", "ack", "request", "blob", "blob-get"}
"""``blob/+`` also matches the device's own ``blob/get``, which it wrote itself."""


@pytest.mark.parametrize("kind", sorted(every_topic("a")))
@pytest.mark.parametrize("retain", [False, True])
def test_a_device_writes_exactly_its_own_topics(fleet: Fleet, kind: str, retain: bool) -> None:
    """Accepted below its own name for its kinds; refused for the others' and another device's."""
    device, controller = Client(fleet.agents["a"].mqtt, "a"), Client(fleet.controller, "ctl")
    controller.subscribe(f"{TOPICS.prefix}/#")
    payload = f"{kind}-{retain}-{time.monotonic_ns()}".encode()
    allowed = device.publish(every_topic("a")[kind], payload, retain=retain) == 0
    # Anew: mosquitto may close the connection of a client that wrote what it must not.
    device.close()
    device = Client(fleet.agents["a"].mqtt, "a")
    foreign = device.publish(every_topic("b")[kind], payload, retain=retain) == 0
    # A fence: what was delivered before it is all that will be.
    controller.publish(every_topic("c")["desired"], payload)
    controller.until(lambda: (every_topic("c")["desired"], payload) in controller.received)
    seen = {topic for topic, data in controller.received if data == payload}
    assert (every_topic("a")[kind] in seen) == (kind in WRITABLE) == allowed
    assert every_topic("b")[kind] not in seen
    assert not foreign
    device.close()
    controller.close()


@pytest.mark.parametrize("kind", sorted(every_topic("a")))
def test_a_device_reads_exactly_its_own_topics(fleet: Fleet, kind: str) -> None:
    """Named one by one and by its own filter: only status, desired, requests and blocks arrive."""
    device, controller = Client(fleet.agents["a"].mqtt, "a"), Client(fleet.controller, "ctl")
    for topic in [*every_topic("a").values(), *every_topic("b").values()]:
        device.subscribe(topic)
    payload = f"{kind}-{time.monotonic_ns()}".encode()
    assert controller.publish(every_topic("a")[kind], payload) in (0, 0x10)
    assert controller.publish(every_topic("b")[kind], payload) in (0, 0x10)
    controller.publish(every_topic("a")["desired"], b"fence" + payload)
    device.until(lambda: (every_topic("a")["desired"], b"fence" + payload) in device.received)
    seen = {topic for topic, data in device.received if data == payload}
    assert seen == ({every_topic("a")[kind]} if kind in READABLE else set())
    device.close()
    controller.close()


@pytest.mark.parametrize(
    "wildcard", ["#", f"{TOPICS.prefix}/#", f"{TOPICS.prefix}/d/+/+", "+/+/+/d/+/req/+", "$SYS/#"]
)
def test_wildcards_deliver_nothing_of_others(fleet: Fleet, wildcard: str) -> None:
    """A device may ask for everything; it gets what is its own."""
    device, controller = Client(fleet.agents["a"].mqtt, "a"), Client(fleet.controller, "ctl")
    other = Client(fleet.agents["b"].mqtt, "b")
    device.subscribe(wildcard)
    device.subscribe(TOPICS.of_device("a", "desired"))
    mine, payload = TOPICS.of_device("a", "desired"), f"{time.monotonic_ns()}".encode()
    for topic in every_topic("b").values():
        controller.publish(topic, payload)
    for kind in WRITABLE:
        assert other.publish(every_topic("b")[kind], payload, retain=True) in (0, 0x10)
    controller.publish(TOPICS.group_request("attic", "classify"), payload)
    controller.publish(mine, payload)
    device.until(lambda: (mine, payload) in device.received)
    # Retained messages of the device's own topics from other tests are its own too.
    assert {topic for topic, data in device.received if data == payload} == {mine}
    assert all(topic.startswith(f"{TOPICS.prefix}/d/a/") for topic, _ in device.received)
    for client in (device, controller, other):
        client.close()


def test_a_shared_subscription_opens_nothing(fleet: Fleet) -> None:
    """``$share`` to another device's topics or to the controller's delivers nothing."""
    device, controller = Client(fleet.agents["a"].mqtt, "a"), Client(fleet.controller, "ctl")
    device.subscribe(f"$share/thief/{TOPICS.prefix}/d/+/telemetry")
    device.subscribe(f"$share/thief/{TOPICS.prefix}/#")
    device.subscribe(TOPICS.of_device("a", "desired"))
    mine, payload = TOPICS.of_device("a", "desired"), f"{time.monotonic_ns()}".encode()
    controller.publish(TOPICS.of_device("b", "telemetry"), payload)
    controller.publish(mine, payload)
    device.until(lambda: (mine, payload) in device.received)
    assert TOPICS.of_device("b", "telemetry") not in {topic for topic, _ in device.received}
    device.close()
    controller.close()


def test_a_device_reads_the_requests_of_its_own_groups_alone(fleet: Fleet) -> None:
    """And can write none."""
    device, controller = Client(fleet.agents["a"].mqtt, "a"), Client(fleet.controller, "ctl")
    for group in ("kitchen", "attic"):
        device.subscribe(TOPICS.group_requests(group))
    mine = TOPICS.group_request("kitchen", "classify")
    theirs = TOPICS.group_request("attic", "classify")
    controller.publish(theirs, b"t")
    controller.publish(mine, b"m")
    device.until(lambda: (mine, b"m") in device.received)
    assert theirs not in {topic for topic, _ in device.received}
    assert device.publish(mine, b"x") == 0x87
    device.close()
    controller.close()


def test_a_will_on_another_devices_topic_is_never_published(fleet: Fleet) -> None:
    """A will is held to the same rules, its own status included."""
    controller = Client(fleet.controller, "ctl")
    controller.subscribe(f"{TOPICS.prefix}/#")
    for topic, arrives in [
        (TOPICS.of_device("b", "status"), False),
        (TOPICS.of_device("a", "status"), True),
    ]:
        payload = f"will-{time.monotonic_ns()}".encode()
        try:
            device = Client(fleet.agents["a"].mqtt, "a", will=(topic, payload))
        except AssertionError:
            assert not arrives, "a broker may refuse such a connection outright"
            continue
        device.cut()
        # The same device again: the broker has finished with the connection before.
        again = Client(fleet.agents["a"].mqtt, "a")
        again.publish(TOPICS.of_device("a", "update"), payload + b"fence")
        fence = (TOPICS.of_device("a", "update"), payload + b"fence")
        controller.until(
            lambda fence=fence, payload=payload, topic=topic, arrives=arrives: (
                fence in controller.received
                and (not arrives or (topic, payload) in controller.received)
            )
        )
        assert ((topic, payload) in controller.received) == arrives
        again.close()
    controller.close()


def connects(config: MqttConfig) -> bool:
    """Whether a client gets in. TLS 1.3 tells a client of a refusal after its first read."""
    try:
        client = Client(config, "probe")
    except (OSError, AssertionError):
        return False
    client.close()
    return True


def test_nobody_connects_without_a_certificate(fleet: Fleet) -> None:
    """Not over TLS, and not in the clear."""
    tls = fleet.agents["a"].mqtt.tls
    assert tls is not None
    bare = msgspec.structs.replace(
        fleet.agents["a"].mqtt, tls=msgspec.structs.replace(tls, certificate=None, key=None)
    )
    assert connects(fleet.agents["a"].mqtt)
    assert not connects(bare)
    assert not connects(msgspec.structs.replace(bare, tls=None))
    named = msgspec.structs.replace(bare, username="a", password="a")
    assert not connects(named)


def test_a_certificate_of_another_authority_does_not_connect(fleet: Fleet, tmp_path: Path) -> None:
    """The same fleet's name and the same device's name do not help."""
    stranger = Identity.create(tmp_path / "other", FLEET).enroll("a", "b", fleet.where).mqtt.tls
    mine = fleet.agents["a"].mqtt.tls
    assert stranger is not None and mine is not None
    forged = msgspec.structs.replace(stranger, ca=mine.ca)
    assert not connects(msgspec.structs.replace(fleet.agents["a"].mqtt, tls=forged))


def test_the_brokers_certificate_is_not_a_clients(fleet: Fleet) -> None:
    """Its purpose is to serve."""
    folder = fleet.identity.folder
    tls = msgspec.structs.replace(
        fleet.identity.own.controller_tls,
        certificate=str(folder / "broker.pem"),
        key=str(folder / "broker.key.pem"),
    )
    assert not connects(msgspec.structs.replace(fleet.controller, tls=tls))


def test_a_device_cannot_pose_as_the_broker(fleet: Fleet) -> None:
    """Another device refuses a server that shows a device's certificate."""
    tls = fleet.agents["a"].mqtt.tls
    assert tls is not None and tls.certificate and tls.key
    from contracts.connection import tls_context

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    folder = fleet.folder
    (folder / "a.pem").write_text(tls.certificate + tls.key)
    server.load_cert_chain(folder / "a.pem")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls_context(fleet.agents["b"].mqtt.tls or tls).wrap_bio(
        incoming, outgoing, server_hostname="localhost"
    )
    other_in, other_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    other = server.wrap_bio(other_in, other_out, server_side=True)
    with pytest.raises(ssl.SSLCertVerificationError):
        for _ in range(4):
            for side in (client, other):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
                other_in.write(outgoing.read())
                incoming.write(other_out.read())


def test_a_revoked_device_is_cut_off_at_once_and_cannot_come_back(tmp_path: Path) -> None:
    """An open connection loses everything on reload; after a restart it cannot connect."""
    fleet = Fleet(tmp_path)
    with fleet.broker as broker:
        device, controller = Client(fleet.agents["a"].mqtt, "a"), Client(fleet.controller, "ctl")
        controller.subscribe(f"{TOPICS.prefix}/#")
        assert device.publish(TOPICS.of_device("a", "update"), b"1") == 0
        assert fleet.identity.revoke("a") == 1
        fleet.write()
        broker.reload()
        deadline = time.monotonic() + WAIT_S
        while device.publish(TOPICS.of_device("a", "update"), b"2") != 0x87:
            assert time.monotonic() < deadline
        assert connects(fleet.agents["b"].mqtt)
        broker.kill()
        broker.start()
        assert not connects(fleet.agents["a"].mqtt)
        assert connects(fleet.agents["b"].mqtt)
        assert connects(fleet.controller)
