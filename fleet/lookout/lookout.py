"""One look at a time: measures, judges, stores what changed, and puts on its way what to tell.

All that must outlive a restart is in the database: since when what is wrong, what was told, and
when. A look that finds nothing new writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import sqlalchemy as sa
import structlog

from fleet.alerts.judge import Change, step
from fleet.alerts.rule import Kind, Rule
from fleet.expiry import Item
from fleet.lookout.measure import Measurer
from fleet.lookout.words import compose, facts_of
from fleet.store import Store, alerts, mail, webhooks

_LOG: Final = structlog.get_logger("alerts")

LOOK_S: Final = 30.0
"""Seconds from one look to the next."""

_SLOW: Final[dict[Kind, float]] = {"drift": 600.0, "expiry": 600.0, "field-accuracy": 600.0}
"""Seconds from one look to the next at what changes slowly and is much to read."""

_WITHOUT_BROKER: Final[frozenset[Kind]] = frozenset({"broker", "expiry"})
"""What can be judged while no device is heard."""

GATHER_S: Final = 300.0
"""Seconds after a rule told something in which more is gathered: what goes wrong with thousands of
devices one after the other is a few messages, not thousands."""

_SHARE: Final = 20.0
"""A look takes at most this part of the time."""

TEST: Final = "alert-test"


class Lookout:
    """Looks at one fleet.

    Args:
        store: its database.
        clock: seconds since the epoch.
        expiring: all that runs out.
        to: who gets mail of rules that name nobody.
        mails: whether there is a server for mail.
        fleet: its name.
        url: where people see more.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float] = time.time,
        *,
        expiring: Callable[[], Sequence[Item]] = tuple,
        to: Sequence[str] = (),
        mails: bool = False,
        fleet: str = "",
        url: str = "",
    ) -> None:
        self._store = store
        self._clock = clock
        self._expiring = expiring
        self._to = list(to)
        self._mails = mails
        self._fleet = fleet
        self._url = url
        self._due: dict[str, float] = {}
        self._looked = 0.0

    def look(self, silent_s: float = 0.0) -> float:
        """One look; returns seconds to rest.

        Args:
            silent_s: seconds for which the controller has heard no broker; of devices nothing is
                known then, and their alerts stay as they are.
        """
        began = time.monotonic()
        now = self._clock()
        self._looked, before = now, self._looked
        with self._store.read() as connection:
            rules = alerts.rules(connection)
            if now < before:  # the clock was put back: nothing waits for its old time
                self._due.clear()
            if silent_s > 0:
                rules = [one for one in rules if one.kind in _WITHOUT_BROKER]
            due = [one for one in rules if self._is_due(one, now)]
            changes = self._judge(connection, due, now, silent_s)
            to_tell = alerts.has_untold(connection)
        if changes or to_tell:
            with self._store.write() as connection:
                for rule, some in changes:
                    alerts.change(self._store, connection, rule, some, now)
                self._tell(connection, now)
        return max(LOOK_S, _SHARE * (time.monotonic() - began))

    def _is_due(self, rule: Rule, now: float) -> bool:
        if now < self._due.get(rule.id, 0.0):
            return False
        self._due[rule.id] = now + _SLOW.get(rule.kind, 0.0)
        return True

    def _judge(
        self, connection: sa.Connection, rules: Sequence[Rule], now: float, silent_s: float = 0.0
    ) -> list[tuple[Rule, list[Change]]]:
        measurer = Measurer(connection, now, self._expiring, silent_s)
        known = alerts.going_on(connection)
        found = []
        for rule in rules:
            mine = known.get(rule.id, {})
            try:
                measured = measurer.measure(rule, mine)
            except Exception:  # noqa: BLE001
                # A defect with one rule must not stop the others; its alerts stay as they are.
                _LOG.exception("a rule cannot be looked at", rule=rule.id)
                continue
            some = step(rule, mine, measured.readings, measured.unknown, now)
            if some:
                found.append((rule, some))
        return found

    def _tell(self, connection: sa.Connection, now: float) -> None:
        """In the transaction that marks it as told: a crash tells it once, or not yet."""
        for rule, some in alerts.take_untold(self._store, connection, now, GATHER_S):
            for event, which in (
                ("alert-opened", [one for one in some if one.status == "open"]),
                ("alert-resolved", [one for one in some if one.status == "resolved"]),
            ):
                if which:
                    facts = facts_of(rule, which)
                    webhooks.enqueue(connection, event, facts, now)
                    _LOG.warning(event, rule=rule.id, count=len(which), first=which[0].message)
            if self._mails and (recipients := rule.emails or self._to):
                subject, body = compose(self._fleet, self._url, rule, some)
                mail.enqueue(connection, "alert", recipients, subject, body, now)

    def test(self, connection: sa.Connection, to: Sequence[str], by: str) -> tuple[int, list[int]]:
        """Puts a test message on its way: to webhooks that get alerts, and by mail.

        Args:
            connection: a transaction.
            to: addresses; empty: those of fleet.yaml.
            by: who asks.

        Returns:
            How many webhooks get it, and the ids of mail.
        """
        now = self._clock()
        text = f"A test message of the fleet {self._fleet}, asked for by {by}."
        facts = {"message": text, "fleet": self._fleet}
        hooks = webhooks.enqueue(connection, TEST, facts, now, also="alert-opened")
        mails: list[int] = []
        if self._mails and (recipients := list(to) or self._to):
            body = f"{text}\n\nAlerts come to this address in the same way.\n{self._url}\n"
            subject = f"[{self._fleet}] test of alerts"
            mails = mail.enqueue(connection, TEST, recipients, subject, body, now)
        return hooks, mails
