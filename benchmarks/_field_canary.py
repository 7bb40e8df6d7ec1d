"""Whether the gate stops a version that is worse at one site only, and lets a good one through.

The rollout's own engine steps; its facts are what the controller's database says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from _field_fleet import DAY_S, NOW, SLOT, Controller, Device, Model, People, busy, drawer, judge

from contracts.messages import BundleRef
from fleet.conductor.world import figures_of, groups_of, judged_before
from fleet.rollout.engine import step
from fleet.rollout.facts import DeviceFact, Facts, SetDesired
from fleet.rollout.spec import RolloutSpec
from fleet.rollout.state import Header, RolloutState

DAYS: Final = 21
"""Days after which the canary is over in any case."""


class Ended(msgspec.Struct, frozen=True):
    """How a rollout of one seed ended.

    Attributes:
        status: ``stopped`` by the gate; ``passed`` the canary; ``open``: nobody knows yet.
        days: how long it took.
        why: what the gate says.
        devices: that have the version by then.
    """

    status: str
    days: int
    why: str
    devices: int


def spec(noise: float) -> RolloutSpec:
    """A tenth first, then all, behind the gate of accuracy in the field, by site."""
    return RolloutSpec.model_validate(
        {
            "bundle": "intents",
            "version": "2.0.0",
            "waves": [{"percent": 10}, {"percent": 100}],
            "bake_s": DAY_S,
            "gates": {
                "max_field_regression": 0.05,
                "field_by": "site",
                "field_noise": noise,
                "evidence_s": DAYS * DAY_S,
            },
        }
    )


def run(
    folder: Path,
    old: Model,
    new: Model,
    weights: Callable[[str], npt.NDArray[np.float64]],
    sites: Sequence[str],
    people: People,
    *,
    seeds: int,
    devices: int,
    answers: float,
) -> list[Ended]:
    """A rollout of `new` over devices that run `old`, `seeds` times."""
    controller = Controller(folder)
    fleet = {f"d{n:04}": Device(f"d{n:04}", sites[n % len(sites)]) for n in range(devices)}
    controller.enroll(list(fleet.values()))
    found = []
    for seed in range(seeds):
        one = _Rollout(
            controller, fleet, old.renamed(f"1.{seed}.0"), new.renamed(f"2.{seed}.0"), people,
            weights, answers, seed,
        )  # fmt: skip
        found.append(one.play())
    controller.close()
    return found


class _Rollout:
    """One rollout: a day a step."""

    def __init__(
        self,
        controller: Controller,
        fleet: dict[str, Device],
        old: Model,
        new: Model,
        people: People,
        weights: Callable[[str], npt.NDArray[np.float64]],
        answers: float,
        seed: int,
    ) -> None:
        self.controller, self.fleet = controller, fleet
        self.old, self.new, self.people = old, new, people
        self.chance = np.random.default_rng(seed)
        self.draw = drawer(weights)
        self.answers = answers
        self.now = NOW + 60 * DAY_S * seed
        self.spec = spec(people.noise)
        target = Header("running", new.ref, SLOT)
        # The id mixes the order of devices: each seed has other canaries.
        self.state = RolloutState(f"r{seed}", seed + 1, target)
        self.facts = {
            name: DeviceFact(name, since=self.now, active=old.ref, serving=old.ref)
            for name in fleet
        }

    def play(self) -> Ended:
        """Until the canary's verdict."""
        self._day(self.old, list(self.fleet), times=7)  # a week, before
        for day in range(DAYS):
            self._step()
            self._step()  # devices have done what they were told
            state = self.state.header
            reading = next((r for r in state.readings if r.gate == "max_field_regression"), None)
            if state.status in ("stopped", "rolling-back"):
                why = state.reason.message if state.reason is not None else ""
                return Ended("stopped", day, why, self._have())
            if state.wave > 0:
                return Ended("passed", day, "", self._have())
            self._day(self.new, [name for name, ref in self._serving() if ref == self.new.ref])
        return Ended("open", DAYS, reading.why if reading is not None else "", self._have())

    def _serving(self) -> list[tuple[str, BundleRef | None]]:
        return [(name, fact.active) for name, fact in self.facts.items()]

    def _have(self) -> int:
        return sum(ref == self.new.ref for _, ref in self._serving())

    def _day(self, model: Model, names: list[str], times: int = 1) -> None:
        """Devices answer and people judge; the controller hears of it."""
        hearing = [self.fleet[name] for name in names]
        counts = busy(len(hearing), self.answers * times, self.chance)
        for device, count in zip(hearing, counts, strict=True):
            judge(
                device, model, self.draw(device.site, count, self.chance), self.people, self.chance
            )
        self.now += DAY_S
        self.controller.hear(hearing, self.now - 60)

    def _step(self) -> None:
        with self.controller.store.read() as connection:
            facts = Facts(
                self.facts,
                figures_of(connection, self.spec, self.state),
                None,
                judged_before(connection, self.spec, self.state),
                groups_of(connection, self.spec),
            )
        self.state, actions = step(self.spec, self.state, facts, self.now)
        for action in actions:
            if isinstance(action, SetDesired) and action.bundle is not None:
                self.facts[action.device] = msgspec.structs.replace(
                    self.facts[action.device],
                    revision=action.revision,
                    reached=action.revision,
                    desired=action.bundle,
                    active=action.bundle.bundle,
                    serving=action.bundle.bundle,
                )
