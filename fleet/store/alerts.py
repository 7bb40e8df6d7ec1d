"""Statements on alert rules and alerts.

Several controllers may look at once: at most one alert of a rule and subject goes on, a change
counts only where the alert is still what it was, and what is told is marked in the transaction
that puts it on its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa

from contracts.errors import InputError, RefusedError
from fleet.alerts.judge import Change, Known
from fleet.alerts.rule import MAX_RULES, Rule
from fleet.store import Store
from fleet.store.documents import dump, load
from fleet.store.schema import ALERT, ALERT_RULE

Which = Literal["open", "past", "all"]
_CHUNK: Final = 500
_MAX_MESSAGE: Final = 500
_GOES_ON: Final = sa.text("alert.status <> 'resolved'")
"""As the index has it."""

_UNTOLD: Final = sa.text("alert.to_tell <> ''")


class Alert(msgspec.Struct, frozen=True):
    """An alert that is open, or was.

    Attributes:
        opened_at: when it had been wrong for long enough.
        since: when it began to be wrong.
        told: whether somebody was told that it is open.
    """

    id: int
    rule: str
    title: str
    kind: str
    subject: str
    device: str | None
    status: str
    since: float
    opened_at: float
    resolved_at: float | None
    value: float
    message: str
    told: bool


# Rules. ----------------------------------------------------------------------------------------


def rules(connection: sa.Connection) -> list[Rule]:
    """All rules, oldest first."""
    query = sa.select(ALERT_RULE).order_by(ALERT_RULE.c.created_at, ALERT_RULE.c.id)
    return [_rule(row) for row in connection.execute(query)]


def rule(connection: sa.Connection, identifier: str) -> Rule:
    """One rule.

    Raises:
        InputError: ``no-such-rule``.
    """
    row = connection.execute(sa.select(ALERT_RULE).where(ALERT_RULE.c.id == identifier)).first()
    if row is None:
        raise InputError("no-such-rule", f"no alert rule is called {identifier[:64]!r}")
    return _rule(row)


def _rule(row: Any) -> Rule:
    values = {name: getattr(row, name) for name in Rule.__struct_fields__}
    return Rule(**(values | {"emails": load(row.emails, list[str])}))


def add_rule(connection: sa.Connection, new: Rule) -> None:
    """Stores a new rule.

    Raises:
        RefusedError: ``too-many``, ``name-taken``.
    """
    known = {one.id for one in rules(connection)}
    if len(known) >= MAX_RULES:
        raise RefusedError("too-many", f"there are {MAX_RULES} alert rules already")
    if new.id in known:
        raise RefusedError("name-taken", f"an alert rule is called {new.id}: name another")
    values = msgspec.structs.asdict(new) | {"emails": dump(new.emails)}
    connection.execute(ALERT_RULE.insert().values(**values))


def remove_rule(connection: sa.Connection, identifier: str, now: float) -> None:
    """Removes a rule; its open alerts are over, and nobody is told of that."""
    rule(connection, identifier)
    connection.execute(ALERT_RULE.delete().where(ALERT_RULE.c.id == identifier))
    mine = ALERT.c.rule == identifier
    connection.execute(ALERT.delete().where(mine, ALERT.c.status == "pending"))
    over = {"status": "resolved", "resolved_at": now}
    connection.execute(ALERT.update().where(mine, ALERT.c.status == "open").values(**over))
    connection.execute(ALERT.update().where(mine).values(to_tell=""))


def silence(connection: sa.Connection, identifier: str, until: float) -> None:
    """Has nobody told of a rule's alerts until a moment.

    Raises:
        InputError: ``no-such-rule``.
    """
    rule(connection, identifier)
    connection.execute(
        ALERT_RULE.update().where(ALERT_RULE.c.id == identifier).values(silenced_until=until)
    )


# Alerts. ---------------------------------------------------------------------------------------


def going_on(connection: sa.Connection) -> dict[str, dict[str, Known]]:
    """Alerts that are pending or open, by rule and subject."""
    query = sa.select(
        ALERT.c.id, ALERT.c.rule, ALERT.c.subject, ALERT.c.status, ALERT.c.since,
        ALERT.c.clear_since,
    ).where(_GOES_ON)  # fmt: skip
    found: dict[str, dict[str, Known]] = {}
    for row in connection.execute(query):
        known = Known(row.id, row.subject, row.status, row.since, row.clear_since)
        found.setdefault(row.rule, {})[row.subject] = known
    return found


def change(
    store: Store, connection: sa.Connection, rule: Rule, changes: Sequence[Change], now: float
) -> None:
    """Stores what became of a rule's alerts."""
    new = [_new(rule, one, now) for one in changes if one.id is None and one.reading is not None]
    if new:
        connection.execute(store.insert(ALERT).on_conflict_do_nothing(), new)
    gone = [one.id for one in changes if one.id is not None and one.status is None]
    for start in range(0, len(gone), _CHUNK):
        some = ALERT.c.id.in_(gone[start : start + _CHUNK])
        connection.execute(ALERT.delete().where(some, ALERT.c.status == "pending"))
    for one in changes:
        if one.id is not None and one.status is not None:
            _update(connection, one, now)


def _new(rule: Rule, change: Change, now: float) -> dict[str, Any]:
    reading = change.reading
    assert reading is not None
    opened = change.status == "open"
    return {
        "rule": rule.id,
        "title": rule.title,
        "kind": rule.kind,
        "subject": change.subject[:256],
        "device": reading.device,
        "status": change.status,
        "since": change.since,
        "opened_at": now if opened else None,
        "value": reading.value,
        "message": reading.message[:_MAX_MESSAGE],
        "to_tell": "open" if opened else "",
    }


def _update(connection: sa.Connection, change: Change, now: float) -> None:
    mine = (ALERT.c.id == change.id) & _GOES_ON
    values: dict[str, Any] = {
        "status": change.status,
        "since": change.since,
        "clear_since": change.clear_since,
    }
    if change.status == "resolved":
        values |= {"resolved_at": now, "to_tell": "resolved"}
    elif change.status == "open" and change.reading is not None:
        mine &= ALERT.c.status == "pending"
        values |= {
            "opened_at": now,
            "value": change.reading.value,
            "message": change.reading.message[:_MAX_MESSAGE],
            "to_tell": "open",
        }
    connection.execute(ALERT.update().where(mine).values(**values))


def has_untold(connection: sa.Connection) -> bool:
    """Whether there is something to tell, now or later."""
    return bool(connection.scalar(sa.select(sa.exists().where(ALERT.c.id > 0, _UNTOLD))))


def take_untold(
    store: Store, connection: sa.Connection, now: float, gather_s: float
) -> list[tuple[Rule, list[Alert]]]:
    """What is to be told now, marked as told: by rule, opened and resolved alerts.

    A rule that told something less than `gather_s` ago waits. While it is silenced what opens
    waits too, and what resolves without anybody having been told of it is never told.
    """
    waiting = sa.select(ALERT.c.rule).distinct().where(_UNTOLD)
    found = []
    for identifier in sorted(connection.scalars(waiting)):
        query = sa.select(ALERT_RULE).where(ALERT_RULE.c.id == identifier)
        row = connection.execute(store.lock_row(query)).first()
        if row is None:
            continue
        one = _rule(row)
        mine = (ALERT.c.rule == identifier) & _UNTOLD
        if one.silenced_until > now:
            unheard = mine & (ALERT.c.to_tell == "resolved") & ~ALERT.c.told
            connection.execute(ALERT.update().where(unheard).values(to_tell=""))
            continue
        if 0 <= now - one.told_at < gather_s:
            continue
        rows = connection.execute(sa.select(ALERT).where(mine).order_by(ALERT.c.id)).all()
        if not rows:
            continue
        connection.execute(ALERT.update().where(mine).values(to_tell="", told=True))
        connection.execute(
            ALERT_RULE.update().where(ALERT_RULE.c.id == identifier).values(told_at=now)
        )
        found.append((one, [_alert(row) for row in rows]))
    return found


def page(
    connection: sa.Connection,
    which: Which,
    before: int | None,
    limit: int,
    *,
    device: str | None = None,
    rule: str | None = None,
) -> tuple[list[Alert], int | None]:
    """Alerts, newest first; and the id to go on before."""
    query = sa.select(ALERT).where(ALERT.c.status != "pending").order_by(ALERT.c.id.desc())
    if which == "open":
        query = query.where(ALERT.c.status == "open", _GOES_ON)
    elif which == "past":
        query = query.where(ALERT.c.status == "resolved")
    if before is not None:
        query = query.where(ALERT.c.id < before)
    if device is not None:
        query = query.where(ALERT.c.device == device)
    if rule is not None:
        query = query.where(ALERT.c.rule == rule)
    rows = connection.execute(query.limit(limit + 1)).all()
    found = [_alert(row) for row in rows[:limit]]
    return found, (found[-1].id if len(rows) > limit else None)


def counts(connection: sa.Connection) -> dict[str, int]:
    """How many alerts are open, by rule."""
    query = (
        sa.select(ALERT.c.rule, sa.func.count())
        .where(ALERT.c.status == "open", _GOES_ON)
        .group_by(ALERT.c.rule)
    )
    return {str(name): int(count) for name, count in connection.execute(query)}


def forget(connection: sa.Connection, before: float) -> None:
    """Deletes alerts that were resolved before a moment."""
    connection.execute(ALERT.delete().where(ALERT.c.resolved_at < before))


def _alert(row: Any) -> Alert:
    values = {name: getattr(row, name) for name in Alert.__struct_fields__}
    return Alert(**(values | {"opened_at": row.opened_at or row.since}))
