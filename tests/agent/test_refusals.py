"""What a broker does not allow, towards brokers that say it, each in its way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import connection as connections
from agent import refusals
from agent.link import Link
from agent.refusals import Refusals
from agent.system.clock import SystemClock
from contracts.config import MqttConfig
from contracts.errors import UnavailableError
from contracts.topics import home_assistant_discovery
from tests.support.refusing import Broker

PATIENCE_S = 90.0
OWN = "shoal/v1/f/d/d/"
ELSEWHERE = home_assistant_discovery("f", "d")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "FIRST_RETRY_S", 0.02)
    monkeypatch.setattr(connections, "MAX_RETRY_S", 0.02)


class Device:
    """A link to a broker; as the agent does, it tells Home Assistant with each connection."""

    def __init__(self, broker: Broker, *groups: str) -> None:
        self.news = threading.Semaphore(0)
        self.answers: list[tuple[str, object]] = []
        self.link = Link(
            MqttConfig(port=broker.port),
            fleet="f",
            device="d",
            groups=list(groups),
            folder=Path(),
            boot="b",
            next_session=lambda: 1,
            clock=SystemClock(),
            on_message=lambda _: None,
            on_change=lambda up: self.discover() if up else None,
            on_refusal=self.news.release,
        )
        self.link.start()

    def discover(self) -> None:
        """A message that the device can do without, then one that it cannot."""
        for topic in (ELSEWHERE, f"{OWN}telemetry"):
            try:
                self.link.publish(
                    topic, b"x", done=lambda code, topic=topic: self.answers.append((topic, code))
                )
            except UnavailableError as error:
                assert error.code == "not-allowed"
                self.answers.append((topic, "left alone"))

    def until(self, condition: Callable[[], object]) -> None:
        """Waits for what another thread brings about."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.answers
            threading.Event().wait(0.01)


@pytest.fixture
def devices() -> Iterator[list[Device]]:
    """They end with the test."""
    made: list[Device] = []
    yield made
    for one in made:
        one.link.stop()


@pytest.mark.parametrize(
    ("how", "lost"),
    [(0x87, 0), (-0x87, 1), (None, refusals.STRIKES)],
    ids=["acknowledged", "said goodbye", "closed without a word"],
)
def test_whatever_way_a_broker_refuses_one_topic_the_rest_goes_on(
    devices: list[Device], how: int | None, lost: int
) -> None:
    """After at most three lost connections; then the topic is left alone and is reported."""
    broker = Broker(lambda topic: how if topic == ELSEWHERE else 0)
    device = Device(broker)
    devices.append(device)
    device.until(device.link.refusals.waits)
    device.until(lambda: (f"{OWN}telemetry", 0) in device.answers)
    with pytest.raises(UnavailableError, match="not allow this device to publish to homeassistant"):
        device.link.publish(ELSEWHERE, b"again")
    (wait,) = device.link.refusals.waits()
    assert wait.reason.code == "not-allowed"
    assert not wait.blocks
    assert broker.connections == lost + 1
    assert [topic for topic, _ in broker.heard].count(ELSEWHERE) == max(1, lost)
    broker.close()


def test_a_refused_topic_of_the_devices_own_is_tried_again_and_reported_until_it_is_allowed(
    devices: list[Device],
) -> None:
    """Nothing that the fleet needs is given up for an answer that may change."""
    allowed = threading.Event()
    broker = Broker(lambda topic: 0 if allowed.is_set() or "telemetry" not in topic else 0x87)
    device = Device(broker)
    devices.append(device)
    device.until(device.link.refusals.waits)
    (wait,) = device.link.refusals.waits()
    assert wait.reason.detail == {"topic": f"{OWN}telemetry"}
    assert device.news.acquire(timeout=PATIENCE_S)
    allowed.set()
    device.link.publish(f"{OWN}telemetry", b"again")
    assert device.news.acquire(timeout=PATIENCE_S)
    assert device.link.refusals.waits() == []
    assert device.link.connections == 1
    broker.close()


def test_refused_subscriptions_are_reported_and_the_others_hold(devices: list[Device]) -> None:
    """A group that the broker does not know of; and the one without which no update comes."""
    refused = {"shoal/v1/f/g/attic/req/+", f"{OWN}desired"}
    broker = Broker(granted=lambda topic: 0x87 if topic in refused else 1)
    device = Device(broker, "kitchen", "attic")
    devices.append(device)
    device.until(lambda: len(device.link.refusals.waits()) == 2)
    blocks = {str(w.reason.detail["topic"]): w.blocks for w in device.link.refusals.waits()}
    assert blocks == {"shoal/v1/f/g/attic/req/+": False, f"{OWN}desired": True}
    assert device.link.refusals.count == 2
    assert device.link.connections == 1
    broker.close()


def test_a_network_that_fails_again_and_again_costs_no_topic_of_the_fleet() -> None:
    """Whatever waits for its answer then: only the broker's own word counts."""
    known = Refusals(OWN, SystemClock())
    for _ in range(10):
        assert known.cut(f"{OWN}telemetry", 0.1, 0) is None
    for _ in range(refusals.STRIKES - 1):
        assert known.cut(ELSEWHERE, 0.1, 0) is None
    assert known.cut(ELSEWHERE, 60.0, 0) is None, "it had lasted"
    known.check(ELSEWHERE)
    assert known.cut(f"{OWN}telemetry", 0.1, refusals.NOT_AUTHORIZED) is not None


def test_many_answers_are_one_topic_and_many_topics_are_bounded() -> None:
    """Each answer has a topic of its own; nothing grows with them."""
    known = Refusals(OWN, SystemClock())
    for number in range(100):
        known.answered("publish to", f"{OWN}res/q{number}", allowed=False)
    (wait,) = known.waits()
    assert wait.reason.detail == {"topic": f"{OWN}res/+"}
    for number in range(100):
        known.answered("publish to", f"elsewhere/{number}", allowed=False)
    assert len(known.waits()) == refusals.MAX_TOPICS
    assert known.count == 200
