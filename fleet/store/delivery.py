"""Statements on what arrived of devices' messages, how much they store, and what was dropped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from contracts import drops
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

    def add(self, size: int) -> None:
        """One more message, of so many bytes."""
        self.messages += 1
        self.bytes += size


RECENT_DAYS: Final = 1
"""Days before today whose losses are shown and alerted."""


class Books(msgspec.Struct, frozen=True):
    """What is known of a device's data.

    Attributes:
        dropped: since yesterday (UTC), by place.
        today: what it stored.
    """

    dropped: dict[str, int]
    today: Spent


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
    columns = ("messages", "bytes")
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
    return {row.device: Spent(row.messages, row.bytes) for row in rows}


def usage(connection: sa.Connection, day: int, devices: Iterable[str]) -> dict[str, Spent]:
    """What devices stored on a day."""
    wanted, found = sorted(devices), {}
    for start in range(0, len(wanted), _CHUNK):
        chunk = USAGE.c.device.in_(wanted[start : start + _CHUNK])
        for row in connection.execute(sa.select(USAGE).where(USAGE.c.day == day, chunk)):
            found[row.device] = Spent(row.messages, row.bytes)
    return found


# What was dropped -----------------------------------------------------------------------------


def add_losses(
    store: Store, connection: sa.Connection, losses: Mapping[tuple[str, str], int], now: float
) -> dict[str, dict[str, int]]:
    """Adds to what was dropped of devices' messages, by ``(device, place)``.

    Returns:
        Those of them that are the first of the day, by device and place.
    """
    if not losses:
        return {}
    day = day_of(now)
    devices = sorted({device for device, _ in losses})
    known: set[tuple[str, str]] = set()
    enrolled: set[str] = set()
    for start in range(0, len(devices), _CHUNK):
        some = devices[start : start + _CHUNK]
        there = sa.select(LOSS.c.device, LOSS.c.place)
        rows = connection.execute(there.where(LOSS.c.day == day, LOSS.c.device.in_(some)))
        known |= {(row.device, row.place) for row in rows}
        enrolled |= set(
            connection.scalars(
                sa.select(DEVICE.c.id).where(DEVICE.c.id.in_(some), DEVICE.c.revoked_at.is_(None))
            )
        )
    added = [
        {"device": device, "day": day, "place": place, "count": min(count, MAX_COUNT), "at": now}
        for (device, place), count in sorted(losses.items())
        if device in enrolled
    ]
    if added:
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
            added,
        )
    first: dict[str, dict[str, int]] = {}
    for (device, place), count in losses.items():
        if device in enrolled and (device, place) not in known:
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


class Totals(msgspec.Struct, frozen=True):
    """What was dropped of all devices' data.

    Attributes:
        devices: of how many.
        one: which, where it is one alone.
        places: how much, by place.
    """

    devices: int
    one: str | None
    places: dict[str, int]


def loss_totals(connection: sa.Connection, since_day: int) -> Totals:
    """What was dropped since a day."""
    recent = LOSS.c.day >= since_day
    devices = sa.select(sa.func.count(sa.distinct(LOSS.c.device))).where(recent).scalar_subquery()
    rows = connection.execute(
        sa.select(
            LOSS.c.place,
            sa.func.sum(LOSS.c.count).label("total"),
            sa.func.min(LOSS.c.device).label("one"),
            devices.label("devices"),
        )
        .where(recent)
        .group_by(LOSS.c.place)
        .order_by(LOSS.c.place)
    ).all()
    count = int(rows[0].devices) if rows else 0
    return Totals(
        count, rows[0].one if count == 1 else None, {row.place: int(row.total) for row in rows}
    )


def over_quota(connection: sa.Connection, day: int, limit: int) -> dict[str, int]:
    """Devices over their quota of a day, and how many messages were refused, most first."""
    rows = connection.execute(
        sa.select(LOSS.c.device, LOSS.c.count)
        .where(LOSS.c.day == day, LOSS.c.place == drops.OVER)
        .order_by(LOSS.c.count.desc(), LOSS.c.device)
        .limit(limit)
    )
    return {str(device): int(count) for device, count in rows}


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


def complaints(dropped: Mapping[str, int]) -> list[str]:
    """What a person should know of a device's data, in sentences."""
    found = [f"Data {describe(dropped)}."] if dropped else []
    if drops.OVER in dropped:
        found.append(
            "It has stored all that it may on a day: raise `quota` in fleet.yaml, or find out why "
            "it sends so much."
        )
    return found


def describe(dropped: Mapping[str, int]) -> str:
    """What was dropped since yesterday, in words, most first."""
    parts = sorted(dropped.items(), key=lambda pair: (-pair[1], pair[0]))
    words = [f"{count:,} {drops.WORDS.get(place, place)}" for place, count in parts]
    return "dropped since yesterday: " + "; ".join(words)


def books(connection: sa.Connection, devices: Sequence[str], now: float) -> dict[str, Books]:
    """What is known of devices' data; of each that is asked for."""
    today = day_of(now)
    dropped = losses(connection, today - RECENT_DAYS, devices)
    stored = usage(connection, today, devices)
    return {one: Books(dropped.get(one, {}), stored.get(one, Spent())) for one in devices}
