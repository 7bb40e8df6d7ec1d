"""Whole rollouts: the real controller, a real broker, and simulated devices."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import msgspec
import pytest
import yaml

from agent.simulate.__main__ import read_scenario
from agent.simulate.fate import Fates
from contracts.config import MqttConfig
from contracts.messages import BundleRef
from fleet.rollout.spec import RolloutSpec
from fleet.simulate.launcher import Simulation
from fleet.store.audit import Filter
from tests.support.bundles import noise_bundle
from tests.support.served import ServedFleet

_ENDED = ("succeeded", "stopped", "aborted")
_FINAL = {"committed", "rolled-back", "refused"}


def _published(served: ServedFleet, folder: Path, version: str) -> BundleRef:
    bundle = noise_bundle(folder / version, version=version, seed=int(version[2]))
    return served.fleet.publish(bundle.path)[0]


def _scenario(
    folder: Path, start: BundleRef, *behaviours: dict[str, object], **more: object
) -> Path:
    document = {
        "schema": 1,
        "seed": 7,
        "start": [{**msgspec.to_builtins(start)} | {"bundle": start.name}],
        "traffic": {"requests_per_s": 20.0, "telemetry_s": 1.0},
        "updates": {"step_s": 0.05, "download": "once"},
        "bundles": list(behaviours),
    } | more
    for entry in document["start"]:  # type: ignore[attr-defined]
        entry.pop("name", None)
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def _rollout_under_kills(
    tmp_path: Path, mqtt: MqttConfig, name: str, devices: int, kills: int, database: str = ""
) -> None:
    served = ServedFleet(tmp_path / "fleet", mqtt, name=name, database=database)
    old = _published(served, tmp_path, "1.0.0")
    new = _published(served, tmp_path, "1.1.0")
    scenario = _scenario(
        tmp_path, old,
        {"version": "1.1.0", "fail_selftest": 0.015, "roll_back": 0.015},
    )  # fmt: skip
    spec = RolloutSpec.model_validate(
        {
            "bundle": new.name,
            "version": new.version,
            "waves": [{"percent": 5}, {"percent": 25}, {"percent": 60}, {"percent": 100}],
            "gates": {"max_failure_rate": 0.3},
            "bake_s": 0.3,
            "trial": {"seconds": 0.3},
            "deadline_s": 300,
            "offline_s": 60,
        }
    )
    rng = random.Random(devices)
    fates = Fates(read_scenario(scenario), devices)
    ends = {"fails-selftest": "refused", "rolls-back": "rolled-back"}
    outcomes = {f"sim-{n:05}": fates.outcome(n, new.name, new.version) for n in range(devices)}
    bad = {device: ends[fate] for device, fate in outcomes.items() if fate != "commits"}
    assert len(bad) == 2 * round(0.015 * devices)
    with (
        served,
        Simulation(
            name,
            mqtt,
            devices,
            scenario=scenario,
            connects_per_s=200,
            repository_url=f"{served.fleet.api_url}/repo/",
        ) as simulation,
        served.client() as client,
    ):
        simulation.wait_connected(120)
        served.until(
            lambda: client.devices_page("all", limit=1).counts.get("online") == devices, 120
        )
        served.until(lambda: all(d.slots for d in client.devices()), 60)
        rollout = client.create_rollout(spec).id
        for _ in range(kills):
            before = sum(client.rollout(rollout).phases.values())
            more = before + rng.randint(1, max(1, devices // (kills + 1)))
            served.until(
                lambda more=more: (
                    sum((found := client.rollout(rollout)).phases.values()) >= more
                    or found.status in _ENDED
                ),
                120,
            )
            served.kill()
            served.start()
        served.until(lambda: client.rollout(rollout).status in _ENDED, 300)
        final = client.rollout(rollout)
        assert final.status == "succeeded", final
        members = {m.device: m for m in client.members(rollout)}
        assert len(members) == devices
        failed = {d for d, m in members.items() if m.phase == "failed"}
        assert {m.phase for m in members.values()} == {"confirmed", "failed"}
        assert failed == bad.keys(), "these and no others"
        assert all(members[d].reason for d in failed)
        sizes = [sum(m.wave == wave for m in members.values()) for wave in range(4)]
        assert sum(sizes) == devices
        for wave, percent in enumerate((5, 25, 60)):
            assert sum(sizes[: wave + 1]) == -(-devices * percent // 100)
        # What devices say of themselves agrees, and the failed ones are asked for the old version.
        served.until(
            lambda: all(d.reported_revision == d.desired_revision for d in client.devices()),
            60,
        )
        for device in client.devices():
            slot = device.slots["classify"]
            assert slot.active is not None and slot.desired is not None
            wanted = old.version if device.id in failed else new.version
            assert slot.active.version == wanted, (device.id, members[device.id])
            assert slot.desired.version == wanted
        began = {
            event.detail["wave"]: event.at
            for event in client.events(rollout).items
            if event.kind == "wave-began"
        }
        for device, member in members.items():
            events = client.updates(device, limit=1000).items
            of_new = [e for e in events if e.event["bundle"]["version"] == "1.1.0"]
            first = min(e.received_at for e in of_new)
            assert first >= began[member.wave], "no device gets a version before its wave"
            states = {e.event["state"] for e in of_new}
            assert states & _FINAL == {bad.get(device, "committed")}
        assert len(served.log.read_text().split("controller started")) - 1 == kills + 1
        assert '"defect"' not in served.log.read_text()
        # One command of a person, one line in the audit log, however often it was killed.
        entries = client.audit_entries(Filter(actor="admin"))
        assert [entry.action for entry in entries] == ["rollout.create"]
        assert served.stop() == 0


@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.soak)], indirect=True
)
def test_a_rollout_finishes_though_its_controller_is_killed_again_and_again(
    tmp_path: Path, mosquitto_broker: MqttConfig, fleet_name: str, database_url: str
) -> None:
    """80 devices in four waves, some of them failing, two SIGKILLs at random."""
    _rollout_under_kills(tmp_path, mosquitto_broker, fleet_name, 80, 2, database_url)


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_a_rollout_to_a_thousand_devices_survives_five_kills(
    tmp_path: Path, mosquitto_broker: MqttConfig, fleet_name: str, database_url: str
) -> None:
    """A thousand devices in four waves, 3 % of them failing."""
    _rollout_under_kills(tmp_path, mosquitto_broker, fleet_name, 1000, 5, database_url)


@pytest.mark.parametrize(
    ("gate", "limit", "behaviour"),
    [
        ("max_label_drift", 0.3, {"labels": {"lights-on": 1.0}}),
        ("max_latency_p95_us", 20_000, {"latency_us": 60_000}),
        ("max_confidence_drift", 0.3, {"confidence": 0.4}),
    ],
)
def test_a_version_that_installs_well_but_answers_worse_is_stopped_in_the_canary_wave(
    tmp_path: Path,
    mosquitto_broker: MqttConfig,
    fleet_name: str,
    gate: str,
    limit: float,
    behaviour: dict[str, object],
) -> None:
    """Its labels drift, or it is slow, or unsure: the gate stops it and the canaries go back."""
    served = ServedFleet(tmp_path / "fleet", mosquitto_broker, name=fleet_name)
    old = _published(served, tmp_path, "1.0.0")
    new = _published(served, tmp_path, "1.1.0")
    scenario = _scenario(tmp_path, old, {"version": "1.1.0", **behaviour})
    spec = RolloutSpec.model_validate(
        {
            "bundle": new.name,
            "version": new.version,
            "waves": [{"count": 2}, {"percent": 100}],
            "gates": {gate: limit, "min_requests": 40},
            "bake_s": 2,
            "trial": {"seconds": 0.5},
        }
    )
    with (
        served,
        Simulation(
            fleet_name,
            mosquitto_broker,
            10,
            scenario=scenario,
            repository_url=f"{served.fleet.api_url}/repo/",
        ) as simulation,
        served.client() as client,
    ):
        simulation.wait_connected(60)
        served.until(lambda: sum(bool(d.slots) for d in client.devices()) == 10, 60)
        rollout = client.create_rollout(spec).id
        served.until(lambda: client.rollout(rollout).status in _ENDED, 90)
        final = client.rollout(rollout)
        assert final.status == "stopped"
        assert final.reason is not None
        assert final.reason.detail["gate"] == gate
        canaries = {m.device for m in client.members(rollout)}
        assert len(canaries) == 2
        assert set(final.reason.detail["devices"]) <= canaries
        served.until(
            lambda: all(
                d.slots["classify"].active and d.slots["classify"].active.version == "1.0.0"
                for d in client.devices()
            ),
            60,
        )
        for device in client.devices():
            versions = {e.event["bundle"]["version"] for e in client.updates(device.id).items}
            assert ("1.1.0" in versions) == (device.id in canaries)
    with sqlite3.connect(served.fleet.folder / "state.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
