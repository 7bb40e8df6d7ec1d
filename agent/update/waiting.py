"""Why the updates of a device do not get on: told once, and for as long as it lasts."""

from __future__ import annotations

import threading
from typing import Final

from agent.system.clock import Clock
from contracts import limits
from contracts.errors import ErrorInfo, ShoalError
from contracts.messages import Wait

AGAIN_S: Final = 600.0
"""Seconds before the same reason in other words (another amount of free room) is told again."""

EXPIRY: Final = frozenset({"freeze", "expired"})
"""Refusals of signatures that are past their time: a clock is set, or they are signed anew."""


class Waiting:
    """The one reason that holds now. One thread changes it, any may ask.

    Args:
        clock: the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._reason: ErrorInfo | None = None
        self._slot = ""
        self._began = 0.0
        self._told_at = 0.0

    def begin(self, reason: ErrorInfo, slot: str = "") -> bool:
        """A step failed, and will be tried again.

        Returns:
            Whether it is news.
        """
        now = self._clock.monotonic()
        message = reason.message[: limits.MAX_REASON_CHARS]
        with self._lock:
            known = self._reason
            same = known is not None and (known.code, self._slot) == (reason.code, slot)
            if not same:
                self._began = now
            changed = known is None or known.message != message
            news = not same or (changed and now - self._told_at >= AGAIN_S)
            if news:
                self._told_at = now
            self._reason = ErrorInfo(reason.code, message, reason.detail)
            self._slot = slot
        return news

    def end(self) -> bool:
        """It gets on; True when it did not before."""
        with self._lock:
            before, self._reason = self._reason, None
        return before is not None

    def now(self) -> list[Wait]:
        """What is waited for, since when by the wall clock of now: it may have been set."""
        with self._lock:
            if self._reason is None:
                return []
            lasts = self._clock.monotonic() - self._began
            return [Wait(self._reason, self._clock.time() - lasts, self._slot)]


def patience(error: ShoalError, clock_fault: ErrorInfo | None) -> ErrorInfo | None:
    """Why a refusal has to be waited out; None: it is final.

    Args:
        error: the refusal.
        clock_fault: why this device's clock is wrong, if it is known to be.
    """
    if error.code not in EXPIRY:
        return None
    if clock_fault is None:
        return error.info
    message = f"{clock_fault.message}. By it, {error.info.message}"
    return ErrorInfo(clock_fault.code, message, clock_fault.detail)
