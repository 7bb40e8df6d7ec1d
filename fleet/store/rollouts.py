"""Statements on rollouts: header, members, events, and which of them the engine looks at."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from contracts.errors import InputError
from fleet.rollout.facts import Note
from fleet.rollout.spec import RolloutSpec
from fleet.rollout.state import ACTIVE, ENDED, IN_FLIGHT, Header, Member, RolloutState
from fleet.store import Store, bundles
from fleet.store.documents import dump, load
from fleet.store.schema import DEVICE, MEMBER, ROLLOUT, ROLLOUT_EVENT

_CHUNK: Final = 500
Counts = dict[int, dict[str, int]]
"""Members by wave and phase."""


class Stored(msgspec.Struct, frozen=True):
    """A rollout as stored: what was asked, where it is, and who asked when.

    `due`: when the engine looks at it again though nothing changes. `follow_until`: until when
    it serves late joiners and returning devices, once it has ended.
    """

    spec: RolloutSpec
    state: RolloutState
    created_at: float
    created_by: str
    updated_at: float
    version: int
    due: float | None
    follow_until: float | None


class Event(msgspec.Struct, frozen=True):
    """Something that happened in a rollout."""

    id: int
    rollout: str
    at: float
    kind: str
    message: str
    detail: dict[str, Any]


@functools.lru_cache(maxsize=256)
def _spec(text: str) -> RolloutSpec:
    """What was asked, which never changes: read once, it takes longer than all else of a row."""
    return RolloutSpec.model_validate_json(text)


def _stored(row: Any, members: dict[str, Member]) -> Stored:
    return Stored(
        spec=_spec(row.spec),
        state=RolloutState(row.id, row.number, load(row.header, Header), members),
        created_at=row.created_at,
        created_by=row.created_by,
        updated_at=row.updated_at,
        version=row.version,
        due=row.due,
        follow_until=row.follow_until,
    )


def members_of(
    connection: sa.Connection, rollout: str, devices: Iterable[str] | None = None
) -> dict[str, Member]:
    """Members of a rollout, by device: all, or those of some devices that are."""
    query = sa.select(MEMBER.c.device, MEMBER.c.content).where(MEMBER.c.rollout == rollout)
    if devices is None:
        rows = connection.execute(query.order_by(MEMBER.c.device)).all()
    else:
        rows = []
        for chunk in _chunks(devices):
            rows += connection.execute(query.where(MEMBER.c.device.in_(chunk)))
    return {row.device: load(row.content, Member) for row in rows}


def newest(connection: sa.Connection, devices: Iterable[str]) -> dict[str, dict[str, int]]:
    """By slot and device, the number of the newest rollout that touched the device there."""
    found: dict[str, dict[str, int]] = {}
    for chunk in _chunks(devices):
        query = (
            sa.select(
                ROLLOUT.c.slot, MEMBER.c.device, sa.func.max(ROLLOUT.c.number).label("number")
            )
            .join(ROLLOUT, ROLLOUT.c.id == MEMBER.c.rollout)
            .where(MEMBER.c.device.in_(chunk))
            .group_by(ROLLOUT.c.slot, MEMBER.c.device)
        )
        for row in connection.execute(query):
            found.setdefault(row.slot, {})[row.device] = row.number
    return found


def in_flight(connection: sa.Connection, rollout: str) -> set[str]:
    """Members that are on their way."""
    query = sa.select(MEMBER.c.device).where(
        MEMBER.c.rollout == rollout, MEMBER.c.phase.in_(sorted(IN_FLIGHT))
    )
    return set(connection.scalars(query))


def taken_over(connection: sa.Connection, slot: str, after: int) -> dict[str, int]:
    """Devices that rollouts of a slot newer than number `after` touched: the newest of each."""
    query = (
        sa.select(MEMBER.c.device, sa.func.max(ROLLOUT.c.number).label("number"))
        .join(ROLLOUT, ROLLOUT.c.id == MEMBER.c.rollout)
        .where(ROLLOUT.c.slot == slot, ROLLOUT.c.number > after)
        .group_by(MEMBER.c.device)
    )
    return {row.device: row.number for row in connection.execute(query)}


def _chunks(devices: Iterable[str]) -> Iterable[list[str]]:
    ordered = sorted(devices)
    return (ordered[start : start + _CHUNK] for start in range(0, len(ordered), _CHUNK))


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


def due(connection: sa.Connection, now: float) -> list[str]:
    """Ids of rollouts that the engine must look at now, oldest first."""
    return _ids(connection, ROLLOUT.c.due <= now)


def followed(
    connection: sa.Connection, now: float, above: Mapping[str, int], due: Iterable[str] = ()
) -> list[Stored]:
    """Ended rollouts that returning devices and late joiners still go by, without members.

    Of the slots in `above` those alone that are as new as the number, and those of `due`: a device
    goes by no rollout that is older than the newest that touched it there.

    The newest first, so that a late joiner gets its version and no older one; those in shadow
    mode after the others, because a device needs an answer before one to compare with.
    """
    older = sa.or_(
        sa.false(),
        *((ROLLOUT.c.slot == slot) & (ROLLOUT.c.number < number) for slot, number in above.items()),
    )
    wanted = ~older | ROLLOUT.c.id.in_(sorted(due))
    rows = connection.execute(sa.select(ROLLOUT).where(ROLLOUT.c.follow_until >= now, wanted))
    found = [_stored(row, {}) for row in rows]
    return sorted(found, key=lambda one: (one.spec.mode == "shadow", -one.state.number))


def live(connection: sa.Connection, now: float, ids: Iterable[str]) -> set[str]:
    """Of some rollouts, those that are active or followed: the others hold no device."""
    query = sa.select(ROLLOUT.c.id).where(
        ROLLOUT.c.id.in_(sorted(ids)),
        ROLLOUT.c.follow_until.is_(None) | (ROLLOUT.c.follow_until >= now),
    )
    return set(connection.scalars(query))


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


def phase_counts(connection: sa.Connection, ids: Sequence[str]) -> dict[str, Counts]:
    """Members by rollout, wave and phase, as they were counted when they changed."""
    rows = connection.execute(
        sa.select(ROLLOUT.c.id, ROLLOUT.c.counts).where(ROLLOUT.c.id.in_(ids))
    )
    found = {row.id: load(row.counts, Counts) for row in rows}
    return {rollout: found.get(rollout, {}) for rollout in ids}


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


def away(connection: sa.Connection, rollout: str) -> int:
    """How many members that are on their way are not connected now."""
    query = (
        sa.select(sa.func.count())
        .select_from(MEMBER)
        .join(DEVICE, DEVICE.c.id == MEMBER.c.device)
        .where(
            MEMBER.c.rollout == rollout,
            MEMBER.c.phase.in_(sorted(IN_FLIGHT)),
            DEVICE.c.state != "online",
        )
    )
    return connection.scalar(query) or 0


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
            slot=header.slot,
            due=now,
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
    spec: RolloutSpec,
    now: float,
) -> None:
    """Stores what a step changed; of the members, both states may be the same part."""
    changed = [m for m in after.members.values() if before.members.get(m.device) is not m]
    values: dict[str, Any] = {}
    if after.header != before.header:
        visible = ("status", "wave", "approved")
        grew = any(getattr(after.header, k) != getattr(before.header, k) for k in visible)
        ended = after.header.status in ENDED
        values = {
            "status": after.header.status,
            "header": dump(after.header),
            "updated_at": now,
            "version": ROLLOUT.c.version + (1 if grew else 0),
            "follow_until": (after.header.ended or now) + spec.follow_s if ended else None,
        }
    if changed:
        counts = _counted(connection, before, changed)
        values["counts"] = dump({str(wave): phases for wave, phases in counts.items()})
    if values:
        connection.execute(ROLLOUT.update().where(ROLLOUT.c.id == after.id).values(**values))
    rows = [
        {
            "rollout": after.id,
            "device": member.device,
            "wave": member.wave,
            "phase": member.phase,
            "content": dump(member),
        }
        for member in changed
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


def _counted(connection: sa.Connection, before: RolloutState, changed: Iterable[Member]) -> Counts:
    """The counts with some members changed. The lease's generation keeps other writers away."""
    counts = phase_counts(connection, [before.id])[before.id]
    for member in changed:
        old = before.members.get(member.device)
        for one, by in ((old, -1), (member, 1)):
            if one is not None:
                phases = counts.setdefault(one.wave, {})
                phases[one.phase] = phases.get(one.phase, 0) + by
    found = {wave: {p: n for p, n in sorted(ps.items()) if n} for wave, ps in counts.items()}
    return {wave: phases for wave, phases in sorted(found.items()) if phases}


def look_at(connection: sa.Connection, moments: Mapping[str, float | None]) -> None:
    """Sets when the engine looks at rollouts again; None: not before something changes."""
    if moments:
        connection.execute(
            ROLLOUT.update()
            .where(ROLLOUT.c.id == sa.bindparam("b_id"))
            .values(due=sa.bindparam("b_due")),
            [{"b_id": rollout, "b_due": due} for rollout, due in sorted(moments.items())],
        )


def look_at_those_of(connection: sa.Connection, device: str, now: float) -> None:
    """The engine looks at the active rollouts of a device, which leaves without a trace."""
    mine = sa.select(MEMBER.c.rollout).where(MEMBER.c.device == device)
    active = ROLLOUT.c.status.in_(sorted(ACTIVE)) & ROLLOUT.c.id.in_(mine)
    connection.execute(ROLLOUT.update().where(active).values(due=now))


def look_at_queued(connection: sa.Connection, now: float) -> None:
    """The engine looks at what is queued: another rollout has ended."""
    connection.execute(ROLLOUT.update().where(ROLLOUT.c.status == "queued").values(due=now))


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
