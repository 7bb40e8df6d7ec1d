"""A simulated device and the real agent, told the same, say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.messages import Reported, Status, Telemetry, TrialRules, UpdateEvent
from contracts.topics import parse
from fleet.simulate.launcher import Simulation
from tests.support.controller import (
    TINY,
    TINY_NEXT,
    AgentProcess,
    Controller,
    http_server,
    make_repository,
)

REAL, SIMULATED = "real-1", "sim-00000"
_WAYS = {
    "first": TINY,
    "next": TINY_NEXT,
    "back": TINY,
}


def _settled(control: Controller, device: str, revision: int) -> Reported:
    """What it says that it has in the end; events go their own way, through the spool."""
    control.wait_final(revision, 60)
    return control.wait_for(
        Reported, lambda r: r.device == device and r.desired_revision == revision, 60
    )


def _states(control: Controller, device: str, revision: int) -> list[str]:
    """The states of one update, each once: progress of a download is told many times."""
    found = [e.state for e in control.of(UpdateEvent, device) if e.revision == revision]
    return [s for i, s in enumerate(found) if i == 0 or found[i - 1] != s]


def _shapes(control: Controller, device: str) -> dict[str, set[str]]:
    """For each kind of message, the fields that it ever had."""
    found: dict[str, set[str]] = {}
    for topic, payload in control.raw:
        address = parse(topic)
        if address.target == device:
            found.setdefault(address.kind, set()).update(json.loads(payload))
    return found


@pytest.mark.slow
def test_a_simulated_device_says_what_the_real_agent_says(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path
) -> None:
    """The same update states in the same order, fields, error codes and status on leaving."""
    repository = make_repository(tmp_path, TINY, TINY_NEXT)
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text("traffic: {telemetry_s: 0.5}\nupdates: {step_s: 0.02, download: full}\n")
    answers: dict[str, dict[str, Any]] = {REAL: {}, SIMULATED: {}}
    with (
        Controller(mosquitto_broker, fleet_name, repository) as control,
        http_server(repository.folder) as (url, _),
        AgentProcess(
            tmp_path / REAL, mosquitto_broker, fleet_name, repository,
            device=REAL, repository_url=url,
        ) as agent,
        Simulation(
            fleet_name, mosquitto_broker, 1, scenario=scenario, repository_url=url
        ) as simulation,
    ):  # fmt: skip
        for device in (REAL, SIMULATED):
            simulation.wait_connected(60)
            control.wait_for(Reported, lambda r, d=device: r.device == d, 60)
            before = control.ask(device, "classify", text="hello")
            answers[device]["before"] = before.error.code if before.error else None
            for step, folder in _WAYS.items():
                revision = control.want(device, Bundle.open(folder).ref, rollout="r1")
                reported = _settled(control, device, revision)
                answers[device][step] = _states(control, device, revision)
                answers[device][f"{step}-active"] = reported.slots["classify"].active
            revision = control.want(
                device, Bundle.open(TINY_NEXT).ref, trial=TrialRules(seconds=0, max_restarts=1)
            )
            _settled(control, device, revision)
            control.wait_for(Telemetry, lambda t: any(s.slot == "device" for s in t.samples), 60)
            classified = control.ask(device, "classify", text="turn on the lights").classified
            answers[device]["bundle"] = classified.bundle
            unknown = control.ask(device, "reboot")
            answers[device]["unknown"] = unknown.error.code
            malformed = control.ask(device, "classify", text=7)
            answers[device]["malformed"] = malformed.error.code
            status = control.ask(device, "status").reported
            answers[device]["status"] = status.desired_revision == revision
            cancel = control.ask(device, "cancel", cancel="nothing")
            answers[device]["cancel"] = cancel.cancelled
        agent.terminate()
        simulation.stop()
        for device in (REAL, SIMULATED):

            def gone(s: Status, who: str = device) -> bool:
                return control.of(Status, who)[-1].state == "offline"

            control.wait_for(Status, gone)
        shapes = {device: _shapes(control, device) for device in (REAL, SIMULATED)}
    assert answers[SIMULATED] == answers[REAL]
    for kind in ("status", "reported", "update", "telemetry", "response"):
        missing = shapes[SIMULATED][kind] - shapes[REAL][kind]
        assert not missing, f"only the simulated device sends {missing} in {kind}"
