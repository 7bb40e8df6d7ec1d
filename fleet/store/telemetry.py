"""Telemetry: raw batches, roll-ups of one minute and one hour.

Ingest only appends raw batches. :func:`roll_up` later takes batches that are not yet rolled
up, adds them to both resolutions, and marks them, in one transaction: each counts once,
however often the process dies. A late or repeated batch changes only its own minute. A batch
that cannot be added is marked without being counted: it must not stop the others.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import sqlalchemy as sa
import structlog

from contracts import codec, drops, limits
from contracts.errors import UnavailableError
from contracts.messages import Sample, Telemetry
from fleet.figures import Figures, read
from fleet.store import Store, delivery, rollups
from fleet.store.rollups import Key
from fleet.store.schema import DEVICE, ROLLUP, TELEMETRY

_LOG: Final = structlog.get_logger("telemetry")
MINUTE: Final = 60
HOUR: Final = 3600
_FUTURE_S: Final = 300.0
_PAST_S: Final = 30 * 24 * 3600.0
_CHUNK: Final = 300
_MARK_ARRAY: Final = (
    "UPDATE telemetry SET rolled = true WHERE id = ANY(%b::bigint[]) RETURNING id, payload"
)
_LIMIT: Final = 5000
_SQLITE_LIMIT: Final = 4000
_MAX_BYTES: Final = 32 * limits.MIB
"""Bytes of payloads in one transaction of a roll-up: bounds its memory."""

FLEET: Final = ""
"""In the place of a device's name: all of them together."""


class Point(msgspec.Struct, frozen=True):
    """Figures of one device and slot in one span of time."""

    device: str
    slot: str
    bundle: str
    start: int
    resolution: int
    figures: Figures


def _time_of(sample: Sample, received: float) -> float:
    """The sample's time, or when it came, where the device's clock cannot be right."""
    fine = received - _PAST_S <= sample.at <= received + _FUTURE_S
    return sample.at if fine else received


class Counters:
    """What roll-ups of this process did, for metrics."""

    def __init__(self) -> None:
        self.skipped = 0


counters: Final = Counters()


OnDropped = Callable[[dict[str, dict[str, int]]], None]
"""Told what devices say they dropped, by place: of those that had dropped nothing on that day."""


def roll_up(
    store: Store, limit: int | None = None, on_dropped: OnDropped = lambda first: None
) -> int:
    """Adds raw batches to the roll-ups, and what devices dropped to what is known of it.

    Args:
        store: the database.
        limit: batches in one transaction; fewer when they are large. None: as many as is good:
            on SQLite ingest waits meanwhile.
        on_dropped: called after the commit.

    Returns:
        How many batches were added or, where one cannot be, skipped; 0 when none is left.

    Raises:
        UnavailableError: the database cannot be used now; the batches are still to be added.
    """
    query = _unrolled().limit(limit or (_SQLITE_LIMIT if store.is_sqlite else _LIMIT))
    if store.is_sqlite:
        # The common case, nothing to do, must not take the one write lock.
        with store.read() as connection:
            if connection.execute(query.limit(1)).first() is None:
                return 0
    ids: list[int] = []
    try:
        return _add(store, query, ids, on_dropped)
    except UnavailableError:
        raise
    except Exception as error:
        if not ids:
            raise
        return _add_apart(store, ids, error, on_dropped)


_Unrolled = sa.Select[tuple[int, str, float, int | None]]


def _unrolled() -> _Unrolled:
    return (
        sa.select(
            TELEMETRY.c.id,
            TELEMETRY.c.device,
            TELEMETRY.c.received_at,
            sa.func.length(TELEMETRY.c.payload).label("size"),
        )
        .where(TELEMETRY.c.rolled == sa.false())
        .order_by(TELEMETRY.c.id)
    )


def _add(store: Store, query: _Unrolled, ids: list[int], on_dropped: OnDropped) -> int:
    """Adds what `query` finds, in one transaction; `ids` are the batches, also on an error."""
    with store.write() as connection:
        rows = connection.execute(
            query if store.is_sqlite else query.with_for_update(skip_locked=True)
        ).all()
        rows = rows[: _fitting([row.size or 0 for row in rows])]
        ids += [row.id for row in rows]
        sums: dict[Key, Figures] = {}
        lost: collections.Counter[tuple[str, str]] = collections.Counter()
        payloads = _take(store, connection, ids)
        for row in rows:
            payload = payloads[row.id]
            if payload is not None:
                batch = codec.decoder(Telemetry).decode(payload)
                add_batch(sums, row.device, row.received_at, batch)
                _add_drops(lost, row.device, batch)
        _add_hours(sums)
        together = _together(sums)
        rollups.add(store, connection, sums)
        # Last: these few rows are the same for all processes, who wait for one another here.
        rollups.add(store, connection, together)
        newest = max([row.received_at for row in rows], default=0.0)
        first = delivery.add_losses(store, connection, lost, newest)
    if first:
        on_dropped(first)
    return len(rows)


def _take(store: Store, connection: sa.Connection, ids: Sequence[int]) -> dict[int, bytes | None]:
    """Marks batches as rolled up; their payloads by id."""
    if not store.is_sqlite:
        if not ids:
            return {}
        rows = connection.exec_driver_sql(_MARK_ARRAY, (list(ids),))
        return {row.id: row.payload for row in rows}
    found: dict[int, bytes | None] = {}
    for start in range(0, len(ids), _CHUNK):
        chunk = TELEMETRY.c.id.in_(ids[start : start + _CHUNK])
        payloads = connection.execute(sa.select(TELEMETRY.c.id, TELEMETRY.c.payload).where(chunk))
        found |= {row.id: row.payload for row in payloads}
        connection.execute(TELEMETRY.update().where(chunk).values(rolled=True))
    return found


def _fitting(sizes: Sequence[int]) -> int:
    """How many of the first batches go into one transaction: at least one."""
    whole = 0
    for index, size in enumerate(sizes):
        whole += size
        if index and whole > _MAX_BYTES:
            return index
    return len(sizes)


def _add_apart(store: Store, ids: Sequence[int], error: Exception, on_dropped: OnDropped) -> int:
    """Adds batches that cannot be added together: half by half, down to the one that is bad.

    One device must not stop the roll-up of all, and a batch that cannot be added now cannot be
    added later: it is marked, so that it goes its way through the retention.
    """
    if len(ids) == 1:
        with store.write() as connection:
            batch = TELEMETRY.c.id == ids[0]
            device = connection.scalar(sa.select(TELEMETRY.c.device).where(batch))
            connection.execute(TELEMETRY.update().where(batch).values(rolled=True))
        counters.skipped += 1
        _LOG.error(
            "batch cannot be rolled up: skipped",
            device=device,
            batch=ids[0],
            reason=f"{type(error).__name__}: {error}"[:300],
            skipped=counters.skipped,
        )
        return 1
    done = 0
    middle = len(ids) // 2
    for half in (ids[:middle], ids[middle:]):
        query = _unrolled().where(TELEMETRY.c.id.between(half[0], half[-1]))
        try:
            done += _add(store, query, [], on_dropped)
        except UnavailableError:
            raise
        except Exception as reason:  # noqa: BLE001
            done += _add_apart(store, half, reason, on_dropped)
    return done


def _add_drops(lost: collections.Counter[tuple[str, str]], device: str, batch: Telemetry) -> None:
    """Adds what one batch tells that its device dropped."""
    for place, count in batch.drops.items():
        lost[device, place if place in drops.ON_DEVICES else drops.OTHER] += count
    if batch.dropped:  # as agents before `drops` tell it
        lost[device, drops.FULL] += batch.dropped


def add_batch(sums: dict[Key, Figures], device: str, received: float, batch: Telemetry) -> None:
    """Adds the samples of one batch, which ingest has checked, to their minutes."""
    for sample in batch.samples:
        at = _time_of(sample, received)
        bundle = sample.bundle.manifest_sha256 if sample.bundle else ""
        key = (MINUTE, device, sample.slot, bundle, int(at // MINUTE) * MINUTE)
        if (known := sums.get(key)) is None:
            known = sums[key] = Figures()
        known.add_sample(sample, at)


def _add_hours(sums: dict[Key, Figures]) -> None:
    """Adds minutes to their hours: once for each minute, not for each sample."""
    hours: dict[Key, Figures] = {}
    for (_, device, slot, bundle, start), figures in sums.items():
        key = (HOUR, device, slot, bundle, start // HOUR * HOUR)
        if (known := hours.get(key)) is None:
            known = hours[key] = Figures()
        known.merge(figures)
    sums |= hours


def _together(sums: dict[Key, Figures]) -> dict[Key, Figures]:
    """The figures of all devices by the minute: what dashboards ask for again and again."""
    found: dict[Key, Figures] = {}
    for (resolution, _, slot, bundle, start), figures in sums.items():
        if resolution == MINUTE:
            key = (resolution, FLEET, slot, bundle, start)
            found.setdefault(key, Figures()).merge(figures)
    for figures in found.values():
        figures.gauges, figures.peaks = {}, {}
    return found


def points(
    connection: sa.Connection,
    device: str,
    resolution: int,
    since: float,
    until: float,
    slot: str | None = None,
) -> list[Point]:
    """Roll-ups of one device, in the order of time."""
    query = (
        sa.select(ROLLUP)
        .where(
            ROLLUP.c.resolution == resolution,
            ROLLUP.c.device == device,
            ROLLUP.c.start >= int(since),
            ROLLUP.c.start < until,
        )
        .order_by(ROLLUP.c.start, ROLLUP.c.slot, ROLLUP.c.bundle)
    )
    if slot is not None:
        query = query.where(ROLLUP.c.slot == slot)
    return [
        Point(r.device, r.slot, r.bundle, r.start, r.resolution, read(r.content))
        for r in connection.execute(query)
    ]


def of_fleet(resolution: int) -> sa.ColumnElement[bool]:
    """The condition on roll-ups that they are of all devices together."""
    return sa.and_(sa.text("device = ''"), ROLLUP.c.resolution == resolution)


def fleet_totals(
    connection: sa.Connection, since: float, devices: sa.ColumnElement[bool] | None = None
) -> dict[tuple[str, str], Figures]:
    """Figures since a moment by slot and bundle: of all devices, or of those of a condition."""
    query = sa.select(ROLLUP.c.slot, ROLLUP.c.bundle, ROLLUP.c.content).where(
        ROLLUP.c.start >= int(since)
    )
    if devices is None:
        query = query.where(of_fleet(MINUTE))
    else:
        chosen = sa.select(DEVICE.c.id).where(devices)
        query = query.where(ROLLUP.c.resolution == MINUTE, ROLLUP.c.device.in_(chosen))
    found: dict[tuple[str, str], Figures] = {}
    for row in connection.execute(query):
        found.setdefault((row.slot, row.bundle), Figures()).merge(read(row.content))
    return found


def of_bundle(
    connection: sa.Connection, slot: str, bundle: str, since: dict[str, float]
) -> dict[str, Figures]:
    """What devices measured with one bundle, each since a moment of its own.

    The minute of the moment itself counts whole; it holds older figures only where a device
    runs the bundle for a second time within that minute.
    """
    if not since:
        return {}
    query = sa.select(ROLLUP.c.device, ROLLUP.c.start, ROLLUP.c.content).where(
        ROLLUP.c.resolution == MINUTE,
        ROLLUP.c.slot == slot,
        ROLLUP.c.bundle == bundle,
        ROLLUP.c.start >= int(min(since.values())) - MINUTE,
    )
    found: dict[str, Figures] = {}
    for row in connection.execute(query):
        moment = since.get(row.device)
        if moment is not None and row.start + MINUTE > moment:
            found.setdefault(row.device, Figures()).merge(read(row.content))
    # The process's memory stands beside the models, not in one.
    query = sa.select(ROLLUP.c.device, ROLLUP.c.start, ROLLUP.c.content).where(
        ROLLUP.c.resolution == MINUTE,
        ROLLUP.c.slot == "device",
        ROLLUP.c.bundle == "",
        ROLLUP.c.start >= int(min(since.values())),
    )
    for row in connection.execute(query):
        moment = since.get(row.device)
        if moment is not None and row.start >= moment:
            figures = read(row.content)
            only = Figures(gauges=figures.gauges, peaks=figures.peaks)
            found.setdefault(row.device, Figures()).merge(only)
    return found
