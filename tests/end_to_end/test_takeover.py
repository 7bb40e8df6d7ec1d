"""A fence that somebody sent to devices holds nobody for longer than a person lets it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contracts import codec, limits
from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.desired import Desired, DesiredBundle
from contracts.messages import Reported
from fleet.store import desired, devices
from tests.support.controller import QUICK_TRIAL, TINY, AgentProcess
from tests.support.owners import Sea, newest, take_over, until

DEVICE = "dev-1"
REF = Bundle.open(TINY).ref
WAIT_S = 60.0


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends what a test has begun."""
    with ExitStack() as stack:
        yield stack


def last(sea: Sea) -> Reported | None:
    """What the device said last."""
    topic = sea.witness.topics.of_device(DEVICE, "reported")
    found = [payload for at, payload in list(sea.witness.sent) if at == topic and payload]
    return codec.decode(found[-1], Reported, what="reported") if found else None


def serves(sea: Sea) -> bool:
    """Whether the device runs the model that the controller wants."""
    said = last(sea)
    slot = said.slots.get("classify") if said else None
    return slot is not None and slot.active == REF


def test_takeover_goes_above_a_fence_that_a_device_holds(
    tmp_path: Path, mosquitto_broker: MqttConfig, fleet_name: str, stack: ExitStack
) -> None:
    """Somebody who could write once emptied it; the owner is heard again, and by all others too."""
    sea = Sea(tmp_path, mosquitto_broker, fleet_name, stack)
    sea.fleet.publish(TINY)
    controller = sea.start()
    assert until(lambda: controller.ownership.speaks)
    with controller.store.write() as connection:
        devices.enroll(controller.store, connection, DEVICE, "raspberry-pi-5", {}, [], 1.0)
        document = Desired(1, {"classify": DesiredBundle(REF, trial=QUICK_TRIAL)}, at=time.time())
        desired.write(controller.store, connection, [(DEVICE, document, None)])
    controller.outbox.wake()
    repository = sea.fleet.open_repository()
    stack.enter_context(
        AgentProcess(tmp_path / "agent", mosquitto_broker, fleet_name, repository, device=DEVICE)
    )
    assert until(lambda: serves(sea), WAIT_S)

    high = newest(controller) + limits.MAX_FENCE_STEP - 1
    hostile = codec.encode(Desired(1, {}, at=time.time(), fence=high))
    topic = sea.witness.topics.of_device(DEVICE, "desired")
    sea.witness.client.publish(topic, hostile, 1, retain=True).wait_for_publish(WAIT_S)
    assert until(lambda: (said := last(sea)) is not None and said.desired_fence == high, WAIT_S)
    assert until(lambda: not serves(sea), WAIT_S)

    with controller.store.read() as connection:
        assert newest(controller) < high
    assert until(lambda: _known(controller.store) == high, WAIT_S)
    take_over(sea.fleet)
    assert until(lambda: newest(controller) == high + 1, WAIT_S)
    assert until(lambda: serves(sea), WAIT_S)
    said = last(sea)
    assert said is not None and said.desired_fence == high + 1
    assert not said.waits


def _known(store: object) -> int:
    with store.read() as connection:  # type: ignore[attr-defined]
        reported = devices.get(connection, DEVICE).reported
    return reported.desired_fence if reported else 0
