"""Leases: one controller does a job at a time, and what it wrote from is still true.

A lease is its holder's until somebody else asks for it. From then on the holder renews it in
writing while it works, and whoever asks takes it when the holder has not done so for the length
of the lease. While nobody asks, it is enough that the holder looks: what is asked after its look
cannot be taken before the length of the lease is over. So a lease that nobody else wants costs no
write.

Every transaction that the lease guards also moves the generation on, from the one that its reading
began with: two writers that read the same state cannot both commit.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from fleet.store import Store
from fleet.store.schema import LEASE

_TOO_FAR: Final = 10.0
"""Lengths of a lease ahead: an end there was written by a clock that has been put right since."""

_ASKED: Final = 6.0
"""Lengths of a lease for which asking counts: it is asked again when half of that is over."""

_ANSWER: Final = 1.5
"""Lengths of a lease that its holder has to answer who asks first. It may have looked just before
the question was committed, and goes by that look for one length."""


def generation(connection: sa.Connection, name: str) -> int:
    """The generation now; 0 when nothing was written yet."""
    found = connection.scalar(sa.select(LEASE.c.generation).where(LEASE.c.name == name))
    return int(found or 0)


def advance(connection: sa.Connection, store: Store, name: str, seen: int) -> bool:
    """Moves the generation on from `seen`; False when somebody else did since."""
    connection.execute(
        store.insert(LEASE).values(name=name, holder="", expires_at=0).on_conflict_do_nothing()
    )
    changed = connection.execute(
        LEASE.update()
        .where(LEASE.c.name == name, LEASE.c.generation == seen)
        .values(generation=seen + 1)
    )
    return changed.rowcount == 1


def take(
    connection: sa.Connection, store: Store, name: str, holder: str, now: float, seconds: float
) -> bool:
    """Takes or renews a lease in a transaction, or asks for it; False while another has it."""
    query = sa.select(LEASE).where(LEASE.c.name == name)
    row = connection.execute(store.lock_row(query)).first()
    if row is None:
        # Another may insert it in this moment: then it is the other's.
        connection.execute(
            store.insert(LEASE).values(name=name, holder="", expires_at=0).on_conflict_do_nothing()
        )
        row = connection.execute(store.lock_row(query)).one()
    if row.holder == holder:
        if not _is_quiet(row, now, seconds):
            _put(connection, name, holder, now, seconds, row)
        return True
    too_far = row.expires_at > now + _TOO_FAR * seconds
    if not row.holder or too_far or (row.expires_at < now <= row.asked_until):
        _put(connection, name, holder, now, seconds, row)
        return True
    _ask(connection, name, row, now, seconds)
    return False


def _put(
    connection: sa.Connection, name: str, holder: str, now: float, seconds: float, row: Any
) -> None:
    asked = min(row.asked_until, now + _ASKED * seconds)  # a clock may have been put right
    connection.execute(
        LEASE.update()
        .where(LEASE.c.name == name)
        .values(
            holder=holder,
            expires_at=now + seconds,
            asked_until=asked,
            renewals=LEASE.c.renewals + 1,
        )
    )


def _is_quiet(row: Any, now: float, seconds: float) -> bool:
    """Whether nobody asks for a lease, and its end is not one that others would not believe."""
    return bool(row.asked_until < now and row.expires_at <= now + 2 * seconds)


def _ask(connection: sa.Connection, name: str, row: Any, now: float, seconds: float) -> None:
    """Notes that somebody else wants a lease; its holder gets time to say that it is there."""
    if row.asked_until >= now + _ASKED * seconds / 2:
        return
    values = {"asked_until": now + _ASKED * seconds}
    if row.asked_until < now:
        values["expires_at"] = now + _ANSWER * seconds
    connection.execute(LEASE.update().where(LEASE.c.name == name).values(**values))


def ask(store: Store, name: str, now: float, seconds: float) -> None:
    """Has the holder of a lease show that it is there, for one who does not want it."""
    query = sa.select(LEASE).where(LEASE.c.name == name)
    with store.read() as connection:
        row = connection.execute(query).first()
    if row is None or row.asked_until >= now + _ASKED * seconds / 2:
        return
    with store.write() as connection:
        row = connection.execute(store.lock_row(query)).one()
        _ask(connection, name, row, now, seconds)


def holds(connection: sa.Connection, name: str, holder: str, now: float, seconds: float) -> bool:
    """Whether a lease is its holder's for `seconds` from now on, without a write."""
    row = connection.execute(sa.select(LEASE).where(LEASE.c.name == name)).first()
    return row is not None and row.holder == holder and _is_quiet(row, now, seconds)


def acquire(store: Store, name: str, holder: str, now: float, seconds: float) -> bool:
    """Takes or renews a lease, or asks for it; False while another holder has it."""
    with store.read() as connection:
        if holds(connection, name, holder, now, seconds):
            return True
    with store.write() as connection:
        return take(connection, store, name, holder, now, seconds)


def free(connection: sa.Connection, name: str, holder: str) -> None:
    """Takes a lease from its holder, in a transaction."""
    connection.execute(
        LEASE.update()
        .where(LEASE.c.name == name, LEASE.c.holder == holder)
        .values(holder="", expires_at=0)
    )


def free_all(connection: sa.Connection, instance: str) -> None:
    """Takes all leases from a process that is gone, in a transaction."""
    connection.execute(
        LEASE.update()
        .where(
            sa.or_(
                LEASE.c.holder == instance, LEASE.c.holder.endswith(f"-{instance}", autoescape=True)
            )
        )
        .values(holder="", expires_at=0)
    )


def release(store: Store, name: str, holder: str) -> None:
    """Gives a lease back, so that another holder need not wait for its end."""
    with store.write() as connection:
        free(connection, name, holder)
