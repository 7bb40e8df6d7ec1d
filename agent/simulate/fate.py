"""What becomes of a bundle on one simulated device: decided by the seed, not by chance."""

from __future__ import annotations

import functools
import random
from typing import Literal

from agent.simulate.scenario import Behaviour, Scenario

Outcome = Literal["commits", "fails-selftest", "rolls-back", "does-not-fit"]


class Fates:
    """Which devices meet which fate.

    A share is exact: of 1,000 devices with 3 % failing, 30 fail, and always the same ones for
    the same seed, bundle and version.

    Args:
        scenario: with the shares and the seed.
        devices: how many devices there are in all processes together.
    """

    def __init__(self, scenario: Scenario, devices: int) -> None:
        self.scenario = scenario
        self.devices = devices
        self._outcomes: dict[tuple[str, str], dict[int, Outcome]] = {}

    def _order(self, what: str) -> list[int]:
        order = list(range(self.devices))
        random.Random(f"{self.scenario.seed}/{what}").shuffle(order)
        return order

    @functools.cache  # noqa: B019 - lives as long as the simulation
    def chosen(self, what: str, share: float) -> frozenset[int]:
        """The devices, by index, that belong to a share of all."""
        return frozenset(self._order(what)[: round(share * self.devices)])

    def outcome(self, index: int, bundle: str, version: str) -> Outcome:
        """How an update to a bundle ends on a device."""
        key = (bundle, version)
        if key not in self._outcomes:
            self._outcomes[key] = self._draw(bundle, version)
        return self._outcomes[key].get(index, "commits")

    def _draw(self, bundle: str, version: str) -> dict[int, Outcome]:
        behaviour = self.scenario.behaviour(bundle, version)
        order = iter(self._order(f"{bundle}/{version}"))
        found: dict[int, Outcome] = {}
        shares: list[tuple[Outcome, float]] = [
            ("fails-selftest", behaviour.fail_selftest),
            ("rolls-back", behaviour.roll_back),
            ("does-not-fit", behaviour.refuse_fit),
        ]
        for outcome, share in shares:
            for _ in range(round(share * self.devices)):
                index = next(order, None)
                if index is None:
                    break
                found[index] = outcome
        return found

    def slowness(self, index: int) -> float:
        """How many times as long everything takes on a device."""
        slow = self.scenario.slow
        return slow.factor if index in self.chosen("slow", slow.share) else 1.0

    def board(self, index: int) -> str:
        """A device's board profile."""
        boards = self.scenario.boards
        chance = random.Random(f"{self.scenario.seed}/board/{index}")
        return chance.choices(list(boards), weights=list(boards.values()))[0]

    def labels(self, index: int) -> dict[str, str]:
        """A device's labels."""
        chance = random.Random(f"{self.scenario.seed}/labels/{index}")
        return {name: chance.choice(values) for name, values in self.scenario.labels.items()}

    def behaviour(self, bundle: str, version: str) -> Behaviour:
        """How a bundle does."""
        return self.scenario.behaviour(bundle, version)
