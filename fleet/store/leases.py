"""Leases: one controller does a job at a time, and what it wrote from is still true.

A holder renews its lease while it works. Every transaction that the lease guards also moves
the generation on, from the one that its reading began with: two writers that read the same
state cannot both commit.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from fleet.store import Store
from fleet.store.schema import LEASE

_TOO_FAR: Final = 10.0
"""Lengths of a lease ahead: an end there was written by a clock that has been put right since."""


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
    """Takes or renews a lease in a transaction; False while another holder has it."""
    connection.execute(
        store.insert(LEASE).values(name=name, holder="", expires_at=0).on_conflict_do_nothing()
    )
    changed = connection.execute(
        LEASE.update()
        .where(
            LEASE.c.name == name,
            sa.or_(
                LEASE.c.holder == holder,
                LEASE.c.holder == "",
                LEASE.c.expires_at < now,
                LEASE.c.expires_at > now + _TOO_FAR * seconds,
            ),
        )
        .values(holder=holder, expires_at=now + seconds)
    )
    return changed.rowcount == 1


def acquire(store: Store, name: str, holder: str, now: float, seconds: float) -> bool:
    """Takes or renews a lease; False while another holder has it."""
    with store.write() as connection:
        return take(connection, store, name, holder, now, seconds)


def free(connection: sa.Connection, name: str, holder: str) -> None:
    """Takes a lease from its holder, in a transaction."""
    connection.execute(
        LEASE.update()
        .where(LEASE.c.name == name, LEASE.c.holder == holder)
        .values(holder="", expires_at=0)
    )


def release(store: Store, name: str, holder: str) -> None:
    """Gives a lease back, so that another holder need not wait for its end."""
    with store.write() as connection:
        free(connection, name, holder)
