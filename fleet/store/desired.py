"""Statements on what is desired of devices, and on what of it is still to be sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
import structlog

from contracts import limits, program
from contracts.desired import DESIRED_REFUSALS, Desired, DesiredBundle
from contracts.errors import ErrorInfo
from contracts.messages import Reported
from fleet.store import Store, devices, traits
from fleet.store.devices import CHANGED, Device
from fleet.store.documents import dump, load
from fleet.store.schema import DEVICE

_LOG: Final = structlog.get_logger("desired")
_CHUNK: Final = 500
_LEAP: Final = 1000
"""Revisions that :func:`reissue` skips at least, whatever the clock says."""


def with_slot(
    device: Device, revision: int, slot: str, bundle: DesiredBundle | None, rollout: str, now: float
) -> Desired:
    """The device's desired document with one slot changed.

    A device of which nothing was desired yet is asked to keep what its other slots have: what
    a document does not name, it empties. That it has them is its own word: they are not given.
    """
    slots = dict(device.desired.slots) if device.desired else _as_reported(device)
    slots.pop(slot, None)
    if bundle is not None:
        slots[slot] = bundle
    settings = device.desired.settings if device.desired else {}
    if device.desired is not None:
        groups = device.desired.groups
    else:
        groups = device.groups if _owes_groups(device.desired_revision) else None
    return Desired(
        revision=revision, slots=slots, settings=settings, rollout=rollout, at=now, groups=groups
    )


def _owes_groups(revision: int) -> bool:
    """Whether a device without a document has to be told its groups: see :func:`regroup`."""
    return revision > 0


def regroup(
    store: Store, connection: sa.Connection, device: str, now: float, *, again: bool = False
) -> None:
    """Tells a device the groups that operators gave it; the transaction wrote them before.

    One that never said what its slots have gets no document yet, as that would empty them: its
    first report, or its first rollout, brings it. The revision says that it is owed.

    Args:
        store: the database.
        connection: in a transaction that writes.
        device: whose groups changed.
        now: seconds since the epoch.
        again: it was enrolled: only if it was told groups before, as its ``agent.yaml`` has them.
    """
    known = devices.get(connection, device)
    told = known.desired.groups if known.desired else None
    if told == known.groups or (again and told is None):
        return
    revision = known.desired_revision + 1
    if known.desired is not None:
        document = msgspec.structs.replace(
            known.desired, revision=revision, groups=known.groups, at=now
        )
    elif known.reported is not None:
        document = Desired(revision, _as_reported(known), groups=known.groups, at=now)
    else:
        owed = DEVICE.update().where(DEVICE.c.id == device)
        connection.execute(owed.values(desired_revision=revision, sent_revision=revision))
        return
    write(store, connection, [(device, document, known.rollout)])


def _as_reported(device: Device) -> dict[str, DesiredBundle]:
    found: dict[str, DesiredBundle] = {}
    for slot, report in device.reported.slots.items() if device.reported else ():
        if slot == program.SLOT:  # a device keeps its program unless it is told otherwise
            continue
        if report.shadow is not None:
            found[slot] = DesiredBundle(report.shadow, "shadow", beside=report.active, kept=True)
        elif report.active is not None:
            found[slot] = DesiredBundle(report.active, kept=True)
    return found


def write(
    store: Store, connection: sa.Connection, changes: Sequence[tuple[str, Desired, str | None]]
) -> bool:
    """Stores desired documents: device, document, and the rollout that now holds the device.

    Returns:
        False when a document is not newer than what the database has by now: nothing of this
        transaction may stand then.
    """
    written = 0
    if changes:
        asked = {device: traits.wanted(desired) for device, desired, _ in changes}
        traits.replace(store, connection, "wanted", asked)
        written = connection.execute(
            DEVICE.update()
            .where(
                DEVICE.c.id == sa.bindparam("b_id"),
                DEVICE.c.desired_revision < sa.bindparam("b_revision"),
            )
            .values(
                desired=sa.bindparam("b_desired"),
                desired_revision=sa.bindparam("b_revision"),
                desired_at=sa.bindparam("b_at"),
                rollout=sa.bindparam("b_rollout"),
                version=DEVICE.c.version + 1,
                **CHANGED,
            ),
            [
                {
                    "b_id": device,
                    "b_desired": dump(desired),
                    "b_revision": desired.revision,
                    "b_at": desired.at,
                    "b_rollout": rollout,
                }
                for device, desired, rollout in changes
            ],
        ).rowcount
    return written == len(changes)


def release(connection: sa.Connection, rollout: str, ids: Sequence[str]) -> None:
    """Devices that a rollout no longer holds."""
    for start in range(0, len(ids), _CHUNK):
        connection.execute(
            DEVICE.update()
            .where(DEVICE.c.rollout == rollout, DEVICE.c.id.in_(ids[start : start + _CHUNK]))
            .values(rollout=None, **CHANGED)
        )


def release_all(connection: sa.Connection, rollout: str) -> None:
    """Lets all go that a rollout still holds: nobody follows it any more."""
    held = DEVICE.update().where(DEVICE.c.rollout == rollout)
    connection.execute(held.values(rollout=None, **CHANGED))


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


def unreached(connection: sa.Connection, online_before: float | None) -> list[str]:
    """Devices that have not reached what is desired of them.

    Args:
        connection: to the database.
        online_before: only those that are online, and were asked before this moment; None: all.
    """
    late = (DEVICE.c.desired_revision > DEVICE.c.reached_revision) & DEVICE.c.desired.is_not(None)
    if online_before is not None:
        online = (DEVICE.c.state == "online") & DEVICE.c.revoked_at.is_(None)
        late &= online & (DEVICE.c.desired_at < online_before)
    return list(connection.scalars(sa.select(DEVICE.c.id).where(late).order_by(DEVICE.c.id)))


def resend(connection: sa.Connection, ids: Sequence[str]) -> None:
    """Marks desired documents of some devices as unsent: the broker may have lost them."""
    for start in range(0, len(ids), _CHUNK):
        connection.execute(
            DEVICE.update()
            .where(DEVICE.c.id.in_(ids[start : start + _CHUNK]), DEVICE.c.desired_revision > 0)
            .values(sent_revision=0)
        )


def answer(
    store: Store, connection: sa.Connection, device: str, reported: Reported, now: float
) -> None:
    """Sends a device its document again when it holds another, or was sent another.

    Whoever wrote over the retained document, or got one through that devices take for newer than
    ours: ours stands at the broker again, above theirs. A device that claims to be further ahead
    than documents can have taken it is not followed: the next owner's fence brings it back.
    """
    refused = [wait.reason for wait in reported.waits if wait.reason.code in DESIRED_REFUSALS]
    row = connection.execute(
        sa.select(DEVICE.c.desired, DEVICE.c.desired_revision).where(DEVICE.c.id == device)
    ).one()
    own = row.desired_revision
    if row.desired is None:
        if _owes_groups(own):
            regroup(store, connection, device, now)
        return
    ahead = max([reported.desired_revision, *map(_known_revision, refused)])
    other = any(reason.code == "other-content" for reason in refused) and ahead == own
    if other or own < ahead <= own + limits.MAX_REVISION_STEP:
        _LOG.warning("a device holds a document that is not ours", device=device, revision=ahead)
        document = msgspec.structs.replace(load(row.desired, Desired), revision=ahead + 1, at=now)
        connection.execute(
            DEVICE.update()
            .where(DEVICE.c.id == device, DEVICE.c.desired_revision == own)
            .values(
                desired=dump(document),
                desired_revision=ahead + 1,
                desired_at=now,
                sent_revision=0,
                version=DEVICE.c.version + 1,
                **CHANGED,
            )
        )
    elif refused:
        for reason in refused:
            _LOG.warning("a device refused a document", device=device, reason=reason.message)
        resend(connection, [device])


def _known_revision(reason: ErrorInfo) -> int:
    """By the device's word, the revision that counts there."""
    found = reason.detail.get("known_revision")
    return found if isinstance(found, int) and not isinstance(found, bool) else 0


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
            .values(desired_revision=revision, version=DEVICE.c.version + 1, **CHANGED, **values)
        )
    return documents
