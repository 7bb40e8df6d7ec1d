"""An agent replaces its own program: real starter, environments, broker and repository."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from agent.release import starter
from contracts import __version__, program
from contracts.answers import Answer
from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.desired import DesiredBundle, TrialRules
from contracts.messages import Reported, UpdateEvent
from fleet.repository import releases
from tests.support.controller import TINY, AgentProcess, Controller, make_repository
from tests.support.program_wheels import CRASH, archive

MODEL = Bundle.open(TINY).ref
TRIAL = TrialRules(seconds=0.2, max_restarts=3)
RETURN_S = 60.0
"""Seconds within which a device is back that was given a release which cannot start."""


def started_by_starter(agent: AgentProcess, folder: Path) -> None:
    """As the installer leaves it: a starter of its own, which runs what is installed here."""
    copied = folder / "starter.py"
    shutil.copyfile(starter.__file__, copied)
    home = folder / "program"
    agent.command = [
        sys.executable, str(copied), "--home", str(home), "--base", sys.prefix,
        "run", "--config", str(agent.path),
    ]  # fmt: skip


def wants(controller: Controller, device: str, version: str) -> int:
    """Asks for a release, beside the model."""
    return controller.want_slots(
        device,
        {
            "classify": DesiredBundle(MODEL, trial=TRIAL),
            program.SLOT: DesiredBundle(program.ref(version), trial=TRIAL),
        },
    )


def of_program(revision: int, *states: str) -> Callable[[UpdateEvent], bool]:
    """Whether an event is the program's, and of one of these states."""
    return lambda e: e.revision == revision and e.slot == program.SLOT and e.state in states


def test_an_agent_replaces_its_program_goes_back_from_a_bad_one_and_downgrades(
    mosquitto_broker: MqttConfig,
    fleet_name: str,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """The version in `reported` changes, the model answers, and no release loses the device."""
    repository = make_repository(tmp_path, TINY)
    for version, before in (("0.2.0", ""), ("0.3.0", CRASH), ("0.0.9", "")):
        releases.publish(repository, archive(tmp_path / "wheels" / version, version, before))
    final = ("committed", "refused", "rolled-back")
    agent = AgentProcess(tmp_path / "a", mosquitto_broker, fleet_name, repository)
    started_by_starter(agent, tmp_path)
    with Controller(mosquitto_broker, fleet_name, repository) as controller, agent:

        def runs(version: str, revision: int) -> None:
            reported = controller.wait_for(
                Reported, lambda r: r.desired_revision == revision and r.agent_version == version
            )
            assert reported.slots[program.SLOT].active == program.ref(version)
            answer: Answer = controller.ask(agent.device, "classify", text="turn on the light")
            assert answer.classified is not None
            assert answer.classified.bundle == MODEL

        controller.wait_final(controller.want(agent.device, MODEL, trial=TRIAL))
        revision = wants(controller, agent.device, "0.2.0")
        event = controller.wait_for(UpdateEvent, of_program(revision, *final), 600)
        assert event.state == "committed", (event, agent.log.read_text()[-3000:])
        runs("0.2.0", revision)

        revision = wants(controller, agent.device, "0.3.0")
        tried = controller.wait_for(UpdateEvent, of_program(revision, "trial"), 600)
        back = controller.wait_for(UpdateEvent, of_program(revision, *final), 600)
        assert back.state == "rolled-back", (back, agent.log.read_text()[-3000:])
        assert back.reason is not None
        assert back.reason.code == "trial-restarts"
        record_property("return_s", back.at - tried.at)
        assert back.at - tried.at <= RETURN_S
        runs("0.2.0", revision)

        revision = wants(controller, agent.device, "0.0.9")
        event = controller.wait_for(UpdateEvent, of_program(revision, *final), 600)
        assert event.state == "committed", (event, agent.log.read_text()[-3000:])
        runs("0.0.9", revision)
        assert agent.terminate() == 0


def test_an_agent_that_was_started_by_hand_says_why_it_keeps_its_program(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path
) -> None:
    """In `reported`, before anybody asks; and it refuses when somebody does."""
    repository = make_repository(tmp_path, TINY)
    with (
        Controller(mosquitto_broker, fleet_name, repository) as controller,
        AgentProcess(tmp_path / "a", mosquitto_broker, fleet_name, repository) as agent,
    ):
        reported = controller.wait_for(Reported, lambda r: r.device == agent.device)
        assert "starter" in reported.platform[program.FIXED]
        assert program.TAG not in reported.platform
        assert reported.agent_version == __version__
        revision = wants(controller, agent.device, "0.2.0")
        event = controller.wait_for(UpdateEvent, of_program(revision, "refused"))
        assert event.reason is not None
        assert event.reason.code == "program-fixed"
