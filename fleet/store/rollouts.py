"""Statements on rollouts: header, members, events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from contracts.errors import InputError
from fleet.rollout.facts import Note
from fleet.rollout.spec import RolloutSpec
from fleet.rollout.state import ACTIVE, ENDED, Header, Member, RolloutState
from fleet.store import Store, bundles
from fleet.store.documents import dump, load
from fleet.store.schema import MEMBER, ROLLOUT, ROLLOUT_EVENT


class Stored(msgspec.Struct, frozen=True):
    """A rollout as stored: what was asked, where it is, and who asked when."""

    spec: RolloutSpec
    state: RolloutState
    created_at: float
    created_by: str
    updated_at: float
    version: int


class Event(msgspec.Struct, frozen=True):
    """Something that happened in a rollout."""

    id: int
    rollout: str
    at: float
    kind: str
    message: str
    detail: dict[str, Any]


def _stored(row: Any, members: dict[str, Member]) -> Stored:
    return Stored(
        spec=RolloutSpec.model_validate_json(row.spec),
        state=RolloutState(row.id, row.number, load(row.header, Header), members),
        created_at=row.created_at,
        created_by=row.created_by,
        updated_at=row.updated_at,
        version=row.version,
    )


def members_of(connection: sa.Connection, rollout: str) -> dict[str, Member]:
    """All members of a rollout, by device."""
    rows = connection.execute(
        sa.select(MEMBER.c.device, MEMBER.c.content)
        .where(MEMBER.c.rollout == rollout)
        .order_by(MEMBER.c.device)
    )
    return {row.device: load(row.content, Member) for row in rows}


def get(connection: sa.Connection, rollout: str, *, members: bool = True) -> Stored:
    """One rollout.

    Raises:
        InputError: ``no-such-rollout``.
    """
    row = connection.execute(sa.select(ROLLOUT).where(ROLLOUT.c.id == rollout)).first()
    if row is None:
        raise InputError("no-such-rollout", f"no rollout is called {rollout[:64]!r}")
    return _stored(row, members_of(connection, rollout) if members else {})


def active(connection: sa.Connection) -> list[str]:
    """Ids of rollouts that have not ended, oldest first."""
    return _ids(connection, ROLLOUT.c.status.in_(sorted(ACTIVE)))


def ended_since(connection: sa.Connection, moment: float) -> list[str]:
    """Ids of ended rollouts that changed after a moment, oldest first."""
    ended = ROLLOUT.c.status.in_(sorted(ENDED))
    return _ids(connection, ended & (ROLLOUT.c.updated_at >= moment))


def _ids(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[str]:
    query = sa.select(ROLLOUT.c.id).where(condition).order_by(ROLLOUT.c.number)
    return list(connection.scalars(query))


def page(
    connection: sa.Connection, before: int | None, limit: int
) -> tuple[list[Stored], int | None]:
    """Rollouts without members, newest first; and the number to go on before."""
    query = sa.select(ROLLOUT).order_by(ROLLOUT.c.number.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(ROLLOUT.c.number < before)
    rows = connection.execute(query).all()
    found = [_stored(row, {}) for row in rows[:limit]]
    return found, (found[-1].state.number if len(rows) > limit else None)


def phase_counts(
    connection: sa.Connection, ids: Sequence[str]
) -> dict[str, dict[int, dict[str, int]]]:
    """Members by rollout, wave and phase."""
    rows = connection.execute(
        sa.select(MEMBER.c.rollout, MEMBER.c.wave, MEMBER.c.phase, sa.func.count())
        .where(MEMBER.c.rollout.in_(ids))
        .group_by(MEMBER.c.rollout, MEMBER.c.wave, MEMBER.c.phase)
    )
    found: dict[str, dict[int, dict[str, int]]] = {rollout: {} for rollout in ids}
    for rollout, wave, phase, count in rows:
        found[rollout].setdefault(wave, {})[phase] = count
    return found


def members_page(
    connection: sa.Connection, rollout: str, phase: str | None, after: str, limit: int
) -> tuple[list[Member], str | None]:
    """Members after a device's id, at most `limit`; and the id to go on after."""
    query = (
        sa.select(MEMBER.c.content)
        .where(MEMBER.c.rollout == rollout, MEMBER.c.device > after)
        .order_by(MEMBER.c.device)
        .limit(limit + 1)
    )
    if phase is not None:
        query = query.where(MEMBER.c.phase == phase)
    rows = [load(text, Member) for text in connection.scalars(query)]
    found = rows[:limit]
    return found, (found[-1].device if len(rows) > limit else None)


def newest_of_slot(connection: sa.Connection, slot: str) -> dict[str, int]:
    """For every device, the number of the newest rollout that gave its slot a bundle."""
    same = {
        row.id: row.number
        for row in connection.execute(sa.select(ROLLOUT.c.id, ROLLOUT.c.number, ROLLOUT.c.header))
        if load(row.header, Header).slot == slot
    }
    found: dict[str, int] = {}
    for row in connection.execute(sa.select(MEMBER.c.rollout, MEMBER.c.device)):
        if row.rollout in same:
            found[row.device] = max(found.get(row.device, 0), same[row.rollout])
    return found


def next_id(connection: sa.Connection) -> str:
    """The id that the next rollout will have."""
    return f"r{_next_number(connection)}"


def _next_number(connection: sa.Connection) -> int:
    return 1 + (connection.scalar(sa.select(sa.func.max(ROLLOUT.c.number))) or 0)


def create(
    store: Store,
    connection: sa.Connection,
    rollout: str,
    spec: RolloutSpec,
    header: Header,
    who: str,
    now: float,
) -> RolloutState:
    """Stores a new rollout with the next number.

    Raises:
        RefusedError: ``bundle-withdrawn``.
    """
    bundles.check_offered(connection, header.target)
    number = _next_number(connection)
    connection.execute(
        ROLLOUT.insert().values(
            id=rollout,
            number=number,
            status=header.status,
            spec=spec.model_dump_json(),
            header=dump(header),
            created_at=now,
            created_by=who,
            updated_at=now,
        )
    )
    return RolloutState(rollout, number, header)


def save(
    store: Store,
    connection: sa.Connection,
    before: RolloutState,
    after: RolloutState,
    now: float,
) -> None:
    """Stores what a step changed."""
    if after.header != before.header:
        visible = ("status", "wave", "approved")
        grew = any(getattr(after.header, k) != getattr(before.header, k) for k in visible)
        connection.execute(
            ROLLOUT.update()
            .where(ROLLOUT.c.id == after.id)
            .values(
                status=after.header.status,
                header=dump(after.header),
                updated_at=now,
                version=ROLLOUT.c.version + (1 if grew else 0),
            )
        )
    rows = [
        {
            "rollout": after.id,
            "device": member.device,
            "wave": member.wave,
            "phase": member.phase,
            "content": dump(member),
        }
        for member in after.members.values()
        if before.members.get(member.device) is not member
    ]
    if rows:
        insert = store.insert(MEMBER)
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=["rollout", "device"],
                set_={k: insert.excluded[k] for k in ("wave", "phase", "content")},
            ),
            rows,
        )


def add_events(connection: sa.Connection, rollout: str, notes: Iterable[Note], now: float) -> None:
    """Appends to the rollout's history."""
    rows = [
        {
            "rollout": rollout,
            "at": now,
            "kind": note.kind,
            "message": note.message,
            "detail": dump(note.detail),
        }
        for note in notes
    ]
    if rows:
        connection.execute(ROLLOUT_EVENT.insert(), rows)


def events(connection: sa.Connection, rollout: str, after: int, limit: int) -> list[Event]:
    """A rollout's history after an event's id, oldest first."""
    rows = connection.execute(
        sa.select(ROLLOUT_EVENT)
        .where(ROLLOUT_EVENT.c.rollout == rollout, ROLLOUT_EVENT.c.id > after)
        .order_by(ROLLOUT_EVENT.c.id)
        .limit(limit)
    )
    return [
        Event(r.id, r.rollout, r.at, r.kind, r.message, load(r.detail, dict[str, Any]))
        for r in rows
    ]
