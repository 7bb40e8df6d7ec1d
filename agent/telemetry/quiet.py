"""Whether a device has something to tell: what did not happen is not written and not sent.

While nothing is counted and no gauge has moved, a window of time goes on: the sample that ends it
says for how long nothing happened. Nothing that was counted waits for that.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

WATCHED_S: Final = 300.0
"""Seconds after a start, a new wish of the controller or a step of an update in which everything
is told: a rollout's gates judge the memory of those minutes."""

GAUGES_S: Final = 60.0
"""Seconds from one sample to the next that is told for a gauge alone: some jump all the time."""

_TIMES: Final = {"rss_bytes": 1.25, "memory_available_bytes": 2.0, "disk_free_bytes": 2.0}
"""By how many times the last told value a gauge has to change, up or down."""

_BY: Final = {"cpu_ratio": 0.5, "temperature_c": 5.0}
"""By how much."""

_ANY: Final = ("throttled", "spool_in_memory", "connections", "refused_by_broker")
"""Gauges of which every change is news."""


class Quiet:
    """Remembers what was told last. For one thread but :meth:`stir`.

    Args:
        idle_s: seconds from one sample to the next while nothing happens; 0: none is left out.
        now: seconds that only grow.
        chance: spreads the devices of a fleet, which may all have been started at once.
    """

    def __init__(self, idle_s: float, now: float, chance: random.Random) -> None:
        self._idle_s = idle_s
        self._chance = chance
        self._due = 0.0
        self._gauges_from = 0.0
        self._told: dict[str, float] = {}
        self._watched_until = now + WATCHED_S

    def stir(self, now: float) -> None:
        """Something has begun that is to be watched."""
        self._watched_until = now + WATCHED_S

    def has_news(self, gauges: Mapping[str, float], now: float) -> bool:
        """Whether a window in which nothing was counted is to end now all the same.

        Args:
            gauges: of now.
            now: seconds that only grow.
        """
        if now < self._watched_until or now >= self._due:
            return True
        return now >= self._gauges_from and is_news(self._told, gauges)

    def told(self, gauges: Mapping[str, float], now: float) -> None:
        """A window has ended, and its sample is on its way."""
        self._told = dict(gauges)
        self._gauges_from = now + GAUGES_S
        watched = now < self._watched_until
        self._due = now + self._idle_s * (self._chance.random() if watched else 1.0)


def is_news(told: Mapping[str, float], gauges: Mapping[str, float]) -> bool:
    """Whether a gauge has moved so far from what was told of it that it is worth a message."""
    if any(told.get(name) != gauges.get(name) for name in _ANY):
        return True
    for name, least in (*_TIMES.items(), *_BY.items()):
        before, after = told.get(name), gauges.get(name)
        if before is None or after is None:
            if before is not after:
                return True
        elif name in _BY:
            if abs(after - before) >= least:
                return True
        elif max(before, after) >= least * max(min(before, after), 1.0):
            return True
    return False
