"""Simulated devices as processes on a real broker."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import paho.mqtt.client as paho
import pytest

from contracts import codec
from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.connection import new_client
from contracts.desired import Desired, DesiredBundle, TrialRules
from contracts.errors import InputError
from contracts.messages import Reported, Status
from contracts.topics import Topics, parse
from fleet.simulate.launcher import Simulation
from tests.support.controller import TINY, http_server, make_repository

NEW = Bundle.open(TINY).ref


class Watcher:
    """Keeps the newest status and reported document of each device."""

    def __init__(self, config: MqttConfig, names: Topics) -> None:
        self.status: dict[str, Status] = {}
        self.reported: dict[str, Reported] = {}
        self.changed = threading.Condition()
        self.client = new_client(config, f"watch-{names.fleet}")
        self.client.on_message = self._message
        self.client.on_connect = lambda *_: self.client.subscribe(f"{names.prefix}/d/+/+", 1)
        self.client.connect(config.host, config.port)
        self.client.loop_start()

    def _message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        address = parse(message.topic)
        with self.changed:
            if address.kind == "status":
                self.status[address.target] = msgspec.json.decode(message.payload, type=Status)
            elif address.kind == "reported":
                self.reported[address.target] = msgspec.json.decode(message.payload, type=Reported)
            self.changed.notify_all()

    def wait(self, condition: object, seconds: float = 120) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, seconds)  # type: ignore[arg-type]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def test_devices_in_two_processes_update_and_say_goodbye(
    broker: MqttConfig, fleet_name: str, tmp_path: Path
) -> None:
    """The failing share is exact over all processes; a clean end leaves all offline."""
    file = tmp_path / "scenario.yaml"
    file.write_text("seed: 3\nupdates: {step_s: 0.02}\nbundles: [{fail_selftest: 0.1}]\n")
    names = Topics(fleet_name)
    watcher = Watcher(broker, names)
    repository = make_repository(tmp_path, TINY)
    try:
        with (
            http_server(repository.folder) as (url, _),
            Simulation(
                fleet_name, broker, 60, scenario=file, processes=2, repository_url=url
            ) as simulation,
        ):
            simulation.wait_connected(30)
            watcher.wait(lambda: len(watcher.status) == 60)
            assert sorted(watcher.status) == simulation.names
            wanted = DesiredBundle(NEW, trial=TrialRules(seconds=0.1))
            document = codec.encode(Desired(revision=1, slots={"classify": wanted}))
            for name in simulation.names:
                topic = names.of_device(name, "desired")
                watcher.client.publish(topic, document, qos=1, retain=True)
            watcher.wait(lambda: all(r.desired_revision == 1 for r in watcher.reported.values()))
            totals = simulation.stop()
        assert (totals.committed, totals.refused) == (54, 6)
        # A device that refused its first bundle has no slot.
        slots = [r.slots.get("classify") for r in watcher.reported.values()]
        active = [slot.active for slot in slots if slot is not None]
        assert active.count(NEW) == 54
        watcher.wait(lambda: all(s.state == "offline" for s in watcher.status.values()))
    finally:
        watcher.close()


def test_offline_devices_stay_away_and_come_back(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path
) -> None:
    """The simulation counts as connected without them; they come when the scenario says."""
    file = tmp_path / "scenario.yaml"
    file.write_text("offline: {share: 0.5, back_after_s: 2.0}\n")
    watcher = Watcher(mosquitto_broker, Topics(fleet_name))
    try:
        with Simulation(fleet_name, mosquitto_broker, 10, scenario=file) as simulation:
            simulation.wait_connected(30)
            watcher.wait(lambda: len(watcher.status) == 5)
            watcher.wait(lambda: len(watcher.status) == 10)
    finally:
        watcher.close()


def test_churning_devices_leave_their_will_and_return_with_a_higher_session(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path
) -> None:
    """The broker publishes the will; the next birth has a newer session and boot."""
    file = tmp_path / "scenario.yaml"
    file.write_text("churn: {share: 1.0, every_s: 1.0, away_s: 0.2, reboot: true}\n")
    watcher = Watcher(mosquitto_broker, Topics(fleet_name))
    try:
        with Simulation(fleet_name, mosquitto_broker, 1, scenario=file):
            watcher.wait(lambda: "sim-00000" in watcher.status)
            first = watcher.status["sim-00000"]
            watcher.wait(lambda: watcher.status["sim-00000"].state == "offline")
            watcher.wait(lambda: watcher.status["sim-00000"].state == "online")
            again = watcher.status["sim-00000"]
            assert again.session > first.session
            assert again.boot != first.boot
    finally:
        watcher.close()


def test_a_bad_scenario_ends_the_simulation_with_its_error(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path
) -> None:
    """The program's one error comes out of the launcher as our error."""
    file = tmp_path / "scenario.yaml"
    file.write_text("ofline: {share: 1}\n")
    with (
        Simulation(fleet_name, mosquitto_broker, 5, scenario=file) as simulation,
        pytest.raises(InputError, match="did you mean 'offline'"),
    ):
        simulation.wait_connected(30)
