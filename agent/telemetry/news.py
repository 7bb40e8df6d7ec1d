"""Update events: what is new in one, and what only says again how far an update is."""

from __future__ import annotations

from typing import Final

from contracts.messages import BundleRef, UpdateEvent

MAX_REASONS: Final = 8
"""Failures of one state that are news; some of their codes come from a controller."""


class News:
    """Remembers the state of the newest update and the failures that were told of it.

    An update that waits for its repository fails once a minute, for months if need be, and a
    download tells its progress every few seconds: a spool that kept all of that would have no
    room left for anything else.
    """

    def __init__(self) -> None:
        self._state: tuple[int, str, BundleRef, str] | None = None
        self._reasons: set[str] = set()

    def is_new(self, event: UpdateEvent) -> bool:
        """Whether an event has another state than the one before, or another reason."""
        state = (event.revision, event.slot, event.bundle, event.state)
        reason = event.reason.code if event.reason is not None else ""
        if state != self._state:
            self._state = state
            self._reasons = {reason}
            return True
        new = reason not in self._reasons and len(self._reasons) < MAX_REASONS
        if new:
            self._reasons.add(reason)
        return new
