"""Time as a value that is passed in: wall clock, monotonic clock, and waiting."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from contracts.clock import EARLIEST

__all__ = ["EARLIEST", "Clock", "SystemClock", "is_set"]


class Clock(Protocol):
    """Where the agent takes the time from."""

    def time(self) -> float:
        """Seconds since the Unix epoch; wrong when the device has no set clock."""

    def monotonic(self) -> float:
        """Seconds that only grow."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Waits for `event` at most `seconds`; True when it is set."""


class SystemClock:
    """The clock of the operating system."""

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Waits for `event` at most `seconds`."""
        return event.wait(seconds)


def is_set(clock: Clock) -> bool:
    """Whether the wall clock can be right."""
    return clock.time() >= EARLIEST
