"""What protects a fleet from a bad model, with the real controller and real agents."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from contracts import codec
from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.connection import new_client
from contracts.desired import Desired
from contracts.topics import Topics
from fleet.api.models import Query
from fleet.api.models_rollouts import RolloutModel
from fleet.client import Client
from fleet.rollout.spec import RolloutSpec
from tests.support.bundles import relabelled
from tests.support.controller import TINY, TINY_NEXT, AgentProcess
from tests.support.served import ServedFleet

ENDED = ("succeeded", "stopped", "aborted")
TEXTS = ["turn on the lights", "what is the weather", "set a timer", "lights off please"]


class Home:
    """A controller, real agents, and people who ask them."""

    def __init__(self, served: ServedFleet, client: Client, devices: list[str]) -> None:
        self.served = served
        self.client = client
        self.devices = devices

    def until(self, holds: Callable[[], object], seconds: float = 180) -> None:
        """Waits for what other processes bring about."""
        self.served.until(holds, seconds)

    def publish(self, folder: Path) -> Bundle:
        """Signs and publishes a bundle."""
        self.served.fleet.publish(folder)
        return Bundle.open(folder)

    def roll_out(self, bundle: Bundle, **fields: object) -> RolloutModel:
        """A rollout to all devices, to its end, while people ask."""
        spec = {
            "bundle": bundle.ref.name, "version": bundle.ref.version,
            "waves": [{"percent": 100}], "bake_s": 1, "trial": {"seconds": 0}, **fields,
        }  # fmt: skip
        rollout = self.client.create_rollout(RolloutSpec.model_validate(spec), again=True).id
        with self._people():
            self.until(lambda: self.client.rollout(rollout).status in ENDED, 90)
        return self.client.rollout(rollout)

    @contextmanager
    def _people(self) -> Iterator[None]:
        done = threading.Event()

        def ask() -> None:
            with self.served.client() as client:
                while not done.wait(0.1):
                    for text in TEXTS:
                        client.query(Query(devices=self.devices, text=text, timeout_s=5))

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(30)

    def active(self, device: str) -> str | None:
        """The version that a device says it runs."""
        slot = self.client.device(device).slots.get("classify")
        return slot.active.version if slot and slot.active else None

    def answers(self, device: str) -> str:
        """The version that answers, or the error of a request."""
        query = Query(devices=[device], text=TEXTS[0], timeout_s=10)
        (answer,) = self.client.query(query).answers
        if answer.error is not None:
            return answer.error.code
        assert answer.classified is not None
        return str(answer.classified["bundle"]["version"])


@pytest.fixture
def home(mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path) -> Iterator[Home]:
    """Two agents that have no model yet."""
    served = ServedFleet(tmp_path / "fleet", mosquitto_broker, name=fleet_name)
    devices = ["kitchen", "cellar"]
    with served, served.client() as client, ExitStack() as stack:
        repository = served.fleet.open_repository()
        for device in devices:
            stack.enter_context(
                AgentProcess(
                    tmp_path / device, mosquitto_broker, fleet_name, repository,
                    device=device, repository_url=f"{served.fleet.api_url}/repo/",
                )
            )  # fmt: skip
        home = Home(served, client, devices)
        home.until(lambda: len([d for d in client.devices() if d.state == "online"]) == 2)
        yield home


@pytest.mark.timeout(240)
def test_a_first_model_that_fails_a_gate_is_gone_from_every_device(home: Home) -> None:
    """It has no version to go back to: it serves no more, and the rollout ends when it is gone."""
    first = home.publish(TINY)
    gates = {"max_latency_p95_us": 0.001, "min_requests": 10}
    ended = home.roll_out(first, gates=gates)
    assert ended.status == "stopped"
    assert ended.phases == {"undone": 2}
    for device in home.devices:
        assert home.active(device) is None
        assert home.answers(device) == "no-model"
    assert home.roll_out(first).status == "succeeded"
    for device in home.devices:
        assert home.answers(device) == "1.0.0"


@pytest.mark.timeout(240)
def test_a_shadow_that_disagrees_is_stopped_by_its_gate_and_one_that_agrees_is_not(
    home: Home, tmp_path: Path
) -> None:
    """The gate reads what real devices compared; the model that answers stays."""
    assert home.roll_out(home.publish(TINY)).status == "succeeded"
    gates = {"max_shadow_disagreement": 0.3, "min_requests": 10, "evidence_s": 30}
    good = home.publish(relabelled(tmp_path / "good", TINY, "1.0.1").path)
    ended = home.roll_out(good, mode="shadow", gates=gates)
    assert ended.status == "succeeded", ended
    (reading,) = [r for r in ended.readings if r["gate"] == "max_shadow_disagreement"]
    assert reading["samples"] >= 10
    assert reading["value"] == 0
    other = {"lights-on": "lights-off", "lights-off": "lights-on"}
    bad = home.publish(relabelled(tmp_path / "bad", TINY, "1.0.2", other).path)
    ended = home.roll_out(bad, mode="shadow", gates=gates)
    assert ended.status == "stopped"
    assert ended.reason is not None
    assert ended.reason.detail["gate"] == "max_shadow_disagreement"
    for device in home.devices:
        assert home.answers(device) == "1.0.0"
        slot = home.client.device(device).slots["classify"]
        assert slot.shadow is not None and slot.shadow.version == "1.0.1"


@pytest.mark.timeout(240)
def test_one_forged_document_freezes_no_device(
    home: Home, mosquitto_broker: MqttConfig, fleet_name: str
) -> None:
    """Neither one of the highest revision nor one that empties it; both stay at the broker."""
    assert home.roll_out(home.publish(TINY)).status == "succeeded"
    client = new_client(mosquitto_broker, f"forger-{fleet_name}")
    client.connect(mosquitto_broker.host, mosquitto_broker.port)
    client.loop_start()

    def forge(document: Desired) -> None:
        for device in home.devices:
            topic = Topics(fleet_name).of_device(device, "desired")
            sent = client.publish(topic, codec.encode(document), qos=1, retain=True)
            sent.wait_for_publish(10)

    try:
        before = {d: home.client.device(d).desired_revision for d in home.devices}
        fence = max(_fence(home, device) for device in home.devices)
        forge(Desired(2**53 - 1, fence=fence))
        forge(Desired(max(before.values()) + 5000, fence=fence))
        for device in home.devices:
            home.until(lambda d=device: home.client.device(d).desired_revision > before[d] + 5000)
            home.until(lambda d=device: home.active(d) == "1.0.0")
            assert home.answers(device) == "1.0.0"
    finally:
        client.disconnect()
        client.loop_stop()
    assert home.roll_out(home.publish(TINY_NEXT)).status == "succeeded"
    for device in home.devices:
        assert home.answers(device) == "1.1.0"


def _fence(home: Home, device: str) -> int:
    query = Query(devices=[device], op="status", timeout_s=10)
    (answer,) = home.client.query(query).answers
    assert answer.reported is not None
    return int(answer.reported.get("desired_fence", 0))
