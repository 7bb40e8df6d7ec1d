"""Looks after what is still to be done at the broker: files unread, sessions open, documents left.

A revocation ends here when the broker could not be told at once: by another process, by somebody
who may not signal it, or while it was away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from contracts.config import MqttConfig
from contracts.errors import ShoalError, UnavailableError
from fleet import enforcement as access
from fleet.broker import reload
from fleet.folder import Fleet
from fleet.identity.registry import Registry
from fleet.membership.farewell import Visit
from fleet.store import Store, departures

_LOG: Final = structlog.get_logger("broker")
LOOK_S: Final = 5.0
"""Seconds between two looks at the files; the broker is asked when they have changed, while it
has not read them, and once a day."""

_TOLD_S: Final = 2.0
_DAY_S: Final = 24 * 3600.0


class Watch:
    """The controller's look at its broker.

    Args:
        fleet: whose.
        mqtt: the controller's way to the broker.
        store: the database.
        clock: seconds since the epoch.

    Attributes:
        todo: what a person must do so that the broker reads its files; empty: nothing.
    """

    def __init__(
        self, fleet: Fleet, mqtt: MqttConfig, store: Store, clock: Callable[[], float]
    ) -> None:
        self._fleet = fleet
        self._mqtt = mqtt
        self._store = store
        self._clock = clock
        self._stamp = 0
        self._due = 0.0
        self._warn_at = 0.0
        self.todo = ""

    def look(self) -> float:
        """One look; returns how many seconds to rest."""
        if self._fleet.config.mutual_tls and self._mqtt.tls is not None:
            self._look_at_files()
        self._clear_documents()
        return LOOK_S

    # Files --------------------------------------------------------------------------------

    def _look_at_files(self) -> None:
        now = self._clock()
        stamp = (self._fleet.folder / "ca" / "broker.pem").stat().st_mtime_ns
        if stamp == self._stamp and not self.todo and now < self._due:
            return
        try:
            todo = self._unread()
        except (ShoalError, OSError) as error:
            _LOG.error("cannot tell whether the broker is up to date", reason=str(error))
            self._due = now + _DAY_S
            return
        news = stamp != self._stamp or bool(self.todo)
        self.todo = todo
        if todo:
            if now >= self._warn_at:
                self._warn_at = now + _DAY_S
                _LOG.warning(
                    "the broker does not use what was renewed or revoked, and will refuse "
                    "everybody when the old runs out",
                    todo=todo,
                )
            return
        self._stamp, self._due, self._warn_at = stamp, now + _DAY_S, 0.0
        if news:
            self._end_sessions(now)

    def _unread(self) -> str:
        """What must be done so that the broker reads its files; empty: it has."""
        refused = ""
        try:
            if access.is_read(self._fleet, self._mqtt):
                return ""
        except UnavailableError as error:
            refused = f"{error}; "
        reloaded = reload.reload(self._fleet.folder / "broker")
        if reloaded.signalled and access.wait_until_read(self._fleet, self._mqtt, _TOLD_S):
            return ""
        return refused + (reloaded.todo or "restart the broker, or look at its log")

    def _end_sessions(self, now: float) -> None:
        """Of everybody who is revoked: their connections were made before."""
        registry = Registry(self._fleet.folder / "ca" / "identity.db")
        with registry.transaction() as transaction:
            denied = transaction.denied(now)
        if not denied:
            return
        try:
            with Visit(self._fleet.topics, self._mqtt, self._store) as visit:
                ended = visit.end(denied)
        except UnavailableError:
            return  # the broker is away: there are no connections
        if not ended:
            _LOG.info("open connections of revoked devices are denied everything, not ended")

    # Documents ----------------------------------------------------------------------------

    def _clear_documents(self) -> None:
        """What the broker retains of devices that left while it was away."""
        with self._store.read() as connection:
            names = departures.uncleared(connection)
        if not names:
            return
        try:
            with Visit(self._fleet.topics, self._mqtt, self._store) as visit:
                cleared = [name for name in names if visit.clear(name)]
        except UnavailableError:
            return
        with self._store.write() as connection:
            for name in cleared:
                departures.note_cleared(connection, name)
