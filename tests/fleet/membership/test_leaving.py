"""Devices that leave: on a real mosquitto with mutual TLS, with a real agent's connection.

Over 400 lines: all tests share one broker with its certificates.
"""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from agent import connection as connections
from agent import link
from agent.certificates.device import new_request
from agent.connection import Inbound
from agent.link import Link
from agent.system.clock import SystemClock
from contracts import codec
from contracts.config import AgentConfig, MqttConfig
from contracts.desired import Desired
from contracts.errors import InputError, RefusedError, ShoalError, UnavailableError
from contracts.messages import Leave, Status, Telemetry
from contracts.renewal import signed_bytes
from contracts.requests import BlobGet
from contracts.topics import LEAVE, Topics, parse
from fleet.broker import MosquittoBroker
from fleet.controller import Controller
from fleet.folder import BrokerConfig, Fleet, FleetConfig
from fleet.joining import invitations
from fleet.joining.invitations import Wanted
from fleet.membership import farewell, leaving, replacing
from fleet.membership.farewell import Visit
from fleet.store import audit, departures, desired, devices
from fleet.store.entries import Actor
from fleet.store.schema import DEVICE, METADATA, TELEMETRY
from tests.fleet.broker.test_access import Client
from tests.support.proxy import Proxy
from tests.support.tools import free_port, need_tool

if TYPE_CHECKING:
    from typing_extensions import Self

WAIT_S = 90.0
TOPICS = Topics("reef")
ME = Actor("me", "admin")


def until(condition: Callable[[], object], what: str) -> None:
    """Waits for what other threads and processes bring about."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Device:
    """A device's connection as the agent makes it."""

    def __init__(self, config: AgentConfig, folder: Path) -> None:
        self.config = config
        self.got: list[Inbound] = []
        self.name = config.device
        self.link = Link(
            config.mqtt,
            fleet=config.fleet,
            device=config.device,
            groups=config.groups,
            folder=folder,
            boot="b1",
            next_session=iter(range(1, 1000)).__next__,
            clock=SystemClock(),
            on_message=self._take,
            on_change=lambda connected: None,
        )

    def _take(self, inbound: Inbound) -> None:
        address = parse(inbound.topic)
        if address.kind == "request" and address.name == LEAVE:
            self.link.leave(codec.decode(inbound.payload, Leave, what="a farewell"))
        self.got.append(inbound)
        inbound.ack()

    def send(self, kind: Any, payload: bytes) -> None:
        """Publishes below its own name."""
        self.link.publish(TOPICS.of_device(self.name, kind), payload)


class Reef:
    """A fleet, its broker, its controller, and devices."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.port = free_port()
        config = FleetConfig("reef", mqtt=MqttConfig(port=self.port), mutual_tls=True, **options)
        self.fleet = Fleet.init(folder / "fleet", config)
        self.folder = folder
        self.broker = MosquittoBroker(
            self.fleet.folder / "broker/mosquitto.conf",
            port=self.port,
            program=need_tool("mosquitto", "/usr/sbin/mosquitto"),
        )
        self.controller: Controller | None = None
        self._stack = contextlib.ExitStack()

    @property
    def store(self) -> Any:
        """The controller's database."""
        assert self.controller is not None
        return self.controller.store

    def device(self, name: str, **options: Any) -> Device:
        """An enrolled device, connected."""
        config, _ = self.fleet.enroll(name, "raspberry-pi-5", **options)
        return self.connect(config)

    def connect(self, config: AgentConfig) -> Device:
        """A device with this configuration."""
        device = Device(config, self.folder)
        device.link.start()
        self._stack.callback(device.link.stop)
        until(device.link.connected.is_set, "not connected")
        return device

    def state(self, name: str) -> str:
        """What the controller thinks of a device."""
        with self.store.read() as connection:
            return devices.get(connection, name).state

    def __enter__(self) -> Self:
        self._stack.enter_context(self.broker)
        self.controller = Controller(self.fleet)
        self.controller.start()
        self._stack.callback(self.controller.stop)
        controller = self.controller
        until(lambda: controller.ingesting and all(controller.ready.values()), "not ready")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that was told to leave tries again at once, and not in a quarter of an hour."""
    monkeypatch.setattr(connections, "DISMISSED_S", 0.2)
    monkeypatch.setattr(link, "GOODBYE_S", 30.0)


@pytest.fixture
def reef(tmp_path: Path) -> Iterator[Reef]:
    """One for each test."""
    with Reef(tmp_path) as reef:
        yield reef


def retained(reef: Reef, name: str) -> set[str]:
    """The topics below a device's name that the broker retains documents on."""
    client = Client(reef.fleet.controller_mqtt(), f"look-{time.monotonic_ns()}")
    client.subscribe(f"{TOPICS.prefix}/d/{name}/#")
    client.subscribe(f"{TOPICS.prefix}/d/fence/desired")
    client.publish(f"{TOPICS.prefix}/d/fence/desired", b"fence")
    client.until(lambda: any(payload == b"fence" for _, payload in client.received))
    client.close()
    return {topic.rsplit("/", 1)[-1] for topic, payload in client.received if payload != b"fence"}


def test_a_revoked_device_is_told_and_out_at_once(reef: Reef) -> None:
    """Its open connection ends, the next is refused by name, and it says so; others stay."""
    device, other = reef.device("d1"), reef.device("d2")
    before = other.link.connections
    with capture_logs() as logs:
        found = leaving.revoke(reef.fleet, "d1", ME)
        assert (found.certificates, found.told, found.applied, found.ended) == (1, True, True, True)
        assert found.todo == ""
        until(lambda: not device.link.connected.is_set(), "still connected")
        until(lambda: "it was revoked" in device.link.last_error, device.link.last_error)
    assert "the controller says that this device was revoked" in device.link.last_error
    events = [log["event"] for log in logs]
    assert events.count("dismissed by the controller") == 1
    reasons = [log["reason"] for log in logs if log["event"] == "no connection"]
    assert len(reasons) == 1 and "it was revoked" in reasons[0], "said once"
    assert (other.link.connected.is_set(), other.link.connections) == (True, before)


def test_a_revoked_device_is_refused_everywhere_before_the_broker_knows(tmp_path: Path) -> None:
    """The broker cannot be signalled: the command is said, and nothing of the device is taken."""
    with Reef(tmp_path, broker=BrokerConfig(plugin="")) as reef:
        device = reef.device("d1")
        (reef.fleet.folder / "broker/mosquitto.pid").unlink()
        until(lambda: reef.state("d1") == "online", "not heard")
        found = leaving.revoke(reef.fleet, "d1", ME)
        assert (found.told, found.applied, found.ended) == (True, False, False)
        assert "pkill -HUP mosquitto" in found.todo and "systemd" in found.todo
        assert device.link.connected.is_set(), "the broker does not know yet"
        controller = reef.controller
        assert controller is not None
        unknown, refused = controller.consumer.counters.unknown, controller.blocks.refused
        device.send("telemetry", codec.encode(Telemetry("b1", 1, [])))
        device.link.publish(
            TOPICS.blob_get("d1"), codec.encode(BlobGet("r1", "metadata/1.root.json", 0, 100))
        )
        until(lambda: controller.consumer.counters.unknown > unknown, "telemetry not counted")
        until(lambda: controller.blocks.refused > refused, "blocks not refused")
        assert not [one for one in device.got if one.topic.endswith("/blob/r1")]
        with reef.store.read() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(TELEMETRY)) == 0
        tls = device.config.mqtt.tls
        assert tls is not None and tls.certificate is not None and tls.key is not None
        with pytest.raises(RefusedError):
            reef.fleet.open_identity().renew(*renewal(tls.certificate, tls.key, "d1"))
        controller.watch.look()
        assert "pkill -HUP mosquitto" in controller.watch.todo, "shown until it is done"
        reef.broker.reload()
        until(lambda: controller.watch.look() and not controller.watch.todo, "not noticed")
        unknown = controller.consumer.counters.unknown
        device.send("telemetry", codec.encode(Telemetry("b1", 2, [])))
        until(lambda: device.link.refusals.count, "its open connection is not denied")
        assert controller.consumer.counters.unknown == unknown


def test_a_device_that_was_told_to_leave_hangs_up_where_the_broker_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the plugin: its next connection is refused, and it knows why."""
    monkeypatch.setattr(link, "GOODBYE_S", 1.0)
    with Reef(tmp_path, broker=BrokerConfig(plugin="")) as reef:
        device = reef.device("d1")
        found = leaving.revoke(reef.fleet, "d1", ME)
        assert (found.told, found.applied, found.ended) == (True, True, False)
        until(lambda: "it was revoked" in device.link.last_error, device.link.last_error)


def renewal(certificate: str, key: str, device: str) -> tuple[bytes, bytes, str]:
    """What a device sends to renew its certificate."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from agent.certificates.device import new_request

    request = new_request(device)[1].encode()
    private = load_pem_private_key(key.encode(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    proof = private.sign(signed_bytes(request), ec.ECDSA(hashes.SHA256()))
    return certificate.encode(), request, base64.b64encode(proof).decode()


def test_a_controller_ends_what_another_process_could_not(tmp_path: Path) -> None:
    """The command ran while the broker could not be signalled; then somebody reloads it."""
    with Reef(tmp_path) as reef:
        device = reef.device("d1")
        (reef.fleet.folder / "broker/mosquitto.pid").unlink()
        assert not leaving.revoke(reef.fleet, "d1", ME).applied
        assert device.link.connected.is_set()
        reef.broker.reload()
        until(lambda: not device.link.connected.is_set(), "its session was not ended")
        until(lambda: "it was revoked" in device.link.last_error, device.link.last_error)


def test_a_retired_device_leaves_its_history_and_a_free_name(reef: Reef) -> None:
    """Nothing of it is retained; who is enrolled under the name is another device."""
    device = reef.device("d1", labels={"site": "graz"})
    reef.device("d2")
    device.send("telemetry", codec.encode(Telemetry("b1", 1, [])))
    with reef.store.write() as connection:
        one = devices.get(connection, "d1")
        document = Desired(7, {}, at=time.time())
        desired.write(reef.store, connection, [(one.id, document, None)])
    assert reef.controller is not None
    reef.controller.outbox.wake()

    def stored() -> int:
        with reef.store.read() as connection:
            query = sa.select(sa.func.count()).where(TELEMETRY.c.device == "d1")
            return int(connection.scalar(query) or 0)

    until(lambda: stored() == 1 and retained(reef, "d1") == {"status", "desired"}, "not there")
    found = leaving.retire(reef.fleet, "d1", ME)
    assert (found.told, found.applied, found.ended, found.cleared) == (True,) * 4
    assert retained(reef, "d1") == set()
    assert retained(reef, "d2") == {"status"}
    with reef.store.read() as connection:
        with pytest.raises(InputError):
            devices.get(connection, "d1")
        departures.check_known(connection, found.history)
        (gone,), _ = departures.page(connection, "", 10)
        count = sa.select(sa.func.count()).where(TELEMETRY.c.device == found.history)
        assert connection.scalar(count) == 1
    assert (gone.device, gone.why, gone.by, gone.cleared) == ("d1", "retired", "me", True)
    assert gone.facts["labels"] == {"site": "graz"}

    again = reef.device("d1")
    until(lambda: reef.state("d1") == "online", "the new one is not heard")
    with reef.store.read() as connection:
        new = devices.get(connection, "d1")
    assert (new.labels, new.desired_revision, new.reported) == ({}, 0, None)
    assert again.link.connected.is_set()
    acl = (reef.fleet.folder / "broker/acl").read_text()
    assert "user d1" not in acl


def test_a_name_is_not_given_away_before_the_broker_has_forgotten_its_device(reef: Reef) -> None:
    """The broker was away: another device would get the desired state of the one before."""
    reef.device("d1").link.stop()
    assert retained(reef, "d1") == {"status"}
    reef.broker.kill()
    found = leaving.retire(reef.fleet, "d1", ME)
    assert (found.told, found.cleared, found.todo) == (False, False, "")
    with pytest.raises(UnavailableError) as caught:
        reef.fleet.enroll("d1", "raspberry-pi-5")
    assert caught.value.code == "name-not-free"
    reef.broker.start()

    def free() -> bool:
        with reef.store.read() as connection:
            return not departures.uncleared(connection, "d1")

    until(free, "the controller did not clear it")
    assert retained(reef, "d1") == set()
    reef.device("d1")


def test_a_renamed_device_goes_on_under_its_new_name(reef: Reef) -> None:
    """Its history and its desired state go with it; the old certificate is worth nothing."""
    device = reef.device("d1", labels={"site": "graz"}, groups=["kitchen"])
    device.send("telemetry", codec.encode(Telemetry("b1", 1, [])))
    with reef.store.write() as connection:
        document = Desired(7, {}, at=time.time())
        desired.write(reef.store, connection, [("d1", document, None)])
    until(lambda: reef.state("d1") == "online", "not heard")

    def stored(name: str) -> int:
        with reef.store.read() as connection:
            query = sa.select(sa.func.count()).where(TELEMETRY.c.device == name)
            return int(connection.scalar(query) or 0)

    until(lambda: stored("d1") == 1, "not stored")
    renamed_to = leaving.rename(reef.fleet, "d1", "kitchen", ME)
    found, path = renamed_to.departure, Path(renamed_to.path)
    config = codec.convert_yaml(path.read_bytes(), AgentConfig, what="agent.yaml")
    assert (found.applied, found.ended, found.cleared) == (True, True, True)
    assert (config.device, config.labels, config.groups) == (
        "kitchen", {"site": "graz"}, ["kitchen"],
    )  # fmt: skip
    assert path.parent.name == "kitchen"
    until(lambda: "was renamed" in device.link.last_error, device.link.last_error)
    assert retained(reef, "d1") == set()
    assert (stored("d1"), stored("kitchen")) == (0, 1)
    renamed = reef.connect(config)
    until(lambda: reef.state("kitchen") == "online", "not heard under its name")
    assert reef.controller is not None
    reef.controller.outbox.wake()
    until(
        lambda: [one for one in renamed.got if one.topic.endswith("kitchen/desired")],
        "what is desired of it did not come",
    )
    with reef.store.read() as connection:
        with pytest.raises(InputError):
            devices.get(connection, "d1")
        assert devices.get(connection, "kitchen").desired_revision == 7


def rename(reef: Reef) -> object:
    """The device d1 gets another name."""
    return leaving.rename(reef.fleet, "d1", "kitchen", ME)


def retire(reef: Reef) -> object:
    """The device d1 leaves for good."""
    return leaving.retire(reef.fleet, "d1", ME)


def revoke(reef: Reef) -> object:
    """The device d1 is out."""
    return leaving.revoke(reef.fleet, "d1", ME)


def replace(reef: Reef) -> object:
    """Another board is d1 from now on."""
    return replacing.admit(reef.fleet, "d1", "raspberry-pi-5", replace=True)


LEAVE_BY = [(rename, "renamed"), (retire, "retired"), (revoke, "revoked"), (replace, "replaced")]


@pytest.mark.parametrize(("leave", "reason"), LEAVE_BY)
def test_a_device_behind_a_slow_link_has_read_why_before_its_connection_ends(
    reef: Reef,
    monkeypatch: pytest.MonkeyPatch,
    leave: Callable[[Reef], object],
    reason: str,
) -> None:
    """What is on the way when a connection ends is lost: the network breaks it off there."""
    monkeypatch.setattr(farewell, "READ_S", WAIT_S)
    config, _ = reef.fleet.enroll("d1", "raspberry-pi-5")
    with Proxy(reef.port) as network:
        mqtt = msgspec.structs.replace(config.mqtt, port=network.port)
        device = reef.connect(msgspec.structs.replace(config, mqtt=mqtt))
        until(lambda: reef.state("d1") == "online", "not heard")
        order: list[str] = []
        sent, read, end = Visit._sent, getattr(Visit, "_read", None), Visit.end

        def say(visit: Visit, messages: Any, **options: Any) -> bool:
            network.silent = network.silent or "said" not in order
            order.append("said")
            return sent(visit, messages, **options)

        def wait(visit: Visit, name: str) -> bool:
            order.append("waits")
            network.silent = False
            assert read is not None
            found = read(visit, name)
            order.append("was read" if device.link.farewell else "was not read")
            return bool(found)

        def cut(visit: Visit, names: Any) -> bool:
            order.append("ended")
            found = end(visit, names)
            network.cut()
            network.silent = False
            return found

        monkeypatch.setattr(Visit, "_sent", say)
        monkeypatch.setattr(Visit, "_read", wait, raising=False)
        monkeypatch.setattr(Visit, "end", cut)
        leave(reef)
        assert order[:4] == ["said", "waits", "was read", "ended"]
        said = f"the controller says that this device was {reason}"
        until(lambda: "it was revoked" in device.link.last_error, device.link.last_error)
        assert device.link.last_error.startswith(said)


def test_a_device_that_reads_nothing_is_out_after_a_while(
    reef: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its link is dead, or it does not mean to go: that keeps nobody in the fleet."""
    monkeypatch.setattr(farewell, "READ_S", 0.1)
    config, _ = reef.fleet.enroll("d1", "raspberry-pi-5")
    with Proxy(reef.port) as network:
        mqtt = msgspec.structs.replace(config.mqtt, port=network.port)
        device = reef.connect(msgspec.structs.replace(config, mqtt=mqtt))
        until(lambda: reef.state("d1") == "online", "not heard")
        network.silent = True
        found = leaving.revoke(reef.fleet, "d1", ME)
        assert (found.told, found.applied, found.ended) == (True, True, True)
        network.cut()
        network.silent = False
        until(lambda: "it was revoked" in device.link.last_error, device.link.last_error)


def test_nobody_waits_for_a_device_that_is_not_connected(
    reef: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was never there, or it has gone."""
    monkeypatch.setattr(farewell, "READ_S", 1e6)
    reef.fleet.enroll("d1", "raspberry-pi-5")
    gone = reef.device("d2")
    until(lambda: reef.state("d2") == "online", "not heard")
    gone.link.stop()
    until(lambda: reef.state("d2") == "offline", "not heard")
    assert leaving.revoke(reef.fleet, "d1", ME).told, "nobody knows that it is away"
    assert not leaving.revoke(reef.fleet, "d2", ME).told


@pytest.mark.parametrize("leave", [leave for leave, _ in LEAVE_BY])
def test_the_last_word_does_not_wait_for_who_has_the_name_next(
    reef: Reef, leave: Callable[[Reef], object]
) -> None:
    """The broker would keep it in the session of a device that is away, for its successor.

    That may connect in the moment in which it has its certificate.
    """
    gone = reef.device("d1")
    until(lambda: reef.state("d1") == "online", "not heard")
    gone.link.stop()
    until(lambda: reef.state("d1") == "offline", "not heard")
    said: list[bytes] = []
    watcher = Client(reef.fleet.controller_mqtt(), "watches-farewells")
    watcher.client.on_message = lambda _c, _u, message: said.append(message.payload)
    watcher.subscribe(TOPICS.request("d1", LEAVE))
    leave(reef)
    watcher.client.publish(TOPICS.request("d1", LEAVE), b"end", qos=1)
    watcher.until(lambda: said)
    watcher.close()
    assert said == [b"end"]


def test_a_board_that_was_replaced_is_out_and_the_new_one_is_in(reef: Reef) -> None:
    """Its certificate was valid at the broker for as long as that read no newer list."""
    old = reef.device("d1", labels={"site": "graz"})
    until(lambda: reef.state("d1") == "online", "not heard")
    wanted = [Wanted("d1", "raspberry-pi-5")]
    (token,) = invitations.invite(reef.fleet, wanted, seconds=3600, replace=True)
    key, request = new_request("d1")
    assert old.link.connected.is_set(), "until the new one is there, the old one goes on"
    config = replacing.admit_by_token(reef.fleet, token, request.encode())
    assert not old.link.connected.is_set() or "was replaced" in old.link.farewell
    until(lambda: "it was revoked" in old.link.last_error, old.link.last_error)
    assert "this device was replaced" in old.link.last_error
    assert config.mqtt.tls is not None
    tls = msgspec.structs.replace(config.mqtt.tls, key=key)
    mqtt = msgspec.structs.replace(config.mqtt, tls=tls)
    new = reef.connect(msgspec.structs.replace(config, mqtt=mqtt))
    until(lambda: reef.state("d1") == "online", "the new one is not heard")
    assert (new.link.farewell, new.config.labels) == ("", {"site": "graz"})
    assert not old.link.connected.is_set()


def test_a_renaming_that_fails_leaves_the_device_as_it_was(
    reef: Reef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new name is taken, the disk is full, or the database is."""
    from fleet import durable
    from tests.fleet.identity.test_folder_changes import full, locked

    device = reef.device("d1")
    reef.device("d2")
    for patched, what in (
        (None, "d2"),
        ((durable.Staged, "write", full), "d3"),
        ((departures, "rename", locked), "d3"),
    ):
        with monkeypatch.context() as patch, pytest.raises((ShoalError, OSError)):
            if patched is not None:
                patch.setattr(*patched)
            leaving.rename(reef.fleet, "d1", what, ME)
    assert device.link.connected.is_set()
    (certificate,) = reef.fleet.open_identity().certificates("d1")
    assert certificate.revoked is None
    assert not (reef.fleet.folder / "devices/d3/agent.yaml").exists()
    with pytest.raises(InputError):
        leaving.rename(reef.fleet, "nobody", "d4", ME)


def test_every_departure_is_in_the_audit_log(reef: Reef) -> None:
    """With who did it; one that was refused left no entry of a change."""
    for name in ("d1", "d2", "d3"):
        reef.fleet.enroll(name, "raspberry-pi-5")
    leaving.revoke(reef.fleet, "d1", ME)
    leaving.retire(reef.fleet, "d2", ME)
    leaving.rename(reef.fleet, "d3", "d4", ME)
    with pytest.raises(InputError):
        leaving.retire(reef.fleet, "nobody", ME)
    with reef.store.read() as connection:
        found, _ = audit.page(connection, None, 10, audit.Filter(actor="me"))
    assert [(one.action, one.target, one.actor) for one in found] == [
        ("device.rename", "d3", "me"),
        ("device.retire", "d2", "me"),
        ("device.revoke", "d1", "me"),
    ]


def test_a_late_message_of_who_left_is_dropped(reef: Reef) -> None:
    """It may have been on its way; a device that is not in the list adds none to it."""
    device = reef.device("d1")
    until(lambda: reef.state("d1") == "online", "not heard")
    topic = TOPICS.of_device("d1", "status")
    leaving.retire(reef.fleet, "d1", ME)
    assert reef.controller is not None
    unknown = reef.controller.consumer.counters.unknown
    late = Client(reef.fleet.controller_mqtt(), "late")
    late.publish(topic, codec.encode(Status("online", "b1", 99, time.time())))
    counters = reef.controller.consumer.counters
    until(lambda: counters.unknown > unknown, "not counted")
    with reef.store.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(DEVICE)) == 0
    late.close()
    assert not device.link.connected.is_set()


def test_no_table_keeps_a_name_that_is_free(reef: Reef) -> None:
    """But for what tells what was: rollouts, the audit log, who left, and the day's quota.

    (The quota is a sum in memory that is added a little later; it ends with the day.)
    """
    history = {"rollout_member", "departure", "audit", "device_usage"}
    for name, leave in (
        ("d1", lambda: leaving.retire(reef.fleet, "d1", ME)),
        ("d2", lambda: leaving.rename(reef.fleet, "d2", "d3", ME)),
    ):
        device = reef.device(name, labels={"site": "graz"}, groups=["kitchen"])
        device.send("telemetry", codec.encode(Telemetry("b1", 1, [])))
        until(lambda name=name: reef.state(name) == "online", "not heard")
        tables = [table for table in METADATA.sorted_tables if table.name not in history]

        def rows(name: str = name, tables: list[sa.Table] = tables) -> dict[str, int]:
            found = {}
            with reef.store.read() as connection:
                for table in tables:
                    for column in table.columns:
                        if column.name == "device" or (table.name, column.name) == ("device", "id"):
                            query = sa.select(sa.func.count()).where(column == name)
                            found[table.name] = int(connection.scalar(query) or 0)
            return {table: count for table, count in found.items() if count}

        until(lambda: {"device", "device_trait", "telemetry"} <= rows().keys(), "nothing stored")
        leave()
        assert rows() == {}
