"""When a device last spoke: what arrives now may have been said long ago.

A broker keeps messages for whoever is away: the retained ones, which it gives again at every
subscription, and those of a session, which it gives when the session comes back. Of both only the
sender knows how old they are, by a clock that may be wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from contracts.clock import can_be_right

Heard = Literal["live", "queued", "retained"]
"""How a message came: as it was said, from the session's queue, or retained."""

MAX_CATCH_UP_S: Final = 60.0
"""Seconds after a connection in which messages may come from the queue. Devices whose clocks are
all wrong would never end it otherwise."""


def spoken_at(heard: Heard, at: float, now: float) -> float | None:
    """When a message was said.

    Args:
        heard: how it came.
        at: what it says itself, by the sender's clock.
        now: when it came.

    Returns:
        A moment that is not after `now`; None when nobody can know.
    """
    if heard == "live":
        return now
    return at if can_be_right(at, now) else None


class CatchUp:
    """Tells messages that were queued while nobody listened from those that are said now.

    A queue keeps its order: behind the first message that was said after the connection was made,
    every other was, too. For one connection at a time.

    Args:
        clock: seconds since the epoch.
        monotonic: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._connected_at = 0.0
        self._until: float | None = None

    def connected(self, *, session_present: bool) -> None:
        """A connection was made; without a session there is no queue."""
        self._connected_at = self._clock()
        self._until = self._monotonic() + MAX_CATCH_UP_S if session_present else None

    def heard(self, at: float) -> Heard:
        """How a message that is not retained came, by the time that it says itself."""
        if self._until is None:
            return "live"
        now = self._clock()
        said_since = self._connected_at <= at <= now + MAX_CATCH_UP_S
        if said_since or self._monotonic() >= self._until:
            self._until = None
        return "live" if self._until is None else "queued"
