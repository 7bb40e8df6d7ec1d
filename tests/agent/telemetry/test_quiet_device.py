"""A whole device that nobody asks anything, on a real broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from contracts import codec
from contracts.config import MqttConfig
from contracts.connection import new_client
from contracts.desired import Desired, DesiredBundle
from contracts.topics import Topics
from tests.support.controller import TINY
from tests.support.many_devices import ManyDevices, installed

SCENARIO = """
seed: 5
traffic: {requests_per_s: 0, telemetry_s: 10}
"""


def until(condition: Callable[[], bool]) -> None:
    """Waits for what the devices' thread brings about."""
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


def test_a_wish_has_an_idle_device_tell_everything_again_and_the_same_wish_does_not(
    mosquitto_broker: MqttConfig, fleet_name: str
) -> None:
    """Gates judge what it measures then; what the broker retains comes at each connection."""
    devices = ManyDevices(mosquitto_broker, fleet_name, 1, scenario=SCENARIO)
    client = new_client(mosquitto_broker, f"{fleet_name}-controller")
    client.connect(mosquitto_broker.host, mosquitto_broker.port)
    client.loop_start()
    topic = Topics(fleet_name).of_device("sim-0000", "desired")

    def want(revision: int) -> None:
        wish = {"classify": DesiredBundle(installed(TINY).ref)}
        client.publish(topic, codec.encode(Desired(revision, wish)), 1).wait_for_publish(60)

    with devices:
        device = devices.devices[0]
        assert device.run is not None
        run, quiet = device.run, device.run.reporter._quiet

        stirs: list[float] = []
        stir = quiet.stir

        def stirred(now: float) -> None:
            stirs.append(now)
            stir(now)

        quiet.stir = stirred  # type: ignore[method-assign]

        def reached(revision: int) -> bool:
            return run.engine.journal.reached == revision

        want(1)
        until(lambda: reached(1) and bool(stirs))
        once = len(stirs)
        want(1)
        want(1)
        want(2)
        until(lambda: reached(2))
        assert len(stirs) == 2 * once
    client.disconnect()
    client.loop_stop()
