"""What goes wrong, one after the other, in an order that a seed gives."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from tests.soak.sea import RealAgent, Sea
from tests.support import full_disk

DAY_S = 86400.0
TOLD_S = 300.0
"""Seconds after which a device that has not told what ails it counts as silent. A clock that is
ahead shows with the next update that reaches all devices, and those come one after the other."""

DISK = ("disk", "telemetry-in-memory")
CLOCK = ("clock",)
"""Parts of the codes with which a device says so."""


class Disturbances:
    """Disturbs a sea until it is told to stop, and then puts everything right.

    The first agent is never killed and its disk is never full: nothing of it may be lost.

    Args:
        sea: what is disturbed.
        chance: order and lengths.
        pause_s: between two of them, on average.
        hold_s: how long one lasts, on average.
        tell: takes what is done.
        waits: how often a device was seen to say that it waits for something of a code.
        killed: told after an agent was killed, and before it starts again.
    """

    def __init__(
        self,
        sea: Sea,
        chance: random.Random,
        pause_s: float,
        hold_s: float,
        tell: Callable[[str], None],
        waits: Callable[[str, str], int],
        killed: Callable[[RealAgent], None],
    ) -> None:
        self.sea = sea
        self.done: Counter[str] = Counter()
        self.untold: list[str] = []
        self.failure = ""
        self.clones: set[str] = set()
        self.story: list[tuple[float, str]] = []
        self._chance = chance
        self._pause_s, self._hold_s, self._tell = pause_s, hold_s, tell
        self._waits, self._killed = waits, killed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disturbances", daemon=True)
        self._kinds: list[Callable[[], None]] = [
            self.broker_killed,
            self.broker_killed_and_its_file_lost,
            self.controller_killed,
            self.agent_killed,
            self.agent_s_disk_full,
            self.controller_s_disk_full,
            self.clock_ahead,
            self.clock_at_1970,
            self.clone,
            self.slow_network,
            self.silent_network,
            self.connections_cut,
        ]

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; what was going on is put right before."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._disturb()
        except Exception as error:  # noqa: BLE001
            # As a thread it would end in silence, and the rest of the run would be a quiet one.
            self.failure = f"{type(error).__name__}: {error}"

    def _disturb(self) -> None:
        waiting: list[Callable[[], None]] = []
        while not self._stop.wait(self._chance.uniform(0.5, 1.5) * self._pause_s):
            if not waiting:
                waiting = self._chance.sample(self._kinds, len(self._kinds))
            kind = waiting.pop()
            name = kind.__name__.replace("_s_", "'s ").replace("_", " ")
            self.story.append((time.time(), name))
            self._tell(name)
            kind()
            self.done[name] += 1

    def _hold(self) -> None:
        self._stop.wait(self._chance.uniform(0.5, 1.5) * self._hold_s)

    def _hold_until_told(self, agent: RealAgent, codes: Sequence[str]) -> None:
        """Holds, and on until the device has told of it, which it does when it can know."""

        def told() -> int:
            return sum(self._waits(agent.device, code) for code in codes)

        before = told()
        self._hold()
        deadline = time.monotonic() + TOLD_S
        while told() == before:
            if self._stop.is_set():
                return  # there was no time for it
            if time.monotonic() > deadline:
                self.untold.append(f"{agent.device}: {codes[0]}")
                return
            self._stop.wait(1.0)

    def _one(self) -> RealAgent:
        """An agent that may be killed."""
        return self._chance.choice(self.sea.agents[1:])

    def broker_killed(self) -> None:
        """It has its file of up to a minute ago."""
        self.sea.broker.kill()
        self._stop.wait(self._chance.uniform(0, 3))
        self.sea.broker.start()

    def broker_killed_and_its_file_lost(self) -> None:
        """It knows nothing."""
        self.sea.broker.kill()
        self.sea.forget_broker()
        self._stop.wait(self._chance.uniform(0, 3))
        self.sea.broker.start()

    def controller_killed(self) -> None:
        """At any moment."""
        self.sea.controller.kill()
        self._stop.wait(self._chance.uniform(0, self._hold_s))
        self.sea.controller.start()

    def agent_killed(self) -> None:
        """At any moment, twice perhaps."""
        agent = self._one()
        for _ in range(self._chance.randint(1, 2)):
            agent.kill()
            self._killed(agent)
            self._stop.wait(self._chance.uniform(0, 2))
            agent.start()
            self._stop.wait(self._chance.uniform(0.5, 5))

    def agent_s_disk_full(self) -> None:
        """No file takes a byte more."""
        agent = self._one()
        agent.full_since, agent.full_until = time.monotonic(), float("inf")
        full_disk.take_room(agent.pid)
        self._hold_until_told(agent, DISK)
        full_disk.make_room(agent.pid)
        agent.full_until = time.monotonic()

    def controller_s_disk_full(self) -> None:
        """The database takes nothing."""
        full_disk.take_room(self.sea.controller.pid)
        self._hold()
        full_disk.make_room(self.sea.controller.pid)

    def _clock(self, ahead_s: float) -> None:
        agent = self.sea.agents[2]
        agent.clock.set(ahead_s)
        self._hold_until_told(agent, CLOCK)
        agent.clock.set(0)

    def clock_ahead(self) -> None:
        """By a month."""
        self._clock(30 * DAY_S)

    def clock_at_1970(self) -> None:
        """As on a board without a battery."""
        self._clock(-time.time() + 100)

    def clone(self) -> None:
        """Two devices of one identity; only one stays."""
        agent = self.sea.agents[3]
        copy = agent.copy()
        copy.start()
        self.clones.add(agent.device)
        self._stop.wait(max(45.0, self._hold_s))
        copy.kill()

    def slow_network(self) -> None:
        """20 kB a second."""
        agent = self._chance.choice(self.sea.agents)
        agent.proxy.bytes_per_s = 20_000
        self._hold()
        agent.proxy.bytes_per_s = 0

    def silent_network(self) -> None:
        """Nothing arrives, nothing is closed."""
        agent = self._chance.choice(self.sea.agents)
        agent.proxy.silent = True
        self._hold()
        agent.proxy.silent = False

    def connections_cut(self) -> None:
        """Reset in the middle of whatever they carry."""
        for agent in self.sea.agents:
            agent.proxy.cut()
