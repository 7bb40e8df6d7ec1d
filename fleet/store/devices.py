"""Statements on devices: what is known of them, and what people change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from contracts.desired import Desired
from contracts.errors import InputError
from contracts.messages import DeviceLabels, Reported, UpdateEvent
from fleet.rollout.selector import Selector
from fleet.store import Store, selection, traits
from fleet.store.documents import dump, load
from fleet.store.schema import DEVICE, TRAIT

_CHUNK = 500

CHANGED: Final = {"unseen": DEVICE.c.unseen + 1}
"""What is written along with a change that the rollout engine goes by: it looks at nothing else."""


class Device(msgspec.Struct, frozen=True):
    """A device as the controller knows it.

    What enrolment and operators gave is apart from what the device says of itself, which is in
    `reported` alone: nobody checked it, and it is never written back as somebody else's word.

    Attributes:
        id: its name.
        board: from enrolment; empty when it never was.
        labels, groups: from enrolment and operators.
        state: ``online``, ``offline`` or ``unknown`` (never seen).
        state_at: since when.
        seen_at: of its newest message.
        enrolled_at, revoked_at: times; None: never.
        reported: the newest reported document.
        reported_at: when it came.
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

    @property
    def own_labels(self) -> dict[str, str]:
        """The labels that it reports."""
        return self.reported.labels if self.reported else {}

    @property
    def own_groups(self) -> list[str]:
        """The groups that it reports."""
        return self.reported.groups if self.reported else []

    @property
    def hardware(self) -> str:
        """The board that a bundle must fit: from enrolment, else what it reports."""
        return self.board or (self.reported.board if self.reported else "")

    def matches(self, selector: Selector) -> bool:
        """Whether the selector means it: what :func:`fleet.store.selection.means` says."""
        facts: dict[str, list[str]] = {"device": [self.id], "state": [self.state]}
        if self.board:
            facts["board"] = [self.board]
        for found in (
            traits.given(self.labels, self.groups),
            traits.wanted(self.desired),
            traits.own(self.reported),
        ):
            for key, value in found:
                facts.setdefault(key, []).append(value)
        return selector.matches(facts)


COLUMNS = (
    DEVICE.c.id, DEVICE.c.board, DEVICE.c.labels, DEVICE.c.groups, DEVICE.c.state,
    DEVICE.c.state_at, DEVICE.c.seen_at, DEVICE.c.enrolled_at, DEVICE.c.revoked_at,
    DEVICE.c.reported, DEVICE.c.reported_at, DEVICE.c.update, DEVICE.c.desired,
    DEVICE.c.desired_revision, DEVICE.c.rollout, DEVICE.c.version,
)  # fmt: skip


def read(row: Any) -> Device:
    """A device from a row of :data:`COLUMNS`."""
    return Device(
        id=row.id,
        board=row.board,
        labels=load(row.labels, dict[str, str]),
        groups=load(row.groups, list[str]),
        state=row.state,
        state_at=row.state_at,
        seen_at=row.seen_at,
        enrolled_at=row.enrolled_at,
        revoked_at=row.revoked_at,
        reported=load(row.reported, Reported) if row.reported else None,
        reported_at=row.reported_at,
        update=load(row.update, UpdateEvent) if row.update else None,
        desired=load(row.desired, Desired) if row.desired else None,
        desired_revision=row.desired_revision,
        rollout=row.rollout,
        version=row.version,
    )


def every(connection: sa.Connection) -> list[Device]:
    """All devices, by id."""
    return [read(r) for r in connection.execute(sa.select(*COLUMNS).order_by(DEVICE.c.id))]


def digests(connection: sa.Connection) -> dict[str, int]:
    """Of each device a number that changes, within this process, with what it reported or is.

    Nothing is decoded: it costs a hundredth of :func:`every`.
    """
    query = sa.select(DEVICE.c.id, DEVICE.c.board, DEVICE.c.revoked_at, DEVICE.c.reported)
    return {row.id: hash(tuple(row)) for row in connection.execute(query)}


def select(connection: sa.Connection, selector: Selector) -> list[Device]:
    """The devices that a selector means, by id; revoked ones too."""
    query = sa.select(*COLUMNS).where(selection.means(selector)).order_by(DEVICE.c.id)
    return [read(row) for row in connection.execute(query)]


def ids(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[str]:
    """Ids of devices for which conditions on the device table hold, in their order."""
    return list(connection.scalars(sa.select(DEVICE.c.id).where(*conditions).order_by(DEVICE.c.id)))


def contacts(
    connection: sa.Connection, *conditions: sa.ColumnElement[bool]
) -> dict[str, bool | None]:
    """By id, whether a device is online; None: it was revoked. Nothing else of it is read."""
    query = sa.select(DEVICE.c.id, DEVICE.c.state, DEVICE.c.revoked_at)
    return {
        row.id: row.state == "online" if row.revoked_at is None else None
        for row in connection.execute(query.where(*conditions).order_by(DEVICE.c.id))
    }


def boards(
    connection: sa.Connection, *conditions: sa.ColumnElement[bool]
) -> list[tuple[str, str, bool]]:
    """By id, the board that a bundle must fit (:attr:`Device.hardware`), and whether revoked."""
    says = TRAIT.alias()
    own = (says.c.device == DEVICE.c.id) & (says.c.key == "own:board")
    query = (
        sa.select(DEVICE.c.id, DEVICE.c.board, says.c.value, DEVICE.c.revoked_at)
        .outerjoin(says, own)
        .where(*conditions)
        .order_by(DEVICE.c.id)
    )
    return [
        (row.id, row.board or row.value or "", row.revoked_at is not None)
        for row in connection.execute(query)
    ]


def releases(
    connection: sa.Connection, *conditions: sa.ColumnElement[bool]
) -> list[tuple[str, str, bool]]:
    """By id, the archive of the agent that a device says it takes, and whether it is revoked."""
    says = TRAIT.alias()
    own = (says.c.device == DEVICE.c.id) & (says.c.key == "own:agent-release")
    query = (
        sa.select(DEVICE.c.id, says.c.value, DEVICE.c.revoked_at)
        .outerjoin(says, own)
        .where(*conditions)
        .order_by(DEVICE.c.id)
    )
    return [
        (row.id, row.value or "", row.revoked_at is not None) for row in connection.execute(query)
    ]


def some(connection: sa.Connection, ids: Iterable[str]) -> dict[str, Device]:
    """Devices by id; those that are not known are missing."""
    wanted = list(ids)
    found: dict[str, Device] = {}
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        for row in connection.execute(sa.select(*COLUMNS).where(DEVICE.c.id.in_(chunk))):
            found[row.id] = read(row)
    return found


def get(connection: sa.Connection, device: str) -> Device:
    """One device.

    Raises:
        InputError: ``no-such-device``.
    """
    row = connection.execute(sa.select(*COLUMNS).where(DEVICE.c.id == device)).first()
    if row is None:
        raise InputError("no-such-device", f"no device is called {device[:64]!r}")
    return read(row)


def page(
    connection: sa.Connection, selector: Selector, after: str, limit: int
) -> tuple[list[Device], str | None]:
    """Devices of a selector after an id, at most `limit`; and the id to go on after."""
    query = (
        sa.select(*COLUMNS)
        .where(selection.means(selector), DEVICE.c.id > after)
        .order_by(DEVICE.c.id)
        .limit(limit + 1)
    )
    rows = connection.execute(query).all()
    found = [read(row) for row in rows[:limit]]
    return found, (found[-1].id if len(rows) > limit else None)


def counts(connection: sa.Connection) -> dict[str, int]:
    """Devices by state, revoked ones apart."""
    state = sa.case((DEVICE.c.revoked_at.is_not(None), "revoked"), else_=DEVICE.c.state)
    rows = connection.execute(sa.select(state, sa.func.count()).group_by(state))
    return {str(name): int(count) for name, count in rows}


# Enrolment, and what people change ------------------------------------------------------------


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
        # Another certificate: what was known of the connections of the one before ends.
        "session": -1,
        "recent": None,
        "clone": None,
    }
    insert = store.insert(DEVICE).values(id=device, unseen=1, **values)
    changed = values | {"version": DEVICE.c.version + 1} | CHANGED
    connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=changed))
    traits.replace(store, connection, "given", {device: traits.given(labels, groups)})


def revoke(connection: sa.Connection, device: str, now: float) -> bool:
    """Records a revocation; False: there is no such device."""
    changed = connection.execute(
        DEVICE.update()
        .where(DEVICE.c.id == device)
        .values(
            revoked_at=sa.func.coalesce(DEVICE.c.revoked_at, now),
            recent=None,
            clone=None,
            version=DEVICE.c.version + 1,
            **CHANGED,
        )
    )
    return changed.rowcount == 1


def relabel(
    store: Store,
    connection: sa.Connection,
    device: str,
    *,
    labels: DeviceLabels | None = None,
    groups: Sequence[str] | None = None,
) -> None:
    """Replaces the labels, the groups, or both, that operators give: the one place that does.

    What is None stays as it is. The device's own labels and groups are no part of it.

    Raises:
        InputError: ``no-such-device``.
    """
    before = get(connection, device)
    now_labels = before.labels if labels is None else labels
    now_groups = before.groups if groups is None else list(groups)
    relabel_many(store, connection, {device: (now_labels, now_groups)})


def relabel_many(
    store: Store,
    connection: sa.Connection,
    given: Mapping[str, tuple[DeviceLabels, Sequence[str]]],
) -> None:
    """Replaces the labels and groups that operators give devices, which are known."""
    connection.execute(
        DEVICE.update()
        .where(DEVICE.c.id == sa.bindparam("b_id"))
        .values(
            labels=sa.bindparam("b_labels"),
            groups=sa.bindparam("b_groups"),
            version=DEVICE.c.version + 1,
            **CHANGED,
        ),
        [
            {"b_id": device, "b_labels": dump(labels), "b_groups": dump(list(groups))}
            for device, (labels, groups) in sorted(given.items())
        ],
    )
    found = {device: traits.given(labels, groups) for device, (labels, groups) in given.items()}
    traits.replace(store, connection, "given", found)


# What a device says ---------------------------------------------------------------------------


def report(
    store: Store, connection: sa.Connection, device: str, reported: Reported, at: float | None
) -> None:
    """Stores what a device says of itself; `at`: when it said so, None: nobody knows."""
    query = sa.select(DEVICE.c.reported).where(DEVICE.c.id == device)
    text = connection.scalar(store.lock_row(query))
    values: dict[str, Any] = {
        "reported": dump(reported),
        "reported_at": at,
        "reached_revision": reported.desired_revision,
    }
    changed = text is None or _standing(load(text, Reported)) != _standing(reported)
    if changed:
        values |= CHANGED
    connection.execute(DEVICE.update().where(DEVICE.c.id == device).values(**values))
    if changed:
        traits.replace(store, connection, "own", {device: traits.own(reported)})


def _standing(reported: Reported) -> Reported:
    """A report without what says nothing of where the device stands: updates are told apart."""
    return msgspec.structs.replace(reported, at=0.0, free_bytes=0, last_update=None)


# What the engine has not looked at ------------------------------------------------------------


def unseen(connection: sa.Connection, after: str, limit: int) -> dict[str, int]:
    """Devices that changed since :func:`looked_at`, with how often; those after an id first."""
    query = (
        sa.select(DEVICE.c.id, DEVICE.c.unseen)
        .where(DEVICE.c.unseen > sa.literal_column("0"))
        .order_by(DEVICE.c.id <= after, DEVICE.c.id)
        .limit(limit)
    )
    return {row.id: row.unseen for row in connection.execute(query)}


def looked_at(connection: sa.Connection, seen: Mapping[str, int]) -> None:
    """Takes the marks away from devices that did not change again since they were read."""
    if seen:
        connection.execute(
            DEVICE.update()
            .where(DEVICE.c.id == sa.bindparam("b_id"), DEVICE.c.unseen == sa.bindparam("b_seen"))
            .values(unseen=0),
            [{"b_id": device, "b_seen": count} for device, count in sorted(seen.items())],
        )
