"""SIGKILL at random moments of updates under query load."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from contracts.answers import Answer
from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.desired import TrialRules
from contracts.messages import Reported, UpdateEvent
from tests.support.controller import (
    TINY,
    TINY_NEXT,
    AgentProcess,
    Controller,
    make_repository,
)

if TYPE_CHECKING:
    from typing_extensions import Self

OLD = Bundle.open(TINY).ref
NEW = Bundle.open(TINY_NEXT).ref
TEXTS = {
    "turn on the kitchen light": "lights-on",
    "switch off the lamp": "lights-off",
    "set a timer for five minutes": "timer",
    "what is the weather today": "weather",
}
OUTSTANDING = 8


class Load:
    """Asks without end, at most :data:`OUTSTANDING` questions at once."""

    def __init__(self, controller: Controller, device: str) -> None:
        self.controller = controller
        self.device = device
        self.asked: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def answers(self) -> dict[str, Answer]:
        """The last answer of each request."""
        return {a.id: a for a in self.controller.of(Answer)}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        texts = list(TEXTS)
        while not self._stop.is_set():
            open_now = set(self.asked) - set(self.answers())
            if len(open_now) < OUTSTANDING:
                text = texts[len(self.asked) % len(texts)]
                request = self.controller.ask_only(self.device, "classify", text=text)
                self.asked[request] = text
            self._stop.wait(0.02)


def kill_at_random_moments(
    kills: int, broker: MqttConfig, fleet: str, folder: Path, seed: int
) -> None:
    """Kills an agent `kills` times; updates go back and forth, questions never stop."""
    chance = random.Random(seed)
    repository = make_repository(folder, TINY, TINY_NEXT)
    # A kill is the test's doing, not the bundle's: no number of restarts rolls back.
    trial = TrialRules(seconds=0.3, max_restarts=100)
    in_update = 0
    with (
        Controller(broker, fleet, repository) as controller,
        AgentProcess(folder / "a", broker, fleet, repository) as agent,
    ):
        controller.wait_final(controller.want(agent.device, OLD, trial=trial))
        wanted, revision = NEW, controller.want(agent.device, NEW, trial=trial)
        with Load(controller, agent.device) as load:
            for _ in range(kills):
                threading.Event().wait(chance.uniform(0.05, 2.5))
                agent.kill()
                last = [e for e in controller.of(UpdateEvent) if e.revision == revision]
                in_update += not last or last[-1].state != "committed"
                if last and last[-1].state == "committed":
                    wanted = OLD if wanted == NEW else NEW
                    revision = controller.want(agent.device, wanted, trial=trial)
                agent.start()
            assert controller.wait_final(revision, 60).state == "committed"
            controller.wait_for(Reported, lambda r: r.desired_revision == revision)
        deadline = time.monotonic() + 180
        while set(load.asked) - set(load.answers()) and time.monotonic() < deadline:
            threading.Event().wait(0.1)
        answers = load.answers()
        silent = set(load.asked) - set(answers)
        wrong = [
            a
            for a in controller.of(Answer)
            if a.classified is not None
            and a.id in load.asked
            and (
                a.classified.label != TEXTS[load.asked[a.id]]
                or a.classified.bundle not in (OLD, NEW)
            )
        ]
        refused = [a.error.code for a in answers.values() if a.error is not None]
        print(
            f"{kills} kills, {in_update} in an update, {len(load.asked)} questions, "
            f"{len(refused)} refused, {len(wrong)} wrong, {len(silent)} silent"
        )
        assert not wrong
        assert not silent
        assert len(refused) < len(load.asked) / 4
        assert in_update > kills / 10
        tested = controller.ask(agent.device, "selftest")
        assert tested.selftested is not None
        assert tested.selftested.bundle == wanted
        assert tested.selftested.passed == tested.selftested.vectors
        assert agent.terminate() == 0


def test_sigkill_at_200_random_moments(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path
) -> None:
    """No wrong answer, nothing unrecoverable, every request answered: four agents at a time."""
    with ThreadPoolExecutor(4) as pool:
        runs = [
            pool.submit(
                kill_at_random_moments,
                50,
                mosquitto_broker,
                f"{fleet_name}-{seed}",
                tmp_path / str(seed),
                seed,
            )
            for seed in range(4)
        ]
        for run in runs:
            run.result()


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_sigkill_at_500_random_moments(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path
) -> None:
    """The long version, one agent after all its kills."""
    kill_at_random_moments(500, mosquitto_broker, fleet_name, tmp_path, seed=9)
