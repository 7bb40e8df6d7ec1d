"""Holding a tested update until its maintenance window opens, by the controller's time.

The device's own clock is never enough: one that was not set, or that begins where it stood at the
last shutdown, would let an update through in the middle of a working day. Where the controller
has not told the time since the start, it is asked for; without an answer the update waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from agent.update.machine import Update
from contracts import windows
from contracts.clock import utc
from contracts.errors import ErrorInfo, ShoalError

CLOSED: Final = "window-closed"
UNKNOWN: Final = "time-unknown"

LOOK_S: Final = 600.0
"""Seconds between two looks at a closed window: the clock may have been set meanwhile."""


class Hold(msgspec.Struct, frozen=True):
    """An update must not be activated now.

    Attributes:
        reason: why.
        pause_s: seconds to wait; None: as after a failure.
    """

    reason: ErrorInfo
    pause_s: float | None = None


class Holding:
    """Says whether an update may be activated.

    Args:
        now: the controller's time; None: it is not known.
        ask: asks for it; raises ``ShoalError``.
    """

    def __init__(self, now: Callable[[], float | None], ask: Callable[[], None]) -> None:
        self._now = now
        self._ask = ask

    def look(self, update: Update) -> Hold | None:
        """Why an update has to wait; None: it may begin, and its trial ends in the window."""
        if not update.windows:
            return None
        now, why = self._now(), "it does not tell it"
        if now is None:
            try:
                self._ask()
            except ShoalError as error:
                why = error.info.message
            now = self._now()
        if now is None:
            return Hold(
                ErrorInfo(
                    UNKNOWN,
                    "the update waits for its maintenance window, and the controller has not told "
                    f"this device the time since it started or its clock was set: {why}",
                )
            )
        if windows.fits(update.windows, now, update.trial.seconds):
            return None
        opens = windows.next_change(update.windows, now)
        if opens is not None and windows.is_open(update.windows, now):  # too late in this one
            opens = windows.next_change(update.windows, opens)
        if opens is None:
            return Hold(ErrorInfo(CLOSED, "the maintenance windows never open"), LOOK_S)
        return Hold(
            ErrorInfo(
                CLOSED,
                f"the update waits for its maintenance window, which opens at {utc(opens)}",
                {"opens": opens},
            ),
            min(opens - now, LOOK_S),
        )
