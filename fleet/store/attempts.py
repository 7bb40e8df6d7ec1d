"""What was refused, on its way to the audit log: counted in memory, written now and then.

The first refusal of a kind in a minute is written at once, so that a controller that is killed
loses no more than how often it came again. All others of that minute are added together later: a
flood of requests is not one of transactions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from contracts.errors import ShoalError
from fleet.store import audit
from fleet.store.database import Store
from fleet.store.entries import Actor

_LOG: Final = structlog.get_logger("audit")
MAX_KINDS: Final = 64
"""Kinds (actor, action, target, outcome) of one minute that are told apart here."""

WRITE_S: Final = 10.0
"""Seconds between two writings of what was counted."""

_Kind = tuple[Actor, str, str, str]


class Attempts:
    """Counts refusals; any thread may use it.

    Args:
        store: where the audit log is.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._minute = 0
        self._known: set[_Kind] = set()
        self._pending: dict[_Kind, int] = {}
        self._last = 0.0

    def count(self, actor: Actor, action: str, target: str, outcome: str) -> None:
        """Counts one; what cannot be written now is written later."""
        kind = (actor, action[:64], target[:256], outcome[:64])
        now = self._clock()
        with self._lock:
            if now // 60 != self._minute:
                self._minute = int(now // 60)
                self._known.clear()
            if kind not in self._known and len(self._known) >= MAX_KINDS:
                kind = (Actor(audit.OTHERS, actor.role, actor.by), kind[1], "", kind[3])
            first = kind not in self._known
            # Those of others are few: an action and an outcome each.
            self._known.add(kind)
            self._pending[kind] = self._pending.get(kind, 0) + 1
            self._last = now
        if first:
            self.write()

    def write(self) -> float:
        """Writes what was counted; returns how many seconds to rest."""
        with self._writing:
            with self._lock:
                pending, self._pending = self._pending, {}
                at = self._last
            while pending:
                (actor, action, target, outcome), times = kind, _ = next(iter(pending.items()))
                try:
                    audit.count(self._store, actor, action, target, outcome, at, times=times)
                except ShoalError as error:
                    _LOG.warning("what was refused is not written yet", reason=str(error))
                    with self._lock:
                        for kind, times in pending.items():
                            self._pending[kind] = self._pending.get(kind, 0) + times
                    break
                del pending[(actor, action, target, outcome)]
        return WRITE_S
