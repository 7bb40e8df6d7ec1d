"""SIGKILL at random moments of updates of the agent's own program, with real processes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from contracts import program
from contracts.config import MqttConfig
from contracts.desired import DesiredBundle, TrialRules
from contracts.messages import Reported, UpdateEvent
from fleet.repository import releases
from tests.end_to_end.test_program import MODEL, started_by_starter
from tests.support.controller import TINY, AgentProcess, Controller, make_repository
from tests.support.program_wheels import archive

VERSIONS = ("0.2.0", "0.3.0", "0.4.0")
FINAL = ("committed", "refused", "rolled-back")


def kill_at_random_moments(
    kills: int, broker: MqttConfig, fleet: str, folder: Path, seed: int
) -> None:
    """Kills the program `kills` times while its releases come and go; then it must be whole."""
    chance = random.Random(seed)
    repository = make_repository(folder, TINY)
    for version in VERSIONS:
        releases.publish(repository, archive(folder / "wheels" / version, version))
    # A kill is the test's doing, not the release's: no number of starts rolls back.
    trial = TrialRules(seconds=0.2, max_restarts=100)
    agent = AgentProcess(folder / "a", broker, fleet, repository)
    started_by_starter(agent, folder)
    ended = {"committed": 0, "refused": 0, "rolled-back": 0}
    with Controller(broker, fleet, repository) as controller, agent:

        def want(version: str) -> int:
            slots = {
                "classify": DesiredBundle(MODEL, trial=trial),
                program.SLOT: DesiredBundle(program.ref(version), trial=trial),
            }
            return controller.want_slots(agent.device, slots)

        def final(revision: int) -> UpdateEvent | None:
            found = [
                e for e in controller.of(UpdateEvent)
                if e.revision == revision and e.slot == program.SLOT and e.state in FINAL
            ]  # fmt: skip
            return found[-1] if found else None

        def reached(revision: int, state: str) -> Callable[[UpdateEvent], bool]:
            return lambda e: (
                e.revision == revision and e.slot == program.SLOT and e.state in (state, *FINAL)
            )

        turn, revision = 0, want(VERSIONS[0])
        for _ in range(kills):
            state = chance.choice(("", "downloading", "self-tested", "trial", "trial", "committed"))
            if state:  # a moment after it, whenever that comes
                controller.wait_for(UpdateEvent, reached(revision, state), 600)
            threading.Event().wait(chance.uniform(0.0, 3.0))
            agent.kill()
            last = final(revision)
            if last is not None:
                ended[last.state] += 1
                turn += 1
                revision = want(VERSIONS[turn % len(VERSIONS)])
            agent.start()
        wanted = VERSIONS[turn % len(VERSIONS)]
        controller.wait_for(
            UpdateEvent,
            lambda e: e.revision == revision and e.slot == program.SLOT and e.state == "committed",
            600,
        )
        reported = controller.wait_for(
            Reported, lambda r: r.desired_revision == revision and r.agent_version == wanted
        )
        assert reported.slots[program.SLOT].active == program.ref(wanted)
        answer = controller.ask(agent.device, "classify", text="turn on the light")
        assert answer.classified is not None
        print(f"{kills} kills, updates that ended: {ended}")
        assert ended["refused"] == ended["rolled-back"] == 0
        assert len(list((folder / "program/releases").iterdir())) <= 2
        assert agent.terminate() == 0


def test_three_kills_in_the_first_update(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path
) -> None:
    """Whatever it did when it was killed, it goes on."""
    kill_at_random_moments(3, mosquitto_broker, fleet_name, tmp_path, seed=4)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_kills(mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path) -> None:
    """No kill loses the device, and no update ends but well."""
    kill_at_random_moments(100, mosquitto_broker, fleet_name, tmp_path, seed=9)
