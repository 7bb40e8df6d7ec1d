"""Statements on devices: what is known, what is desired, what is still to be sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from contracts.errors import InputError
from contracts.messages import Desired, DesiredBundle, DeviceLabels, Reported, UpdateEvent
from fleet.rollout.selector import Selector
from fleet.store import Store
from fleet.store.documents import dump, load
from fleet.store.schema import DEVICE

_CHUNK = 500
_LEAP = 1000
"""Revisions that :func:`reissue` skips at least, whatever the clock says."""


class Device(msgspec.Struct, frozen=True):
    """A device as the controller knows it.

    Attributes:
        id: its name.
        board: from enrolment; else what it reports.
        labels: its own, overruled by those of enrolment and operators.
        groups: from enrolment; else what it reports.
        state: ``online``, ``offline`` or ``unknown`` (never seen).
        state_at: since when.
        seen_at: when it spoke last.
        enrolled_at, revoked_at: times; None: never.
        reported: the newest reported document.
        reported_at: when the device said it; None: nobody knows.
        update: the newest event of an update.
        desired: what is wanted of it.
        desired_revision: of `desired`; 0: nothing yet.
        rollout: the rollout that holds it.
        version: for the ETag.
    """

    id: str
    board: str
    labels: dict[str, str]
    groups: list[str]
    state: str
    state_at: float | None
    seen_at: float | None
    enrolled_at: float | None
    revoked_at: float | None
    reported: Reported | None
    reported_at: float | None
    update: UpdateEvent | None
    desired: Desired | None
    desired_revision: int
    rollout: str | None
    version: int

    @property
    def online(self) -> bool:
        """Whether it is connected and may be."""
        return self.state == "online" and self.revoked_at is None

    def matches(self, selector: Selector) -> bool:
        """Whether the selector means it."""
        return selector.matches(
            self.id,
            board=self.board,
            labels=self.labels,
            groups=self.groups,
            state=self.state,
            tasks=sorted(self.reported.slots) if self.reported else (),
        )


_COLUMNS = (
    DEVICE.c.id, DEVICE.c.board, DEVICE.c.labels, DEVICE.c.groups, DEVICE.c.state,
    DEVICE.c.state_at, DEVICE.c.seen_at, DEVICE.c.enrolled_at, DEVICE.c.revoked_at,
    DEVICE.c.reported, DEVICE.c.reported_at, DEVICE.c.update, DEVICE.c.desired,
    DEVICE.c.desired_revision, DEVICE.c.rollout, DEVICE.c.version,
)  # fmt: skip


def _device(row: Any) -> Device:
    reported = load(row.reported, Reported) if row.reported else None
    labels: dict[str, str] = dict(reported.labels) if reported else {}
    labels |= load(row.labels, dict[str, str])
    groups = load(row.groups, list[str])
    if not groups and row.enrolled_at is None and reported:
        groups = reported.groups
    return Device(
        id=row.id,
        board=row.board or (reported.board if reported else ""),
        labels=labels,
        groups=groups,
        state=row.state,
        state_at=row.state_at,
        seen_at=row.seen_at,
        enrolled_at=row.enrolled_at,
        revoked_at=row.revoked_at,
        reported=reported,
        reported_at=row.reported_at,
        update=load(row.update, UpdateEvent) if row.update else None,
        desired=load(row.desired, Desired) if row.desired else None,
        desired_revision=row.desired_revision,
        rollout=row.rollout,
        version=row.version,
    )


def every(connection: sa.Connection) -> list[Device]:
    """All devices, by id."""
    return [_device(r) for r in connection.execute(sa.select(*_COLUMNS).order_by(DEVICE.c.id))]


def select(connection: sa.Connection, selector: Selector) -> list[Device]:
    """The devices that a selector means, by id; revoked ones too."""
    return [device for device in every(connection) if device.matches(selector)]


def some(connection: sa.Connection, ids: Iterable[str]) -> dict[str, Device]:
    """Devices by id; those that are not known are missing."""
    wanted = list(ids)
    found: dict[str, Device] = {}
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        for row in connection.execute(sa.select(*_COLUMNS).where(DEVICE.c.id.in_(chunk))):
            found[row.id] = _device(row)
    return found


def get(connection: sa.Connection, device: str) -> Device:
    """One device.

    Raises:
        InputError: ``no-such-device``.
    """
    row = connection.execute(sa.select(*_COLUMNS).where(DEVICE.c.id == device)).first()
    if row is None:
        raise InputError("no-such-device", f"no device is called {device[:64]!r}")
    return _device(row)


def page(
    connection: sa.Connection, selector: Selector, after: str, limit: int
) -> tuple[list[Device], str | None]:
    """Devices of a selector after an id, at most `limit`; and the id to go on after."""
    found: list[Device] = []
    while True:
        rows = connection.execute(
            sa.select(*_COLUMNS)
            .where(DEVICE.c.id > after)
            .order_by(DEVICE.c.id)
            .limit(max(limit * 2, 100))
        ).all()
        for row in rows:
            device = _device(row)
            if device.matches(selector):
                if len(found) == limit:
                    return found, found[-1].id
                found.append(device)
        if not rows:
            return found, None
        after = rows[-1].id


def counts(connection: sa.Connection) -> dict[str, int]:
    """Devices by state, revoked ones apart."""
    state = sa.case((DEVICE.c.revoked_at.is_not(None), "revoked"), else_=DEVICE.c.state)
    rows = connection.execute(sa.select(state, sa.func.count()).group_by(state))
    return {str(name): int(count) for name, count in rows}


# Enrolment ------------------------------------------------------------------------------------


def enroll(
    store: Store,
    connection: sa.Connection,
    device: str,
    board: str,
    labels: DeviceLabels,
    groups: Sequence[str],
    now: float,
) -> None:
    """Records an enrolment; a device that was revoked is admitted again."""
    values = {
        "board": board,
        "labels": dump(labels),
        "groups": dump(list(groups)),
        "enrolled_at": now,
        "revoked_at": None,
    }
    insert = store.insert(DEVICE).values(id=device, **values)
    changed = values | {"version": DEVICE.c.version + 1}
    connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=changed))


def revoke(connection: sa.Connection, device: str, now: float) -> None:
    """Records a revocation."""
    get(connection, device)
    connection.execute(
        DEVICE.update()
        .where(DEVICE.c.id == device, DEVICE.c.revoked_at.is_(None))
        .values(revoked_at=now, version=DEVICE.c.version + 1)
    )


def relabel(
    connection: sa.Connection, device: str, labels: DeviceLabels, groups: Sequence[str] | None
) -> None:
    """Replaces the labels (and groups) that an operator gave."""
    values: dict[str, Any] = {"labels": dump(labels), "version": DEVICE.c.version + 1}
    if groups is not None:
        values["groups"] = dump(list(groups))
    connection.execute(DEVICE.update().where(DEVICE.c.id == device).values(**values))


# Desired --------------------------------------------------------------------------------------


def set_slot(
    device: Device, revision: int, slot: str, bundle: DesiredBundle | None, rollout: str, now: float
) -> Desired:
    """The device's desired document with one slot changed."""
    slots = dict(device.desired.slots) if device.desired else {}
    slots.pop(slot, None)
    if bundle is not None:
        slots[slot] = bundle
    settings = device.desired.settings if device.desired else {}
    return Desired(revision=revision, slots=slots, settings=settings, rollout=rollout, at=now)


def write_desired(
    connection: sa.Connection, changes: Sequence[tuple[str, Desired, str | None]]
) -> None:
    """Stores desired documents: device, document, and the rollout that now holds the device."""
    if changes:
        connection.execute(
            DEVICE.update()
            .where(DEVICE.c.id == sa.bindparam("b_id"))
            .values(
                desired=sa.bindparam("b_desired"),
                desired_revision=sa.bindparam("b_revision"),
                rollout=sa.bindparam("b_rollout"),
                version=DEVICE.c.version + 1,
            ),
            [
                {
                    "b_id": device,
                    "b_desired": dump(desired),
                    "b_revision": desired.revision,
                    "b_rollout": rollout,
                }
                for device, desired, rollout in changes
            ],
        )


def release(connection: sa.Connection, rollout: str, ids: Sequence[str]) -> None:
    """Devices that a rollout no longer holds."""
    for start in range(0, len(ids), _CHUNK):
        connection.execute(
            DEVICE.update()
            .where(DEVICE.c.rollout == rollout, DEVICE.c.id.in_(ids[start : start + _CHUNK]))
            .values(rollout=None)
        )


def unsent(connection: sa.Connection, limit: int) -> list[tuple[str, int, str]]:
    """Desired documents that the broker has not acknowledged: device, revision, JSON."""
    rows = connection.execute(
        sa.select(DEVICE.c.id, DEVICE.c.desired_revision, DEVICE.c.desired)
        .where(DEVICE.c.desired_revision > DEVICE.c.sent_revision)
        .order_by(DEVICE.c.id)
        .limit(limit)
    )
    return [(row.id, row.desired_revision, row.desired) for row in rows]


def mark_sent(connection: sa.Connection, sent: Sequence[tuple[str, int]]) -> None:
    """Records what the broker acknowledged."""
    if sent:
        connection.execute(
            DEVICE.update()
            .where(
                DEVICE.c.id == sa.bindparam("b_id"),
                DEVICE.c.sent_revision < sa.bindparam("b_revision"),
            )
            .values(sent_revision=sa.bindparam("b_revision")),
            [{"b_id": device, "b_revision": revision} for device, revision in sent],
        )


def resend(connection: sa.Connection, ids: Sequence[str]) -> None:
    """Marks desired documents of some devices as unsent: the broker may have lost them."""
    for start in range(0, len(ids), _CHUNK):
        connection.execute(
            DEVICE.update()
            .where(DEVICE.c.id.in_(ids[start : start + _CHUNK]), DEVICE.c.desired_revision > 0)
            .values(sent_revision=0)
        )


def reissue(connection: sa.Connection, now: float) -> int:
    """Gives every desired document a revision above those given after a backup, unsent.

    Devices ignore a revision that is not above the last they took, and the broker may retain
    documents that are newer than this database. The revisions become the seconds since the
    epoch, or higher where they were. Devices for which nothing is desired get the number alone:
    what is desired next is above it.

    Returns:
        How many documents are to be sent again.
    """
    documents = 0
    rows = connection.execute(
        sa.select(DEVICE.c.id, DEVICE.c.desired, DEVICE.c.desired_revision)
    ).all()
    for row in rows:
        revision = max(row.desired_revision + _LEAP, int(now))
        values: dict[str, Any] = {"sent_revision": revision}
        if row.desired:
            documents += 1
            desired = msgspec.structs.replace(load(row.desired, Desired), revision=revision)
            values = {"sent_revision": 0, "desired": dump(desired)}
        connection.execute(
            DEVICE.update()
            .where(DEVICE.c.id == row.id)
            .values(desired_revision=revision, version=DEVICE.c.version + 1, **values)
        )
    return documents
