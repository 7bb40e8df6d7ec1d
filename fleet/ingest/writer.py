"""Writes a batch of checked messages in one transaction. Every statement may be repeated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from contracts.clock import can_be_right
from contracts.messages import Reported, Result, Status, UpdateEvent
from fleet.ingest.decode import Batch, Message
from fleet.ingest.heard import spoken_at
from fleet.store import (
    Store,
    clones,
    desired,
    devices,
    timeline,
)
from fleet.store.documents import dump, load
from fleet.store.schema import DEVICE, RESULT, UPDATE_EVENT

_SEEN_S: Final = 10.0
_INSERT: Final = (
    "INSERT INTO telemetry (device, boot, seq, received_at, payload, rolled) "
    "VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT DO NOTHING"
)

_KNOWN_ARRAY: Final = "SELECT id FROM device WHERE id = ANY(%b::text[]) AND revoked_at IS NULL"
# `%b`: arrays in the binary format, twice as short as bytes in text.
_INSERT_ARRAYS: Final = (
    "INSERT INTO telemetry (device, boot, seq, received_at, payload) "
    "SELECT * FROM unnest(%b::text[], %b::text[], %b::bigint[], %b::float8[], %b::bytea[]) "
    "ON CONFLICT DO NOTHING"
)


class Change(msgspec.Struct, frozen=True):
    """Something that webhooks and the rollout engine want to know at once."""

    kind: str
    device: str
    detail: dict[str, Any]


class Written(NamedTuple):
    """What a batch brought.

    Attributes:
        changes: what changed.
        unknown: how many messages were of unknown or revoked devices.
        admitted: the devices whose messages were taken.
    """

    changes: list[Change]
    unknown: int
    admitted: set[str]


class Writer:
    """Writes batches.

    Args:
        store: the database.
        admit_unknown: take messages of devices that were never enrolled, and list them.
    """

    def __init__(self, store: Store, *, admit_unknown: bool = False) -> None:
        self.store = self._store = store
        self._admit_unknown = admit_unknown
        self._known: set[str] = set()
        self._seen: dict[str, float] = {}

    def write(self, batch: Sequence[Message], now: float) -> Written:
        """Commits a batch.

        Of a device that is over its quota, telemetry and results are left out, and update events
        change what is known of it without a line of its history.

        Args:
            batch: checked messages, in the order of arrival.
            now: seconds since the epoch.
        """
        changes: list[Change] = []
        telemetry: list[tuple[Any, ...]] = []
        results: list[dict[str, Any]] = []
        spoke: dict[str, float] = {}
        with self._store.write() as connection:
            admitted = self._admit(connection, {m.device for m in batch}, now)
            dropped = 0
            for message in batch:
                if message.device not in admitted:
                    dropped += 1
                    continue
                said = spoken_at(message.heard, message.at, now)
                if said is not None and not _is_goodbye(message):
                    spoke[message.device] = max(said, spoke.get(message.device, 0.0))
                match message.body:
                    case Batch() | Result() if message.over:
                        pass
                    case Batch() as body:
                        telemetry.append(
                            (message.device, body.boot, body.seq, now, message.payload)
                        )
                    case Result() as body:
                        results.append(_result_row(message.device, body, now))
                    case Status() as body:
                        changes += _write_status(connection, message, body, now)
                    case Reported() as body:
                        changes += self._write_reported(connection, message, body, said, now)
                    case UpdateEvent() as body:
                        changes += self._write_update(connection, message, body, said or now)
            self._insert_telemetry(connection, telemetry)
            if results:
                insert = self._store.insert(RESULT).on_conflict_do_nothing()
                connection.execute(insert, results)
            seen = self._write_seen(connection, spoke, now)
        # Remembered only once it is committed.
        self._known |= admitted
        self._seen |= seen
        return Written(changes, dropped, admitted)

    def _admit(self, connection: sa.Connection, devices: set[str], now: float) -> set[str]:
        """Which of the devices may speak. Revocation is looked up each time, in one query."""
        ordered = sorted(devices)
        if self._admit_unknown and (new := [d for d in ordered if d not in self._known]):
            connection.execute(
                self._store.insert(DEVICE).on_conflict_do_nothing(), [{"id": d} for d in new]
            )
        if not self._store.is_sqlite:
            # One array: a parameter for each name costs the server more than the whole insert.
            return set(connection.exec_driver_sql(_KNOWN_ARRAY, (ordered,)).scalars())
        found: set[str] = set()
        for start in range(0, len(ordered), 500):
            found |= set(
                connection.scalars(
                    sa.select(DEVICE.c.id).where(
                        DEVICE.c.id.in_(ordered[start : start + 500]),
                        DEVICE.c.revoked_at.is_(None),
                    )
                )
            )
        return found

    def _insert_telemetry(self, connection: sa.Connection, rows: list[tuple[Any, ...]]) -> None:
        if not rows:
            return
        if self._store.is_sqlite:
            # Plain tuples to the driver: compiled statements cost more than the insert itself.
            connection.exec_driver_sql(_INSERT, rows)
            return
        # One statement over arrays: one round trip, however many rows.
        columns = [list(column) for column in zip(*rows, strict=True)]
        connection.exec_driver_sql(_INSERT_ARRAYS, tuple(columns))

    def _write_reported(
        self,
        connection: sa.Connection,
        message: Message,
        body: Reported,
        said: float | None,
        now: float,
    ) -> Iterable[Change]:
        devices.report(self._store, connection, message.device, body, said)
        desired.answer(self._store, connection, message.device, body, now)
        yield Change("reported", message.device, {"desired_revision": body.desired_revision})
        event = body.last_update
        if event is not None:
            # It is told again with every report: also of an update that was long ago.
            when = event.at if can_be_right(event.at, now) else said or now
            yield from self._write_update(connection, message, event, when)

    def _write_update(
        self, connection: sa.Connection, message: Message, event: UpdateEvent, now: float
    ) -> Iterable[Change]:
        device = message.device
        text = dump(msgspec.structs.replace(event, after=None))
        if not message.over:
            inserted = connection.execute(
                self._store.insert(UPDATE_EVENT)
                .values(
                    device=device,
                    boot=event.boot,
                    seq=event.seq,
                    received_at=now,
                    rollout=event.rollout,
                    state=event.state,
                    event=text,
                )
                .on_conflict_do_nothing()
                .returning(UPDATE_EVENT.c.id)
            )
            if inserted.first() is None:
                return
        before = connection.scalar(sa.select(DEVICE.c.update).where(DEVICE.c.id == device))
        if before is not None and not _is_newer(event, load(before, UpdateEvent)):
            return
        connection.execute(
            DEVICE.update()
            .where(DEVICE.c.id == device)
            .values(update=text, update_boot=event.boot, update_seq=event.seq, **devices.CHANGED)
        )
        yield Change("update", device, {"state": event.state, "bundle": str(event.bundle)})

    def _write_seen(
        self, connection: sa.Connection, spoke: Mapping[str, float], now: float
    ) -> dict[str, float]:
        """Notes who spoke last when, at most every few seconds for each device.

        What was said long ago takes nothing back; a moment to come is of a clock that was set.
        """
        due = {
            device: said
            for device, said in sorted(spoke.items())
            if abs(said - self._seen.get(device, 0.0)) >= _SEEN_S
        }
        if due:
            seen = DEVICE.c.seen_at
            connection.execute(
                DEVICE.update()
                .where(
                    DEVICE.c.id == sa.bindparam("b_id"),
                    seen.is_(None) | (seen < sa.bindparam("b_said")) | (seen > now),
                )
                .values(seen_at=sa.bindparam("b_said"), state_at=_since_later("b_said")),
                [{"b_id": device, "b_said": said} for device, said in due.items()],
            )
        return due


def _since_later(said: str) -> sa.Case[Any]:
    """A device that is offline went away after what it said last: its status may not say when."""
    since = DEVICE.c.state_at
    earlier = (DEVICE.c.state == "offline") & (since < sa.bindparam(said))
    return sa.case((earlier, sa.bindparam(said)), else_=since)


def _is_goodbye(message: Message) -> bool:
    """Whether it may be the broker that speaks: a will is the device's, and the moment is not."""
    return isinstance(message.body, Status) and message.body.state == "offline"


def _is_newer(event: UpdateEvent, before: UpdateEvent) -> bool:
    """`seq` never restarts, but on a device whose disk was wiped: then the clock decides."""
    return event.seq > before.seq or (event.boot != before.boot and event.at >= before.at)


def _write_status(
    connection: sa.Connection, message: Message, status: Status, now: float
) -> Iterable[Change]:
    device = message.device
    before = connection.execute(
        sa.select(
            DEVICE.c.state, DEVICE.c.session, DEVICE.c.seen_at, DEVICE.c.recent, DEVICE.c.clone
        ).where(DEVICE.c.id == device)
    ).one()
    values: dict[str, Any] = {}
    changes: list[Change] = []
    if status.state == "online":
        changes += _write_connection(before, device, status, now, values)
    if status.session >= before.session:
        values |= {"session": status.session, "boot": status.boot}
        if status.state != before.state:
            since = _since(message, before.seen_at, now)
            values |= {"state": status.state, "state_at": since}
            timeline.note_presence(connection, [(device, status.state)], since)
            values |= devices.CHANGED
            changes.append(Change(f"device-{status.state}", device, {"boot": status.boot}))
    if values:
        connection.execute(DEVICE.update().where(DEVICE.c.id == device).values(**values))
    return changes


def _write_connection(
    before: Any, device: str, status: Status, now: float, values: dict[str, Any]
) -> Iterable[Change]:
    """Notes a connection, also one that the numbering of sessions hides: a clone's may be lower."""
    recent = clones.decode_recent(before.recent)
    after, came_back = clones.connected(recent, status, now)
    if after is None:
        return
    values["recent"] = dump(after)
    if status.certificate and status.certificate not in {one.certificate for one in recent}:
        yield Change("certificate", device, {"sha256": status.certificate})
    if came_back:
        clone, first = clones.noted(clones.decode(before.clone), "sessions", after[-2:], now)
        values["clone"] = dump(clone)
        if first:
            yield Change("device-cloned", device, clones.facts(clone))


def _since(message: Message, seen_at: float | None, now: float) -> float:
    """Since when a device is on- or offline.

    A status that was kept says when its connection began. One that is offline went away some time
    after it was heard last.
    """
    if message.heard == "live":
        return now
    known = [spoken_at(message.heard, message.at, now)]
    if _is_goodbye(message):
        known.append(seen_at)
    return max([moment for moment in known if moment is not None and moment <= now], default=now)


def _result_row(device: str, result: Result, now: float) -> dict[str, Any]:
    return {
        "device": device,
        "source": result.source,
        "at": result.at,
        "received_at": now,
        "label": result.label,
        "confidence": result.confidence,
        "bundle": dump(result.bundle),
        "text": result.text,
    }
