"""What happened to one device, newest first, from the records that exist.

============= ==================================================================================
kind          from
============= ==================================================================================
``audit``     the audit log: enrolled, renewed, labelled, revoked, by whom
``wanted``    rollouts: which version is wanted of it since when
``update``    the device's events: tried, promoted, refused, rolled back, with the reason
``presence``  its connections, as ingest saw them
``alert``     alerts on it that opened
``resolved``  and resolved
``samples``   hard examples that it gave, by request
============= ==================================================================================

Each source gives at most a page, from where the page before ended: what there is altogether costs
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Literal, get_args

import msgspec
import sqlalchemy as sa

from contracts.errors import InputError
from fleet.rollout.state import Header, Member
from fleet.store.documents import load
from fleet.store.entries import DONE
from fleet.store.schema import (
    ALERT,
    AUDIT,
    FIELD_SAMPLE,
    MEMBER,
    PRESENCE,
    ROLLOUT,
    UPDATE_EVENT,
)

Kind = Literal["audit", "wanted", "update", "presence", "alert", "resolved", "samples"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_CURSOR: Final = re.compile(r"([0-9]{1,11}\.[0-9]{1,9})_([a-z]{1,8})_([0-9]{1,18})")
_MAX_ROLLOUTS: Final = 1000
_CHANGED: Final = {"online": "connected", "offline": "lost its connection"}


class Happened(msgspec.Struct, frozen=True):
    """One thing that happened.

    Attributes:
        at: by the controller's clock.
        kind: see above.
        id: within its kind.
        what: the action or state: ``device.enroll``, ``committed``, ``offline``, a rule's id.
        text: for people.
        by: who did it; empty: the device, or the controller.
        detail: what else is known.
    """

    at: float
    kind: str
    id: int
    what: str
    text: str
    by: str = ""
    detail: dict[str, Any] = {}

    @property
    def place(self) -> tuple[float, str, int]:
        """Where it is in the order."""
        return round(self.at, 6), self.kind, self.id


class _From(msgspec.Struct, frozen=True):
    """Where a page begins: with what is before this place."""

    at: float
    kind: str
    id: int

    def condition(
        self, kind: str, at: sa.ColumnElement[Any], identifier: sa.ColumnElement[Any]
    ) -> sa.ColumnElement[bool]:
        """What of a source is before it. Moments are compared as they are shown."""
        edge = self.at + 5e-7
        if kind > self.kind:
            return at < self.at - 5e-7
        if kind < self.kind:
            return at <= edge
        return sa.or_(at < self.at - 5e-7, sa.and_(at <= edge, identifier < self.id))


_Source = Callable[[sa.Connection, str, _From | None, int], list[Happened]]


def page(
    connection: sa.Connection,
    device: str,
    cursor: str,
    limit: int,
    *,
    audited: bool = True,
    kinds: Collection[str] = (),
) -> tuple[list[Happened], str | None]:
    """What happened, newest first; and the place to go on from.

    Args:
        connection: a consistent view.
        device: its name, or the id under which the history of one that left is.
        cursor: the place that the page before gave; empty: the newest.
        limit: most entries.
        audited: with what is in the audit log.
        kinds: those alone; none: all.

    Raises:
        InputError: ``bad-cursor``.
    """
    start = _start(cursor)
    found: list[Happened] = []
    for source in (_audit, *_SOURCES) if audited else _SOURCES:
        if not kinds or not _KINDS_OF[source].isdisjoint(kinds):
            found += source(connection, device, start, limit + 1)
    if kinds:
        found = [one for one in found if one.kind in kinds]
    found.sort(key=lambda one: one.place, reverse=True)
    if len(found) <= limit:
        return found, None
    at, kind, identifier = found[limit - 1].place
    return found[:limit], f"{at:.6f}_{kind}_{identifier}"


def _start(cursor: str) -> _From | None:
    if not cursor:
        return None
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise InputError("bad-cursor", "the cursor is not one of this list: begin without one")
    return _From(float(match[1]), match[2], int(match[3]))


def _rows(
    connection: sa.Connection,
    kind: str,
    query: sa.Select[Any],
    at: sa.ColumnElement[Any],
    identifier: sa.ColumnElement[Any],
    start: _From | None,
    limit: int,
) -> Sequence[Any]:
    if start is not None:
        query = query.where(start.condition(kind, at, identifier))
    return connection.execute(query.order_by(at.desc(), identifier.desc()).limit(limit)).all()


def _audit(
    connection: sa.Connection, device: str, start: _From | None, limit: int
) -> list[Happened]:
    query = sa.select(AUDIT).where(AUDIT.c.target == device)
    rows = _rows(connection, "audit", query, AUDIT.c.at, AUDIT.c.id, start, limit)
    return [
        Happened(
            row.at,
            "audit",
            row.id,
            row.action,
            row.action.replace(".", " ").replace("-", " ")
            + ("" if row.outcome == DONE else f": {row.outcome}"),
            row.actor,
            load(row.detail, dict[str, Any]),
        )
        for row in rows
    ]


def _updates(
    connection: sa.Connection, device: str, start: _From | None, limit: int
) -> list[Happened]:
    columns = UPDATE_EVENT.c
    query = sa.select(columns.id, columns.received_at, columns.state, columns.event)
    query = query.where(columns.device == device)
    found = []
    rows = _rows(connection, "update", query, columns.received_at, columns.id, start, limit)
    for row in rows:
        event = load(row.event, dict[str, Any])
        bundle = event.get("bundle") or {}
        name = f"{bundle.get('name', '')} {bundle.get('version', '')}".strip()
        reason = (event.get("reason") or {}).get("message", "")
        text = f"{name}: {row.state}" + (f", {reason}" if reason else "")
        detail = {"slot": event.get("slot", ""), "rollout": event.get("rollout") or ""}
        found.append(Happened(row.received_at, "update", row.id, row.state, text, "", detail))
    return found


def _wanted(
    connection: sa.Connection, device: str, start: _From | None, limit: int
) -> list[Happened]:
    """Rollouts of a device are few; when each gave it its version is in its member."""
    rows = connection.execute(
        sa.select(
            ROLLOUT.c.id, ROLLOUT.c.number, ROLLOUT.c.header, ROLLOUT.c.created_by, MEMBER.c.content
        )
        .join(MEMBER, MEMBER.c.rollout == ROLLOUT.c.id)
        .where(MEMBER.c.device == device)
        .order_by(ROLLOUT.c.number.desc())
        .limit(_MAX_ROLLOUTS)
    )
    found = []
    for row in rows:
        member, header = load(row.content, Member), load(row.header, Header)
        text = f"{header.target} is wanted in {header.slot}, by rollout {row.id}"
        one = Happened(
            member.since, "wanted", row.number, str(header.target), text, row.created_by,
            {"rollout": row.id, "wave": member.wave, "phase": member.phase},
        )  # fmt: skip
        if start is None or one.place < (round(start.at, 6), start.kind, start.id):
            found.append(one)
    return sorted(found, key=lambda one: one.place, reverse=True)[:limit]


def _presence(
    connection: sa.Connection, device: str, start: _From | None, limit: int
) -> list[Happened]:
    query = sa.select(PRESENCE).where(PRESENCE.c.device == device)
    rows = _rows(connection, "presence", query, PRESENCE.c.at, PRESENCE.c.id, start, limit)
    return [
        Happened(row.at, "presence", row.id, row.state, _CHANGED.get(row.state, row.state))
        for row in rows
    ]


def _alerts(
    connection: sa.Connection, device: str, start: _From | None, limit: int
) -> list[Happened]:
    query = sa.select(ALERT).where(ALERT.c.device == device, ALERT.c.status != "pending")
    found = []
    for kind, at, word in (
        ("alert", ALERT.c.opened_at, ""),
        ("resolved", ALERT.c.resolved_at, " is over"),
    ):
        some = query.where(at.is_not(None))
        found += [
            Happened(
                row.opened_at if kind == "alert" else row.resolved_at,
                kind, row.id, row.rule, f"{row.title}{word}: {row.message}",
            )
            for row in _rows(connection, kind, some, at, ALERT.c.id, start, limit)
        ]  # fmt: skip
    return found


def _samples(
    connection: sa.Connection, device: str, start: _From | None, limit: int
) -> list[Happened]:
    columns = FIELD_SAMPLE.c
    first = sa.func.min(columns.id)
    query = (
        sa.select(
            first.label("id"), columns.received_at, columns.ask, columns.model,
            sa.func.count().label("count"),
        )
        .where(columns.device == device)
        .group_by(columns.received_at, columns.ask, columns.model)
    )  # fmt: skip
    found = []
    # What is older is left out before the groups are made; of the group at the edge, after.
    if start is not None:
        query = query.where(columns.received_at <= start.at + 5e-7)
    rows = connection.execute(
        query.order_by(columns.received_at.desc(), first.desc()).limit(limit + 50)
    )
    for row in rows:
        text = f"gave {row.count} hard examples of {row.model}"
        one = Happened(row.received_at, "samples", row.id, row.ask, text)
        if start is None or one.place < (round(start.at, 6), start.kind, start.id):
            found.append(one)
    return found[:limit]


_KINDS_OF: Final[dict[_Source, frozenset[str]]] = {
    _audit: frozenset({"audit"}),
    _updates: frozenset({"update"}),
    _wanted: frozenset({"wanted"}),
    _presence: frozenset({"presence"}),
    _alerts: frozenset({"alert", "resolved"}),
    _samples: frozenset({"samples"}),
}
_SOURCES: Final[tuple[_Source, ...]] = (_updates, _wanted, _presence, _alerts, _samples)


# Presence. --------------------------------------------------------------------------------------


def note_presence(connection: sa.Connection, changes: Sequence[tuple[str, str]], at: float) -> None:
    """Records that devices connected or lost their connection: device and state."""
    if changes:
        rows = [{"device": device, "state": state, "at": at} for device, state in changes]
        connection.execute(PRESENCE.insert(), rows)


def forget(connection: sa.Connection, before: float) -> None:
    """Deletes what is known of connections from before a moment."""
    connection.execute(PRESENCE.delete().where(PRESENCE.c.at < before))
