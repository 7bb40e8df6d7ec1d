"""Statements on devices that left the fleet: their history stays, their names are free.

What a device measured and did goes on under an id of its own: the archive's of a retired
device, the new name of a renamed one.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa

from contracts.errors import InputError, RefusedError
from fleet.store import Store, devices, rollouts
from fleet.store.documents import dump, load
from fleet.store.schema import DEPARTURE, DEVICE, METADATA, TRAIT

Why = Literal["retired", "renamed"]
_KEEPS_NAMES: Final = frozenset({"departure", "rollout_member"})
"""Tables that tell what was, under the names of then."""

_HISTORY: Final = tuple(
    table
    for table in METADATA.sorted_tables
    if "device" in table.columns and table is not TRAIT and table.name not in _KEEPS_NAMES
)
"""Tables of what a device did and measured, and of what of it was counted."""

_NAME_CHARS: Final = 40
"""Characters of a name in an archive's id, which is at most 64 long."""


class Departure(msgspec.Struct, frozen=True):
    """A device that left.

    Attributes:
        id: under which its history is: an archive's id, or the new name.
        device: the name that it had.
        why: how it left.
        at, by: when, and who did it.
        cleared: the broker retains nothing of it any more.
        facts: board, labels, groups, times and the last report, for people.
    """

    id: str
    device: str
    why: Why
    at: float
    by: str
    cleared: bool
    facts: dict[str, Any]


def retire(store: Store, connection: sa.Connection, device: str, by: str, now: float) -> str | None:
    """Takes a device out of the list.

    Returns:
        The id under which its history stays; None: there is no such device.
    """
    try:
        one = devices.get(connection, device)
    except InputError:
        return None
    day = time.strftime("%Y%m%d", time.gmtime(now))
    archive = f"{device[:_NAME_CHARS]}.retired.{day}-{secrets.token_hex(2)}"
    _note(store, connection, archive, one, "retired", by, now)
    rollouts.look_at_those_of(connection, device, now)
    _move_history(connection, device, archive)
    connection.execute(DEVICE.delete().where(DEVICE.c.id == device))
    connection.execute(TRAIT.delete().where(TRAIT.c.device == device))
    return archive


def rename(
    store: Store, connection: sa.Connection, device: str, name: str, by: str, now: float
) -> None:
    """Gives a device another name: its history goes with it, and its desired state is sent anew.

    Raises:
        InputError: ``no-such-device``.
        RefusedError: ``name-taken``.
    """
    one = devices.get(connection, device)
    if connection.scalar(sa.select(DEVICE.c.id).where(DEVICE.c.id == name)) is not None:
        raise RefusedError("name-taken", f"{name} is a device already: choose another name")
    rollouts.look_at_those_of(connection, device, now)
    _note(store, connection, name, one, "renamed", by, now)
    _move_history(connection, device, name)
    connection.execute(TRAIT.update().where(TRAIT.c.device == device).values(device=name))
    connection.execute(
        DEVICE.update()
        .where(DEVICE.c.id == device)
        .values(
            id=name,
            enrolled_at=now,
            revoked_at=None,
            # Another connection under another name: nothing of it was heard yet.
            state="unknown",
            session=-1,
            boot="",
            state_at=None,
            recent=None,
            clone=None,
            sent_revision=0,
            # A rollout knows it under the old name; it takes it in again under the new one.
            rollout=None,
            version=DEVICE.c.version + 1,
            **devices.CHANGED,
        )
    )


def _note(
    store: Store,
    connection: sa.Connection,
    identifier: str,
    one: devices.Device,
    why: Why,
    by: str,
    now: float,
) -> None:
    facts = {
        "board": one.board,
        "labels": one.labels,
        "groups": one.groups,
        "enrolled_at": one.enrolled_at,
        "seen_at": one.seen_at,
        "reported": one.reported,
    }
    values = {"device": one.id, "why": why, "at": now, "by": by[:128], "facts": dump(facts)}
    insert = store.insert(DEPARTURE).values(id=identifier, cleared=False, **values)
    connection.execute(
        insert.on_conflict_do_update(index_elements=["id"], set_=values | {"cleared": False})
    )


def _move_history(connection: sa.Connection, device: str, identifier: str) -> None:
    for table in _HISTORY:
        connection.execute(table.update().where(table.c.device == device).values(device=identifier))


def uncleared(connection: sa.Connection, device: str | None = None) -> list[str]:
    """Names (or one name) of which the broker may still retain documents of who left."""
    query = sa.select(DEPARTURE.c.device).distinct().where(DEPARTURE.c.cleared.is_(False))
    if device is not None:
        query = query.where(DEPARTURE.c.device == device)
    return list(connection.scalars(query.order_by(DEPARTURE.c.device)))


def note_cleared(connection: sa.Connection, device: str) -> None:
    """Records that the broker retains nothing of who had a name."""
    connection.execute(DEPARTURE.update().where(DEPARTURE.c.device == device).values(cleared=True))


def page(connection: sa.Connection, after: str, limit: int) -> tuple[list[Departure], str | None]:
    """Who left, by id, at most `limit`; and the id to go on after."""
    rows = connection.execute(
        sa.select(DEPARTURE).where(DEPARTURE.c.id > after).order_by(DEPARTURE.c.id).limit(limit + 1)
    ).all()
    found = [_departure(row) for row in rows[:limit]]
    return found, found[-1].id if len(rows) > limit else None


def check_known(connection: sa.Connection, device: str) -> None:
    """Whether there is a device, or the history of one that left.

    Raises:
        InputError: ``no-such-device``.
    """
    for column in (DEVICE.c.id, DEPARTURE.c.id):
        if connection.scalar(sa.select(column).where(column == device)) is not None:
            return
    raise InputError("no-such-device", f"no device is called {device[:64]!r}")


def _departure(row: Any) -> Departure:
    return Departure(
        row.id, row.device, row.why, row.at, row.by, row.cleared, load(row.facts, dict[str, Any])
    )
