"""How many connections there may be, and who has to go when there are too many.

An address has a share, and all together a total. Where there is no more room, a connection on
which nothing is being done makes some: one that waits for a request, or that never began one. If
there is none of that kind, the address with the most gives one up for an address with fewer. So
nobody is kept out by somebody who holds many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

YOUNG_S: Final = 1.0
"""Seconds in which a new connection is left alone: its request is on its way."""


class Place:
    """What one connection holds.

    Attributes:
        address: whose it is.
        busy: a request is being handled.
        since: since when it is as it is, in seconds that only grow.
        end: ends the connection.
    """

    def __init__(self, address: str, now: float, end: Callable[[], object]) -> None:
        self.address = address
        self.busy = False
        self.since = now
        self.end = end


class Places:
    """All connections of a server; for the thread of its event loop alone.

    Args:
        total: how many there may be.
        per_address: of one address.
        exempt: addresses that speak for others, and have no share of their own.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        total: int,
        per_address: int,
        exempt: Collection[str] = (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._per_address = per_address
        self._exempt = frozenset(exempt)
        self._monotonic = monotonic
        # Each in the order in which they came to be as they are.
        self._held: dict[str, dict[Place, None]] = {}
        self.count = 0
        self.refused = 0

    def enter(self, address: str, end: Callable[[], object]) -> Place | None:
        """A place for a new connection; None: there is none, and it has to go."""
        now = self._monotonic()
        if not self._room(address, now):
            self.refused += 1
            return None
        place = Place(address, now, end)
        self._held.setdefault(address, {})[place] = None
        self.count += 1
        return place

    def leave(self, place: Place) -> None:
        """The connection has ended; once more does nothing."""
        mine = self._held.get(place.address, {})
        if place in mine:
            del mine[place]
            self.count -= 1
            if not mine:
                del self._held[place.address]

    def mark(self, place: Place, *, busy: bool) -> None:
        """A request began, or the last one was answered."""
        mine = self._held.get(place.address, {})
        if place.busy != busy and place in mine:
            place.busy, place.since = busy, self._monotonic()
            del mine[place]
            mine[place] = None

    def _room(self, address: str, now: float) -> bool:
        mine = self._held.get(address, {})
        if address not in self._exempt and len(mine) >= self._per_address:
            return self._end_waiting(mine, now)
        if self.count < self._total:
            return True
        largest = max(self._held.values(), key=len)
        if self._end_waiting(largest, now):
            return True
        if len(mine) + 1 < len(largest):
            self._end(next(iter(largest)))
            return True
        return False

    def _end_waiting(self, places: dict[Place, None], now: float) -> bool:
        for place in places:
            if not place.busy and now - place.since >= YOUNG_S:
                self._end(place)
                return True
        return False

    def _end(self, place: Place) -> None:
        self.leave(place)
        place.end()
