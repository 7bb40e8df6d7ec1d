"""The connection, towards a broker that sends what none should."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent import connection as connections
from agent.connection import Inbound
from agent.daemon import Agent
from agent.link import Link
from agent.system.clock import SystemClock
from contracts.config import AgentConfig, MqttConfig

PATIENCE_S = 90.0
CONNACK = b"\x20\x03\x00\x00\x00"
GOOD = b"\x32\x07\x00\x01a\x00\x05\x00x"  # topic a, message id 5
GOOD_ACK = b"\x40\x02\x00\x05"


class Broker:
    """Accepts every connection, and sends what it is told to send on the newest."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.connections: list[socket.socket] = []
        self.heard = bytearray()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._server.accept()
            except OSError:
                return
            self.connections.append(one)  # first: who is connected may send at once
            one.sendall(CONNACK)
            threading.Thread(target=self._hear, args=(one,), daemon=True).start()

    def _hear(self, one: socket.socket) -> None:
        try:
            while data := one.recv(4096):
                self.heard += data
        except OSError:
            pass

    def send(self, data: bytes) -> None:
        """Sends bytes on the newest connection."""
        self.connections[-1].sendall(data)

    def close(self) -> None:
        """Ends everything."""
        for one in (self._server, *self.connections):
            one.close()


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A broker that ends with the test."""
    one = Broker()
    yield one
    one.close()


@contextmanager
def connected(broker: Broker, **options: Any) -> Iterator[tuple[Link, list[Inbound]]]:
    """A link that is connected, and what it receives."""
    got: list[Inbound] = []
    settings: dict[str, Any] = {
        "next_session": lambda: 1,
        "on_message": got.append,
        "on_change": lambda connected: None,
    }
    link = Link(
        MqttConfig(port=broker.port),
        fleet="f",
        device="d",
        groups=[],
        folder=Path(),
        boot="b",
        clock=SystemClock(),
        **(settings | options),
    )
    link.start()
    try:
        assert link.connected.wait(PATIENCE_S)
        yield link, got
    finally:
        link.connected.clear()  # nobody acknowledges the goodbye
        link.stop()


def until(reached: Callable[[], bool]) -> None:
    """Waits for what other threads do."""
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("bad", "ack"),
    [
        (b"\x30\x06\x00\x02\xff\xfe\x00x", b""),
        (b"\x32\x08\x00\x02\xff\xfe\x00\x07\x00x", b"\x40\x02\x00\x07"),
    ],
    ids=["QoS 0", "QoS 1"],
)
def test_a_topic_that_is_not_utf_8_is_acknowledged_and_the_next_message_is_taken(
    broker: Broker, bad: bytes, ack: bytes
) -> None:
    """On the same connection: nobody can take the device off its broker with it."""
    with connected(broker) as (link, got):
        broker.send(bad + GOOD)
        until(lambda: len(got) == 1)
        got[0].ack()
        until(lambda: ack + GOOD_ACK in broker.heard)
        assert (link.alive, link.connected.is_set(), len(broker.connections)) == (True, True, 1)


def test_a_handler_that_raises_does_not_end_the_network_thread(broker: Broker) -> None:
    """Neither that of messages, nor that of changes of the connection."""
    got: list[Inbound] = []

    def take(inbound: Inbound) -> None:
        got.append(inbound)
        raise RuntimeError("a bug")

    def change(connected: bool) -> None:
        raise RuntimeError("a bug")

    with connected(broker, on_message=take, on_change=change) as (link, _):
        broker.send(GOOD + GOOD)
        until(lambda: len(got) == 2)
        assert link.alive


class Panic(BaseException):
    """What a library in Rust raises."""


@pytest.mark.parametrize("kind", [RuntimeError, Panic])
def test_after_an_error_of_the_network_thread_the_link_connects_anew(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    """Whatever it was; until then it does not count as connected."""
    changes: list[bool] = []
    with connected(broker, on_change=changes.append) as (link, got):
        read = link._client.loop_read

        def fail(*_: object) -> Any:
            monkeypatch.setattr(link._client, "loop_read", read)
            raise kind("a bug")

        monkeypatch.setattr(link._client, "loop_read", fail)
        broker.send(GOOD)
        until(lambda: len(changes) == 3)
        assert changes == [True, False, True]
        broker.send(GOOD)
        until(lambda: len(got) == 1)
        assert (link.alive, len(broker.connections)) == (True, 2)


def test_an_error_before_connecting_is_tried_again(broker: Broker) -> None:
    """The session number failed; the next one does not."""
    numbers = iter([ValueError("a bug"), 2])

    def next_session() -> int:
        number = next(numbers)
        if isinstance(number, Exception):
            raise number
        return number

    with connected(broker, next_session=next_session) as (link, _):
        assert link.alive


TAKEN_OVER = b"\xe0\x02\x8e\x00"


def test_a_device_whose_session_is_taken_says_so_once_and_waits_longer_and_longer(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its log, its status file and what it sends; the controller hears how often."""
    monkeypatch.setattr(connections, "FIRST_TAKEN_S", 0.1)
    sessions = iter(range(1, 9))
    with (
        capture_logs() as logs,
        connected(broker, next_session=lambda: next(sessions)) as (link, _),
    ):
        for number in range(1, 4):
            until(lambda number=number: link.connections == number)
            assert link.connected.wait(PATIENCE_S)
            began = time.monotonic()
            broker.send(TAKEN_OVER)
            until(lambda number=number: link.takeovers == number)
            assert "taken over by another client with the same identity" in link.last_error
            until(lambda number=number: link.connections == number + 1)
            assert time.monotonic() - began >= 0.05 * 2 ** (number - 1)
        until(lambda: b'"takeovers":3' in broker.heard)
    said = [log for log in logs if "taken over" in log["event"]]
    assert [log["log_level"] for log in said] == ["error"]
    assert not [log for log in logs if log["event"] == "connection lost"]


def test_a_connection_that_breaks_at_once_is_made_less_and_less_often(broker: Broker) -> None:
    """It used to be tried twice a second, for ever."""
    with connected(broker) as (link, _):
        for number in range(1, 4):
            until(lambda number=number: len(broker.connections) == number)
            assert link.connected.wait(PATIENCE_S)
            broker.connections[-1].shutdown(socket.SHUT_RDWR)
            until(lambda: not link.connected.is_set())
            assert link.last_error == "connection lost: the broker closed it"
        assert link._backoff._next_s == 4.0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_agent_whose_network_thread_has_died_is_not_healthy(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog then starts it anew; before the start and after the stop none has to run."""
    config = AgentConfig("f", "d", "raspberry-pi-5", "{}", mqtt=MqttConfig(port=broker.port))
    agent = Agent(config, tmp_path)
    agent.worker.start()
    assert agent.vitals.healthy()
    agent.link.start()
    assert agent.link.connected.wait(PATIENCE_S)
    assert agent.vitals.healthy()

    def die(*_: object) -> Any:
        raise Panic

    network = agent.link._client._thread
    assert network is not None
    monkeypatch.setattr(agent.link._client, "_loop", die)
    monkeypatch.setattr(agent.link._client, "_loop_rc_handle", die)
    broker.send(GOOD)
    until(lambda: not agent.vitals.healthy())
    network.join(PATIENCE_S)  # or what it died of is told in another test
    assert not network.is_alive()
    agent.link.connected.clear()
    agent.link.stop()
    assert agent.vitals.healthy()
    agent.worker.drain(1)
