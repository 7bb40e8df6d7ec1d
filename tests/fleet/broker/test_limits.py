"""What one device can take of a real broker with the generated configuration."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from contracts.config import MqttConfig
from contracts.connection import new_client, tls_context
from contracts.topics import Topics
from fleet.broker import MosquittoBroker, write_configuration
from fleet.broker.mosquitto import DEVICES, EVERYWHERE, Size
from fleet.broker.run import wait_until_connectable
from fleet.identity import Enrolment, Identity
from tests.support.tools import free_port, need_tool

TOPICS = Topics("reef")
PATIENCE_S = 90.0
MIB = 1024 * 1024
SMALL = Size(connections=60, queued_bytes=2 * MIB, memory_bytes=64 * MIB)


class Reef:
    """A broker with a listener for devices and one for controllers."""

    def __init__(self, folder: Path) -> None:
        self.identity = Identity.create(folder / "ca", "reef")
        self.port, self.controllers_port = free_port(), free_port()
        where = Enrolment(MqttConfig(port=self.port), trust_root="{}")
        self.devices = {
            name: self.identity.enroll(name, "raspberry-pi-5", where).mqtt
            for name in ("alice", "mallory")
        }
        self.contexts = {
            name: tls_context(mqtt.tls) for name, mqtt in self.devices.items() if mqtt.tls
        }
        self.controller = MqttConfig(
            port=self.controllers_port, tls=self.identity.own.controller_tls
        )
        with self.identity.own.access() as access:
            self.configuration = write_configuration(
                folder / "broker",
                port=self.port,
                controllers_port=self.controllers_port,
                fleet="reef",
                groups=access.groups,
                credentials=self.identity.own.broker_credentials,
                size=SMALL,
            )
        self.broker = MosquittoBroker(
            self.configuration,
            port=self.port,
            program=need_tool("mosquitto", "/usr/sbin/mosquitto"),
        )

    @property
    def memory(self) -> int:
        """Bytes that the broker has in memory."""
        assert self.broker._process is not None
        text = Path(f"/proc/{self.broker._process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) * 1024

    def raw(self, name: str, client_id: str, *, expiry_s: int = 0) -> ssl.SSLSocket:
        """A connection as few bytes make it; its socket, after the broker's answer."""
        plain = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)
        try:
            secure = self.contexts[name].wrap_socket(plain, server_hostname="127.0.0.1")
        except OSError:
            plain.close()
            raise
        identifier = client_id.encode()
        body = b"\x00\x04MQTT\x05\x00\x02\x58\x05\x11" + expiry_s.to_bytes(4, "big")
        body += len(identifier).to_bytes(2, "big") + identifier
        size, length = len(body), b""
        while True:
            size, digit = divmod(size, 128)
            length += bytes([digit | (128 if size else 0)])
            if not size:
                break
        secure.sendall(b"\x10" + length + body)
        answer = secure.recv(64)
        assert answer[:1] == b"\x20", answer
        assert answer[3] == 0, answer
        return secure


class Client:
    """A client that is run by hand."""

    def __init__(self, config: MqttConfig, client_id: str, **connect: object) -> None:
        self.heard: list[bytes] = []
        self.acknowledged: dict[int, int] = {}
        self.client = new_client(config, client_id)
        self.client.on_message = lambda _c, _u, m: self.heard.append(m.payload)
        self.client.on_publish = lambda _c, _u, mid, code, _p: self.acknowledged.update(
            {mid: code.value}
        )
        self.granted = False
        self.client.on_subscribe = lambda *_: setattr(self, "granted", True)
        self.client.connect(config.host, config.port, **connect)  # type: ignore[arg-type]
        self.until(self.client.is_connected)

    def until(self, condition: Callable[[], object]) -> None:
        """Runs the network until something holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, "timed out"
            assert self.client.loop(0.05) == paho.MQTT_ERR_SUCCESS

    def publish(self, topic: str, payload: bytes) -> int:
        """Publishes; the reason code of the acknowledgement."""
        info = self.client.publish(topic, payload, qos=1)
        self.until(lambda: info.mid in self.acknowledged)
        return self.acknowledged[info.mid]

    def subscribe(self, topic: str) -> None:
        """Subscribes."""
        self.client.subscribe(topic, qos=1)
        self.until(lambda: self.granted)


@pytest.fixture
def reef(tmp_path: Path) -> Iterator[Reef]:
    """A broker of the test's own: what a test does to it is not to be undone."""
    made = Reef(tmp_path)
    with made.broker:
        yield made


def test_one_certificate_holds_one_connection_whatever_client_ids_it_names(reef: Reef) -> None:
    """Each new one ends the one before: no device takes the places of others."""
    with contextlib.ExitStack() as stack:
        held = [
            stack.enter_context(reef.raw("mallory", f"m{number}"))
            for number in range(SMALL.connections + 10)
        ]
        for one in held[:-1]:
            one.settimeout(PATIENCE_S)
            with contextlib.suppress(ConnectionResetError):
                while one.recv(64):
                    pass
        held[-1].sendall(b"\xc0\x00")
        assert held[-1].recv(2) == b"\xd0\x00", "the last one lives"
        Client(reef.devices["alice"], "alice")


def test_one_certificate_holds_one_session(reef: Reef) -> None:
    """However long their names, and for however long the broker shall keep them."""
    before = reef.memory
    for number in range(300):
        reef.raw("mallory", f"{number}-" + "x" * 60000, expiry_s=2**32 - 1).close()
    assert reef.memory - before < 8 * MIB, "18 MB of names were sent"


def test_a_device_cannot_take_a_session_by_its_client_id(reef: Reef) -> None:
    """It does not matter here whether the id can be guessed."""
    alice = Client(reef.devices["alice"], "alice")
    reef.raw("mallory", "alice").close()
    assert alice.publish(TOPICS.of_device("alice", "telemetry"), b"x") < 0x80


def test_who_has_no_certificate_takes_no_place_from_the_controller(reef: Reef) -> None:
    """Connections that say nothing fill the devices' listener, not the controllers'."""
    with contextlib.ExitStack() as stack:
        for _ in range(SMALL.connections + 20):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_connection(("127.0.0.1", reef.port), 5))
        with pytest.raises(OSError):
            reef.raw("alice", "alice")
        for number in range(5):
            Client(reef.controller, f"controller-{number}")
    Client(reef.devices["alice"], "alice")


def test_the_queue_of_a_client_that_is_away_is_bounded(reef: Reef) -> None:
    """And those of the others have room all the same."""
    for name in ("alice", "mallory"):
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 600
        away = Client(reef.controller, f"away-{name}", clean_start=True, properties=properties)
        away.subscribe(TOPICS.of_device(name, "telemetry"))
        away.client.disconnect()
    before = reef.memory
    mallory = Client(reef.devices["mallory"], "m")
    for _ in range(100):
        mallory.publish(TOPICS.of_device("mallory", "telemetry"), b"j" * 200_000)
    assert reef.memory - before < 10 * MIB, "20 MB were sent"
    alice = Client(reef.devices["alice"], "a")
    assert alice.publish(TOPICS.of_device("alice", "telemetry"), b"hello") == 0
    back = Client(reef.controller, "away-alice", clean_start=False)
    back.until(lambda: back.heard == [b"hello"])


def test_a_message_that_is_not_of_the_protocols_size_or_quality_is_refused(reef: Reef) -> None:
    """At QoS 2 the broker would keep it until it is released."""
    mallory = Client(reef.devices["mallory"], "m")
    with pytest.raises(AssertionError):
        mallory.publish(TOPICS.of_device("mallory", "telemetry"), b"x" * 600_000)
    other = Client(reef.devices["mallory"], "m")
    info = other.client.publish(TOPICS.of_device("mallory", "telemetry"), b"x", qos=2)
    with pytest.raises(AssertionError):
        other.until(lambda: info.mid in other.acknowledged)


def test_the_limits_follow_from_how_many_devices_there_are() -> None:
    """A broker for few takes little; one for many lets all of them in, also twice."""
    few, many = Size.of(DEVICES), Size.of(20_000)
    assert few.connections >= 2 * DEVICES
    assert many.connections >= 2 * 20_000
    assert many.files > many.connections
    assert few.memory_bytes < 600 * MIB
    assert many.queued_bytes <= 512 * MIB


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", EVERYWHERE])
def test_a_broker_listens_where_it_is_told(tmp_path: Path, host: str) -> None:
    """On IPv6 too; everywhere is both."""
    identity, port = Identity.create(tmp_path / "ca", "reef"), free_port()
    configuration = write_configuration(
        tmp_path / "broker",
        port=port,
        host=host,
        fleet="reef",
        credentials=identity.own.broker_credentials,
    )
    program = need_tool("mosquitto", "/usr/sbin/mosquitto")
    wanted = ["127.0.0.1", "::1"] if host == EVERYWHERE else [host]
    with MosquittoBroker(configuration, port=port, host=wanted[0], program=program):
        for address in ("127.0.0.1", "::1"):
            reached = True
            try:
                socket.create_connection((address, port), 5).close()
            except OSError:
                reached = False
            assert reached == (address in wanted)


def test_mosquitto_takes_every_line_without_a_warning(reef: Reef, tmp_path: Path) -> None:
    """An option of another version, or in the wrong place, is told at the start."""
    program = need_tool("mosquitto", "/usr/sbin/mosquitto")
    reef.broker.stop()
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen([program, "-c", str(reef.configuration)], stderr=stream)
        try:
            wait_until_connectable(reef.controller)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
    lines = [one for one in log.read_text().splitlines() if "as root" not in one]
    assert lines == []
