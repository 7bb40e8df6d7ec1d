"""Rows of roll-ups: figures are added to those that are there, under locks where several write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import sqlalchemy as sa

from contracts.judged import Judged
from fleet.figures import Figures, read
from fleet.store import Store
from fleet.store.documents import dump
from fleet.store.schema import ROLLUP

_CHUNK: Final = 150
_MAX_COLUMN: Final = 2**40
"""Where a row's columns stop: the database itself adds up those of millions of rows."""

Key = tuple[int, str, str, str, int]
"""Resolution in seconds, device, slot, sha256 of the manifest, start in seconds."""

# `%b`: arrays in the binary format, in which no text has to be escaped.
_ENSURE: Final = (
    "INSERT INTO telemetry_rollup "
    "(resolution, device, slot, bundle, start, content) "
    "SELECT k.resolution, k.device, k.slot, k.bundle, k.start, %s "
    "FROM unnest(%b::int[], %b::text[], %b::text[], %b::text[], %b::bigint[]) "
    "AS k(resolution, device, slot, bundle, start) ON CONFLICT DO NOTHING"
)
_LOCK: Final = (
    "SELECT r.resolution, r.device, r.slot, r.bundle, r.start, r.content "
    "FROM telemetry_rollup AS r "
    "JOIN unnest(%b::int[], %b::text[], %b::text[], %b::text[], %b::bigint[]) "
    "AS k(resolution, device, slot, bundle, start) USING (resolution, device, slot, bundle, start) "
    "ORDER BY r.resolution, r.device, r.slot, r.bundle, r.start FOR UPDATE OF r"
)
_PUT: Final = (
    "UPDATE telemetry_rollup AS r "
    "SET requests = k.requests, errors = k.errors, judged_right = k.judged_right, "
    "judged_wrong = k.judged_wrong, sampled_right = k.sampled_right, "
    "sampled_wrong = k.sampled_wrong, content = k.content "
    "FROM unnest(%b::int[], %b::text[], %b::text[], %b::text[], %b::bigint[], %b::bigint[], "
    "%b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::text[]) "
    "AS k(resolution, device, slot, bundle, start, requests, errors, judged_right, judged_wrong, "
    "sampled_right, sampled_wrong, content) "
    "WHERE r.resolution = k.resolution AND r.device = k.device AND r.slot = k.slot "
    "AND r.bundle = k.bundle AND r.start = k.start"
)


_VALUES: Final = (
    "requests", "errors", "judged_right", "judged_wrong", "sampled_right", "sampled_wrong",
    "content",
)  # fmt: skip


def add(store: Store, connection: sa.Connection, sums: dict[Key, Figures]) -> None:
    """Adds figures to the rows of their keys; `sums` are then what the rows hold."""
    # In one order everywhere, so that two processes never wait for one another in a circle.
    keys = sorted(sums)
    if store.is_sqlite:
        for start in range(0, len(keys), _CHUNK):
            _add_chunk(store, connection, sums, keys[start : start + _CHUNK])
    elif keys:
        _add_arrays(connection, sums, keys)


def _add_chunk(
    store: Store, connection: sa.Connection, sums: dict[Key, Figures], chunk: list[Key]
) -> None:
    columns = (ROLLUP.c.resolution, ROLLUP.c.device, ROLLUP.c.slot, ROLLUP.c.bundle, ROLLUP.c.start)
    query = sa.select(*columns, ROLLUP.c.content).where(sa.tuple_(*columns).in_(chunk))
    _add_stored(sums, connection.execute(query))
    insert = store.insert(ROLLUP)
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=[c.name for c in columns],
            set_={name: insert.excluded[name] for name in _VALUES},
        ),
        [_row(key, sums[key]) for key in chunk],
    )


def _add_arrays(connection: sa.Connection, sums: dict[Key, Figures], keys: list[Key]) -> None:
    """On PostgreSQL: three statements over arrays, however many rows."""
    named = [list(column) for column in zip(*keys, strict=True)]
    # A row must exist to be locked: two processes may meet at a new minute.
    connection.exec_driver_sql(_ENSURE, (dump(Figures()), *named))
    _add_stored(sums, connection.exec_driver_sql(_LOCK, tuple(named)))
    rows = [_row(key, sums[key]) for key in keys]
    values = [[row[name] for row in rows] for name in _VALUES]
    connection.exec_driver_sql(_PUT, (*named, *values))


def _add_stored(sums: dict[Key, Figures], rows: Iterable[Any]) -> None:
    for row in rows:
        key = (row.resolution, row.device, row.slot, row.bundle, row.start)
        sums[key].merge(read(row.content))


def _row(key: Key, figures: Figures) -> dict[str, object]:
    resolution, device, slot, bundle, start = key
    judged = figures.judged or Judged()
    return {
        "resolution": resolution,
        "device": device,
        "slot": slot,
        "bundle": bundle,
        "start": start,
        "requests": min(figures.requests, _MAX_COLUMN),
        "errors": min(figures.errors, _MAX_COLUMN),
        "judged_right": min(judged.right, _MAX_COLUMN),
        "judged_wrong": min(judged.wrong, _MAX_COLUMN),
        "sampled_right": min(judged.sampled_right, _MAX_COLUMN),
        "sampled_wrong": min(judged.sampled_wrong, _MAX_COLUMN),
        "content": dump(figures),
    }
