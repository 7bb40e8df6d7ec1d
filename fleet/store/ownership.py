"""Statements on who has the fleet: which database this is, and the fences it has given.

A fence is a number that grows with every controller that becomes the owner. What a controller
sends carries it, so that whoever hears two controllers knows which is the newer.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

import msgspec
import sqlalchemy as sa

from contracts import limits
from contracts.clock import EARLIEST
from contracts.errors import UnavailableError
from fleet.store import Store, desired, leases
from fleet.store.documents import dump, load
from fleet.store.schema import DEVICE, FENCE, LEASE, OWNERSHIP

LEASE_NAME: Final = "owner"
_HIGHEST: Final = 2**53 - 1
_LEAP: Final = 1000
"""Fences that a restore skips at least, whatever the clock says."""

_KEEP: Final = 1000
"""Fences that are remembered."""


_LAST: Final = sa.select(FENCE).order_by(FENCE.c.fence.desc()).limit(1)


class Fence(msgspec.Struct, frozen=True):
    """A fence, and whom it was given to."""

    fence: int
    instance: str


class _Grant(msgspec.Struct, frozen=True):
    by: str
    at: float
    fence: int = 0


class Known(msgspec.Struct, frozen=True):
    """What the database knows of owners.

    Attributes:
        database: which database it is.
        fences: of the fences that it gave, the newest and those that were asked for, each with
            whom it was given to.
        holder: who has the lease, by its own word; empty: nobody.
        renewed: grows with every renewal of the lease that was asked for.
        contested: an owner that lives, but does not use this database.
        granted: a person has said that the fleet is to be taken from another owner.
        outran: the fence that was given for that; 0: none yet.
        held: the highest fence that a device says it holds, looked at when `granted` alone: who
            sent devices a fence above the owner's left no word at the broker.
    """

    database: str
    fences: dict[int, str]
    holder: str
    renewed: int
    contested: Fence | None
    granted: bool = False
    outran: int = 0
    held: int = 0

    @property
    def behind(self) -> bool:
        """Whether devices hold a fence that makes them refuse what this database gives."""
        return self.held > max(self.fences, default=0)

    @property
    def newest(self) -> Fence | None:
        """The fence that counts; None before the first."""
        if not self.fences:
            return None
        fence = max(self.fences)
        return Fence(fence, self.fences[fence])


def known(connection: sa.Connection, asked: Sequence[int] = ()) -> Known:
    """What the database knows, of the newest fence and of those that are asked for."""
    row = connection.execute(sa.select(OWNERSHIP)).one()
    lease = connection.execute(sa.select(LEASE).where(LEASE.c.name == LEASE_NAME)).first()
    fences = connection.execute(
        sa.select(FENCE.c.fence, FENCE.c.instance).where(
            FENCE.c.fence.in_([newest(connection), *asked])
        )
    )
    grant = load(row.takeover, _Grant) if row.takeover else None
    return Known(
        database=row.database,
        fences={one.fence: one.instance for one in fences},
        holder=lease.holder if lease else "",
        renewed=lease.renewals if lease else 0,
        contested=load(row.contested, Fence) if row.contested else None,
        granted=grant is not None,
        outran=grant.fence if grant else 0,
        held=_held(connection) if grant is not None else 0,
    )


class _Held(msgspec.Struct):
    """Of a report."""

    desired_fence: int = 0


def _held(connection: sa.Connection) -> int:
    """The highest fence of the devices' reports, as far as the next one can be above it.

    What is further away is a lie, or a device that was led there step by step: a fence above it
    would be refused by all others.
    """
    most = newest(connection) + limits.MAX_FENCE_STEP - 1
    reports = connection.execute(sa.select(DEVICE.c.reported).where(DEVICE.c.reported.isnot(None)))
    fences = [load(report, _Held).desired_fence for (report,) in reports]
    return max((fence for fence in fences if fence <= most), default=0)


def newest(connection: sa.Connection) -> int:
    """The fence that counts; 0 before the first."""
    return int(connection.scalar(sa.select(sa.func.max(FENCE.c.fence))) or 0)


def take(
    store: Store, instance: str, now: float, seconds: float, *, gone: str | None = None
) -> bool:
    """Takes or renews the lease of the owner, and gives a new owner its fence.

    Args:
        store: the database.
        instance: which process.
        now: seconds since the epoch.
        seconds: how long the lease lasts.
        gone: a process whose leases need not be waited for: the broker says that it is gone.

    Returns:
        Whether `instance` has the lease.
    """
    if gone is None:
        with store.read() as connection:
            last = connection.execute(_LAST).first()
            mine = last is not None and last.instance == instance
            if mine and leases.holds(connection, LEASE_NAME, instance, now, seconds):
                return True
    with store.write() as connection:
        if gone is not None:
            leases.free_all(connection, gone)
        if not leases.take(connection, store, LEASE_NAME, instance, now, seconds):
            return False
        last = connection.execute(_LAST).first()
        if last is None or last.instance != instance:
            _give(connection, instance, above=0, now=now)
    return True


def _give(connection: sa.Connection, instance: str, *, above: int, now: float) -> int:
    """A new fence: the seconds since the epoch, or higher where they were.

    So it is above those that another copy of this database gave meanwhile, which this one does
    not know of. A clock that was never set counts for nothing.
    """
    before = max(newest(connection), above)
    fence = max(before + 1, int(now) if now >= EARLIEST else 0)
    if fence > _HIGHEST:
        raise UnavailableError("no-fence", f"the fence {before} cannot grow: make a new fleet")
    connection.execute(FENCE.insert().values(fence=fence, instance=instance, since=now))
    old = sa.select(FENCE.c.fence).order_by(FENCE.c.fence.desc()).offset(_KEEP).limit(1)
    connection.execute(FENCE.delete().where(FENCE.c.fence <= old.scalar_subquery()))
    return fence


def outrun(store: Store, instance: str, other: int, now: float) -> None:
    """Gives a fence above another owner's, as a person has said that the fleet is to be taken.

    Devices may hold desired documents that this database never gave: all are sent again.
    """
    with store.write() as connection:
        above = max(other, _held(connection))
        fence = _give(connection, instance, above=above, now=now)
        desired.reissue(connection, now)
        row = connection.execute(sa.select(OWNERSHIP)).one()
        grant = load(row.takeover, _Grant) if row.takeover else _Grant("", now)
        noted = msgspec.structs.replace(grant, fence=fence)
        connection.execute(OWNERSHIP.update().values(takeover=dump(noted), contested=None))


def grant(connection: sa.Connection, by: str, now: float) -> None:
    """Notes a person's word that the fleet is to be taken from another owner."""
    connection.execute(OWNERSHIP.update().values(takeover=dump(_Grant(by, now))))


def settle(connection: sa.Connection) -> None:
    """Forgets what was noted of other owners."""
    connection.execute(OWNERSHIP.update().values(takeover=None, contested=None))


def contest(connection: sa.Connection, other: Fence) -> None:
    """Notes an owner that lives but does not use this database."""
    connection.execute(OWNERSHIP.update().values(contested=dump(other)))


def become_another(connection: sa.Connection, now: float) -> None:
    """Makes this database another one than that which it was copied from."""
    fence = max(newest(connection) + _LEAP, int(now))
    connection.execute(FENCE.delete())
    connection.execute(FENCE.insert().values(fence=fence, instance="restored", since=now))
    connection.execute(LEASE.update().values(holder="", expires_at=0, asked_until=0))
    connection.execute(
        OWNERSHIP.update().values(database=secrets.token_hex(16), contested=None, takeover=None)
    )
