"""What people said of answers: by version, by device, by the value of a label.

The database adds the counts up: roll-ups with feedback are few, and an index has them alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from contracts.judged import Judged
from fleet.figures import MAX_SUM, read
from fleet.store.database import Store
from fleet.store.schema import DEVICE, FIELD_POOL, JUDGED, ROLLUP, TRAIT
from fleet.store.telemetry import FLEET, HOUR

BEFORE_S: Final = 30 * 24 * 3600.0
"""How far back a version is judged that another one replaces."""

MAX_ROWS: Final = 20_000
"""Roll-ups that are read for their labels, the newest first."""

_COUNTS: Final = ("judged_right", "judged_wrong", "sampled_right", "sampled_wrong")


def _sums() -> list[sa.ColumnElement[Any]]:
    # PostgreSQL sums whole numbers of 64 bits to a numeric.
    return [sa.cast(sa.func.sum(ROLLUP.c[name]), sa.BigInteger).label(name) for name in _COUNTS]


def _judged(row: sa.Row[Any]) -> Judged:
    counts = [min(int(getattr(row, name)), MAX_SUM) for name in _COUNTS]
    return Judged(counts[0], counts[1], counts[2], counts[3])


def _of_devices(since: float) -> sa.ColumnElement[bool]:
    """By the hour, as minutes do not stay for long."""
    return sa.and_(
        JUDGED,
        ROLLUP.c.resolution == HOUR,
        ROLLUP.c.device != FLEET,
        ROLLUP.c.start >= int(since // HOUR) * HOUR,
        ROLLUP.c.bundle != "",
    )


def by_device(
    connection: sa.Connection, slot: str, versions: Sequence[str], since: float
) -> dict[str, Judged]:
    """Counts of versions (sha256 of the manifest) together, without labels."""
    query = (
        sa.select(ROLLUP.c.device, *_sums())
        .where(_of_devices(since), ROLLUP.c.slot == slot, ROLLUP.c.bundle.in_(versions))
        .group_by(ROLLUP.c.device)
    )
    return {row.device: _judged(row) for row in connection.execute(query)}


def by_version(
    connection: sa.Connection, since: float, devices: sa.ColumnElement[bool] | None = None
) -> dict[tuple[str, str], dict[str, Judged]]:
    """Counts without labels by slot and bundle, then by device: of all, or of a condition's."""
    query = sa.select(ROLLUP.c.slot, ROLLUP.c.bundle, ROLLUP.c.device, *_sums()).where(
        _of_devices(since)
    )
    if devices is not None:
        query = query.where(ROLLUP.c.device.in_(sa.select(DEVICE.c.id).where(devices)))
    query = query.group_by(ROLLUP.c.slot, ROLLUP.c.bundle, ROLLUP.c.device)
    found: dict[tuple[str, str], dict[str, Judged]] = {}
    for row in connection.execute(query):
        found.setdefault((row.slot, row.bundle), {})[row.device] = _judged(row)
    return found


def labels(
    connection: sa.Connection,
    slot: str,
    bundle: str,
    since: float,
    devices: sa.ColumnElement[bool] | None = None,
) -> Judged:
    """Counts of one version with their labels, from its newest :data:`MAX_ROWS` roll-ups."""
    query = (
        sa.select(ROLLUP.c.content)
        .where(_of_devices(since), ROLLUP.c.slot == slot, ROLLUP.c.bundle == bundle)
        .order_by(ROLLUP.c.start.desc())
        .limit(MAX_ROWS)
    )
    if devices is not None:
        query = query.where(ROLLUP.c.device.in_(sa.select(DEVICE.c.id).where(devices)))
    found = Judged()
    for row in connection.execute(query):
        judged = read(row.content).judged
        if judged is not None:
            found.merge(judged, MAX_SUM)
    return found


def labels_by_device(
    connection: sa.Connection, slot: str, bundle: str, first: float, end: float
) -> dict[str, Judged]:
    """Counts of one version with their labels by device, of the hours from `first` to `end`."""
    query = sa.select(ROLLUP.c.device, ROLLUP.c.content).where(
        _of_devices(first),
        ROLLUP.c.start < int(end),
        ROLLUP.c.slot == slot,
        ROLLUP.c.bundle == bundle,
    )
    found: dict[str, Judged] = {}
    for row in connection.execute(query.execution_options(yield_per=1000)):
        judged = read(row.content).judged
        if judged is not None:
            found.setdefault(row.device, Judged()).merge(judged, MAX_SUM)
    return found


def pool(connection: sa.Connection, slot: str, bundle: str, week: str) -> str | None:
    """What was told of a week, as it was told; None: nobody has asked yet."""
    query = sa.select(FIELD_POOL.c.content).where(
        FIELD_POOL.c.slot == slot, FIELD_POOL.c.bundle == bundle, FIELD_POOL.c.week == week
    )
    found = connection.scalar(query)
    return None if found is None else str(found)


def add_pool(
    store: Store,
    connection: sa.Connection,
    slot: str,
    bundle: str,
    week: str,
    content: str,
    now: float,
) -> None:
    """Keeps what is told of a week; what is there stays."""
    values = {"slot": slot, "bundle": bundle, "week": week, "content": content, "at": now}
    connection.execute(store.insert(FIELD_POOL).values(**values).on_conflict_do_nothing())


def values(connection: sa.Connection, key: str) -> dict[str, list[str]]:
    """The devices of each value of a label that operators gave; ``own:key`` of a device's own."""
    query = sa.select(TRAIT.c.device, TRAIT.c.value).where(TRAIT.c.key == key)
    found: dict[str, list[str]] = {}
    for row in connection.execute(query):
        found.setdefault(row.value, []).append(row.device)
    return found


def refused(connection: sa.Connection, since: float) -> dict[str, int]:
    """Feedback that did not count since a moment, by code."""
    query = sa.select(ROLLUP.c.content).where(
        sa.text("device = ''"),
        ROLLUP.c.start >= int(since),
        ROLLUP.c.bundle == "",
        ROLLUP.c.content.contains('"refused"'),
    )
    sums = Judged()
    for row in connection.execute(query):
        judged = read(row.content).judged
        if judged is not None:
            sums.merge(judged, MAX_SUM)
    return sums.refused
