"""The audit log: every change, by whom, and what was refused.

What is changed in the database is noted by :func:`note` in the change's own transaction. What is
changed beside it (signed files, keys, backups) is put into :func:`acting`: the entry is written
first, as ``begun``, and says at the end how it went, so that a process that is killed half-way
leaves one that says so. What is refused, or fails, is counted by :func:`count`: one entry for each
actor, action and minute, and a bounded number of entries a day, whoever asks how often.
"""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from contracts.errors import ShoalError
from fleet.store.database import Store
from fleet.store.documents import load
from fleet.store.entries import BEGUN, DONE, Actor, cut, detail_text, failed, insert, said
from fleet.store.schema import AUDIT

DEFECT: Final = "defect"
"""Outcome of what ended with an error that is not one of ours."""

OTHERS: Final = "others"
"""The actor of failures beyond the bounds: how many there were is known, not whose."""

KEEP_FAILURES_S: Final = 90 * 24 * 3600.0
"""Seconds for which an entry of a failure is kept; changes are kept for ever."""

MAX_A_MINUTE: Final = 20
"""Entries of failures that begin within one minute; all else is counted as of others."""

MAX_A_DAY: Final = 1000
"""Entries of failures that begin within one day; all else is counted by the hour, as of others."""

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 24 * _HOUR

NOBODY: Final = "nobody"
"""The role of who has no valid token."""

CONTROLLER: Final = Actor("controller", "controller", "controller")


def local() -> Actor:
    """Who has the folder at hand: the user of this machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "?"
    return Actor(f"cli:{user}@{socket.gethostname()}", "folder", "command line")


class Entry(msgspec.Struct, frozen=True):
    """One change, or what was refused.

    Attributes:
        outcome: ``done``; ``begun``: it was never said how it ended; else an error's code.
        times: how often, up to `until`: failures of a kind share an entry.
        until: when it happened last; None: once.
    """

    id: int
    at: float
    actor: str
    role: str
    action: str
    target: str
    detail: dict[str, Any]
    outcome: str = DONE
    times: int = 1
    until: float | None = None


class Filter(msgspec.Struct, frozen=True):
    """Which entries; what is None, or empty, is not asked.

    Attributes:
        actor, action, target: the beginning of each.
        since, until: seconds since the epoch.
        failed: True: only what was refused or failed; False: only changes.
    """

    actor: str = ""
    action: str = ""
    target: str = ""
    since: float | None = None
    until: float | None = None
    failed: bool | None = None


ALL: Final = Filter()


# Writing. -----------------------------------------------------------------------------------


def note(
    connection: sa.Connection,
    *,
    at: float,
    actor: str,
    role: str,
    action: str,
    target: str,
    detail: dict[str, Any] | None = None,
) -> None:
    """Notes a change, in the transaction that makes it."""
    insert(connection, Actor(actor, role, ""), action, target, detail or {}, at, DONE)


def note_by(
    connection: sa.Connection, actor: Actor, action: str, target: str, at: float, **detail: Any
) -> None:
    """As :func:`note`, by an :class:`Actor`."""
    insert(connection, actor, action, target, detail, at, DONE)


class Act:
    """A change that has begun; see :func:`acting`.

    Attributes:
        target: what is changed, as far as it is known.
        detail: what the entry says of it at its end.
    """

    def __init__(self, identifier: int, target: str, detail: dict[str, Any]) -> None:
        self._id = identifier
        self.target = target
        self.detail = detail

    def done(self, connection: sa.Connection) -> None:
        """Notes that it is done, in a transaction of the caller's, with what belongs to it."""
        connection.execute(
            AUDIT.update()
            .where(AUDIT.c.id == self._id)
            .values(
                target=cut("target", self.target), detail=detail_text(self.detail), outcome=DONE
            )
        )


@contextmanager
def acting(
    store: Store,
    actor: Actor,
    action: str,
    target: str = "",
    *,
    clock: Callable[[], float] = time.time,
    **detail: Any,
) -> Iterator[Act]:
    """The entry of a change that is made beside the database: signed files, keys, a backup.

    It is committed before anything is changed; without it nothing is. Afterwards it says how it
    ended. A caller that also changes the database calls :meth:`Act.done` in that transaction.

    Raises:
        UnavailableError: the database cannot be written now.
    """
    at = clock()
    with _checked(store), store.write() as connection:
        identifier = insert(connection, actor, action, target, detail, at, BEGUN)
    act = Act(identifier, target, dict(said(actor, detail)))
    try:
        yield act
    except BaseException as error:
        # The error that is raised is the caller's, also when this cannot be written now.
        with suppress(ShoalError), store.write() as connection:
            begun = AUDIT.delete().where(AUDIT.c.id == identifier, AUDIT.c.outcome == BEGUN)
            if connection.execute(begun).rowcount:
                _count(connection, actor, action, act.target, act.detail, at, outcome_of(error))
        raise
    with store.write() as connection:
        act.done(connection)


@contextmanager
def trying(
    store: Store,
    actor: Actor,
    action: str,
    target: str = "",
    *,
    clock: Callable[[], float] = time.time,
) -> Iterator[None]:
    """Counts it when what is done inside fails; what succeeds notes itself, by :func:`note`."""
    try:
        yield
    except Exception as error:
        with suppress(ShoalError):
            count(store, actor, action, target, outcome_of(error), clock())
        raise


def count(
    store: Store,
    actor: Actor,
    action: str,
    target: str,
    outcome: str,
    at: float,
    *,
    times: int = 1,
) -> None:
    """Counts what was refused or failed, in a transaction of its own.

    Entries are bounded (:data:`MAX_A_MINUTE`, :data:`MAX_A_DAY`), however many actors there are.
    What is repeated and harmless, as signing in, may be counted too, as ``done``: one entry an
    actor and minute.

    Raises:
        UnavailableError: the database cannot be written now.
    """
    with _checked(store), store.write() as connection:
        _count(connection, actor, action, target, said(actor, {}), at, outcome, times)


def outcome_of(error: BaseException) -> str:
    """What an entry says of an error."""
    if isinstance(error, ShoalError):
        return error.code
    if isinstance(error, OSError):
        return "file-error"
    return "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else DEFECT


def forget(connection: sa.Connection, now: float) -> int:
    """Removes old entries of failures; returns how many. What was changed is never removed."""
    gone = connection.execute(AUDIT.delete().where(failed(), AUDIT.c.at < now - KEEP_FAILURES_S))
    return gone.rowcount


# Reading. -----------------------------------------------------------------------------------


def page(
    connection: sa.Connection, before: int | None, limit: int, wanted: Filter = ALL
) -> tuple[list[Entry], int | None]:
    """Entries, newest first; and the id to go on before."""
    query = sa.select(AUDIT).order_by(AUDIT.c.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(AUDIT.c.id < before)
    for column in (AUDIT.c.actor, AUDIT.c.action, AUDIT.c.target):
        beginning: str = getattr(wanted, column.name)
        if beginning:
            query = query.where(column.startswith(beginning, autoescape=True))
    if wanted.since is not None:
        query = query.where(sa.func.coalesce(AUDIT.c.until, AUDIT.c.at) >= wanted.since)
    if wanted.until is not None:
        query = query.where(AUDIT.c.at < wanted.until)
    if wanted.failed is not None:
        query = query.where(failed() if wanted.failed else sa.not_(failed()))
    rows = connection.execute(query).all()
    found = [
        Entry(
            r.id, r.at, r.actor, r.role, r.action, r.target, load(r.detail, dict[str, Any]),
            r.outcome, r.times, r.until,
        )
        for r in rows[:limit]
    ]  # fmt: skip
    return found, (found[-1].id if len(rows) > limit else None)


# Parts. -------------------------------------------------------------------------------------


def _count(
    connection: sa.Connection,
    actor: Actor,
    action: str,
    target: str,
    detail: dict[str, Any],
    at: float,
    outcome: str,
    times: int = 1,
) -> None:
    if _add(connection, actor, action, target, at, outcome, times, span=_MINUTE):
        return
    if outcome == DONE:
        insert(connection, actor, action, target, detail, at, outcome, times)
        return
    minute, day = (_failures(connection, actor.role, at, span) for span in (_MINUTE, _DAY))
    if minute < MAX_A_MINUTE and day < MAX_A_DAY:
        insert(connection, actor, action, target, detail, at, outcome, times)
        return
    others, span = Actor(OTHERS, actor.role, actor.by), _MINUTE if day < MAX_A_DAY else _HOUR
    if not _add(connection, others, action, "", at, outcome, times, span=span):
        insert(connection, others, action, "", {}, at, outcome, times)


def _add(
    connection: sa.Connection,
    actor: Actor,
    action: str,
    target: str,
    at: float,
    outcome: str,
    times: int,
    *,
    span: int,
) -> bool:
    """Adds to the entry of the same kind of this minute or hour, if there is one."""
    same = {"actor": actor.name, "role": actor.role, "action": action, "target": target}
    same["outcome"] = outcome
    found = connection.scalar(
        sa.select(sa.func.max(AUDIT.c.id)).where(
            AUDIT.c.at >= at // span * span,
            *(AUDIT.c[name] == cut(name, text) for name, text in same.items()),
        )
    )
    if found is None:
        return False
    connection.execute(
        AUDIT.update().where(AUDIT.c.id == found).values(times=AUDIT.c.times + times, until=at)
    )
    return True


def _failures(connection: sa.Connection, role: str, at: float, span: int) -> int:
    """How many entries of failures began in this minute or day; those of others apart.

    Those without a valid token have bounds of their own: they hide nobody's who has one.
    """
    nobody = AUDIT.c.role == NOBODY
    query = sa.select(sa.func.count()).where(
        AUDIT.c.at >= at // span * span,
        failed(),
        AUDIT.c.actor != OTHERS,
        nobody if role == NOBODY else sa.not_(nobody),
    )
    return int(connection.scalar(query) or 0)


@contextmanager
def _checked(store: Store) -> Iterator[None]:
    """An older schema than this program's is named as that."""
    try:
        yield
    except ShoalError:
        store.check()
        raise
