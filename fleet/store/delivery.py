"""Statements on what arrived of devices' messages, how much they store, and what was dropped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from contracts.messages import Acknowledged
from fleet.store import Store
from fleet.store.documents import dump, load
from fleet.store.marks import Mark
from fleet.store.schema import DEVICE, LOSS, MARK, USAGE

DAY_S: Final = 24 * 3600
BOOTS: Final = 32
"""Boots of one device and kind of which is known how far they are there, the newest."""

MAX_COUNT: Final = 2**53
"""Where a count stops, whatever a device tells."""

_CHUNK: Final = 300
_KEYS: Final = (MARK.c.device, MARK.c.kind, MARK.c.boot)


class Stream(NamedTuple):
    """What is numbered apart: one kind of message of one boot of one device."""

    device: str
    kind: Acknowledged
    boot: str


class Spent(msgspec.Struct):
    """What a device stored; see :class:`fleet.ingest.quota.Quota`."""

    messages: int = 0
    bytes: int = 0
    refused: int = 0


def day_of(now: float) -> int:
    """The day that counts, since the epoch, by the controller's clock."""
    return int(now // DAY_S)


# Marks ----------------------------------------------------------------------------------------


def marks(store: Store, connection: sa.Connection, wanted: Iterable[Stream]) -> dict[Stream, Mark]:
    """The marks of streams, locked; those that are not known are missing."""
    found: dict[Stream, Mark] = {}
    # In one order everywhere, so that two processes never wait for one another in a circle.
    ordered = sorted(wanted)
    for start in range(0, len(ordered), _CHUNK):
        chunk = sa.tuple_(*_KEYS).in_(ordered[start : start + _CHUNK])
        query = sa.select(MARK).where(chunk).order_by(*_KEYS)
        for row in connection.execute(store.lock_row(query)):
            found[Stream(row.device, row.kind, row.boot)] = _mark(row)
    return found


def marks_of_boots(
    connection: sa.Connection, boots: Iterable[tuple[str, str]]
) -> dict[Stream, Mark]:
    """The marks of all kinds of some ``(device, boot)``."""
    found: dict[Stream, Mark] = {}
    ordered = sorted(boots)
    for start in range(0, len(ordered), _CHUNK):
        chunk = sa.tuple_(MARK.c.device, MARK.c.boot).in_(ordered[start : start + _CHUNK])
        for row in connection.execute(sa.select(MARK).where(chunk)):
            found[Stream(row.device, row.kind, row.boot)] = _mark(row)
    return found


def _mark(row: Any) -> Mark:
    ahead = load(row.ahead, list[tuple[int, int]]) if row.ahead != "[]" else []
    return Mark(row.upto, tuple(ahead))


def save_marks(
    store: Store,
    connection: sa.Connection,
    changed: Mapping[Stream, Mark],
    new: Sequence[Stream],
    now: float,
) -> None:
    """Stores marks; of a device that makes up boots, the oldest give way.

    Args:
        store: the database.
        connection: of the transaction.
        changed: all marks to store.
        new: those among them that were not known.
        now: seconds since the epoch.
    """
    if not changed:
        return
    insert = store.insert(MARK)
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=[column.name for column in _KEYS],
            set_={name: insert.excluded[name] for name in ("upto", "ahead", "at")},
        ),
        [
            {**stream._asdict(), "upto": mark.upto, "ahead": dump(mark.ahead), "at": now}
            for stream, mark in sorted(changed.items())
        ],
    )
    for device, kind in sorted({(one.device, one.kind) for one in new}):
        mine = (MARK.c.device == device, MARK.c.kind == kind)
        oldest = (
            sa.select(MARK.c.boot)
            .where(*mine)
            .order_by(MARK.c.at.desc(), MARK.c.boot)
            .offset(BOOTS)
            .limit(1000)
        )
        connection.execute(MARK.delete().where(*mine, MARK.c.boot.in_(oldest.scalar_subquery())))


# What devices store ---------------------------------------------------------------------------


def add_usage(
    store: Store, connection: sa.Connection, day: int, spent: Mapping[str, Spent]
) -> dict[str, Spent]:
    """Adds to what devices stored on a day.

    Returns:
        The sums, with what other processes added.
    """
    if not spent:
        return {}
    insert = store.insert(USAGE)
    columns = ("messages", "bytes", "refused")
    rows = connection.execute(
        insert.on_conflict_do_update(
            index_elements=["device", "day"],
            set_={name: USAGE.c[name] + insert.excluded[name] for name in columns},
        ).returning(USAGE),
        [
            {"device": device, "day": day, **msgspec.to_builtins(one)}
            for device, one in sorted(spent.items())
        ],
    )
    return {row.device: Spent(row.messages, row.bytes, row.refused) for row in rows}


def usage(connection: sa.Connection, day: int, devices: Iterable[str]) -> dict[str, Spent]:
    """What devices stored on a day."""
    wanted, found = sorted(devices), {}
    for start in range(0, len(wanted), _CHUNK):
        chunk = USAGE.c.device.in_(wanted[start : start + _CHUNK])
        for row in connection.execute(sa.select(USAGE).where(USAGE.c.day == day, chunk)):
            found[row.device] = Spent(row.messages, row.bytes, row.refused)
    return found


def over_quota(connection: sa.Connection, since_day: int, limit: int) -> list[tuple[str, int]]:
    """Devices of which messages were refused for their quota, and how many, most first."""
    total = sa.func.sum(USAGE.c.refused)
    rows = connection.execute(
        sa.select(USAGE.c.device, total)
        .where(USAGE.c.day >= since_day, USAGE.c.refused > 0)
        .group_by(USAGE.c.device)
        .order_by(total.desc(), USAGE.c.device)
        .limit(limit)
    )
    return [(str(device), int(count)) for device, count in rows]


# What was dropped -----------------------------------------------------------------------------


def add_losses(
    store: Store, connection: sa.Connection, losses: Mapping[tuple[str, str], int], now: float
) -> dict[str, dict[str, int]]:
    """Adds to what was dropped of devices' messages, by ``(device, place)``.

    Returns:
        What was dropped of devices of which nothing had been dropped on this day, by place.
    """
    if not losses:
        return {}
    day = day_of(now)
    devices = sorted({device for device, _ in losses})
    known: set[str] = set()
    enrolled: set[str] = set()
    for start in range(0, len(devices), _CHUNK):
        some = devices[start : start + _CHUNK]
        known |= set(
            connection.scalars(
                sa.select(LOSS.c.device).where(LOSS.c.day == day, LOSS.c.device.in_(some))
            )
        )
        enrolled |= set(
            connection.scalars(
                sa.select(DEVICE.c.id).where(DEVICE.c.id.in_(some), DEVICE.c.revoked_at.is_(None))
            )
        )
    rows = [
        {"device": device, "day": day, "place": place, "count": min(count, MAX_COUNT), "at": now}
        for (device, place), count in sorted(losses.items())
        if device in enrolled
    ]
    if rows:
        insert = store.insert(LOSS)
        total = LOSS.c.count + insert.excluded.count
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=["device", "day", "place"],
                set_={
                    "count": sa.case((total > MAX_COUNT, MAX_COUNT), else_=total),
                    "at": insert.excluded.at,
                },
            ),
            rows,
        )
    first: dict[str, dict[str, int]] = {}
    for (device, place), count in losses.items():
        if device in enrolled - known:
            first.setdefault(device, {})[place] = count
    return first


def losses(
    connection: sa.Connection, since_day: int, devices: Iterable[str] | None = None
) -> dict[str, dict[str, int]]:
    """What was dropped of devices' messages since a day, by device and place.

    Args:
        connection: to the database.
        since_day: the first day that counts.
        devices: of which; None: of all of which something was.
    """
    query = (
        sa.select(LOSS.c.device, LOSS.c.place, sa.func.sum(LOSS.c.count))
        .where(LOSS.c.day >= since_day)
        .group_by(LOSS.c.device, LOSS.c.place)
        .order_by(LOSS.c.device, LOSS.c.place)
    )
    if devices is not None:
        query = query.where(LOSS.c.device.in_(sorted(devices)))
    found: dict[str, dict[str, int]] = {}
    for device, place, count in connection.execute(query):
        found.setdefault(device, {})[place] = int(count)
    return found


def loss_totals(connection: sa.Connection, since_day: int) -> tuple[int, dict[str, int]]:
    """Of how many devices something was dropped since a day, and how much by place."""
    rows = connection.execute(
        sa.select(LOSS.c.place, sa.func.sum(LOSS.c.count))
        .where(LOSS.c.day >= since_day)
        .group_by(LOSS.c.place)
        .order_by(LOSS.c.place)
    )
    totals = {str(place): int(count) for place, count in rows}
    devices = connection.scalar(
        sa.select(sa.func.count(sa.distinct(LOSS.c.device))).where(LOSS.c.day >= since_day)
    )
    return int(devices or 0), totals


def expire(connection: sa.Connection, seen_s: float, event_s: float, now: float) -> int:
    """Deletes what is past its time; how many rows."""
    done = 0
    for statement in (
        MARK.delete().where(MARK.c.at < now - seen_s),
        USAGE.delete().where(USAGE.c.day < day_of(now - event_s)),
        LOSS.delete().where(LOSS.c.at < now - event_s),
    ):
        done += connection.execute(statement).rowcount
    return done
