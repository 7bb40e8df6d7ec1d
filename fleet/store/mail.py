"""Statements on mail that is to be sent, and on how that went: one row for each recipient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from fleet.store.schema import MAIL

MAX_ATTEMPTS: Final = 12
FIRST_S: Final = 30.0
"""Seconds from the first failure to the next try; twice as many each time, at most an hour."""

MAX_WAITING: Final = 1000
"""Mail that waits; what comes on top is not kept: a server that is away must not fill the disk."""


class Mail(msgspec.Struct, frozen=True):
    """One message for one recipient."""

    id: int
    event: str
    recipient: str
    subject: str
    body: str
    created_at: float
    attempts: int
    next_at: float | None
    delivered_at: float | None
    error: str | None


def enqueue(
    connection: sa.Connection,
    event: str,
    recipients: Sequence[str],
    subject: str,
    body: str,
    now: float,
) -> list[int]:
    """Notes a message for every recipient; returns the ids."""
    waiting = sa.select(sa.func.count()).where(MAIL.c.next_at.is_not(None))
    room = MAX_WAITING - int(connection.scalar(waiting) or 0)
    found: list[int] = []
    for recipient in recipients:
        fits = len(found) < room
        values = {
            "event": event,
            "recipient": recipient,
            "subject": subject[:200],
            "body": body,
            "created_at": now,
            "next_at": now if fits else None,
            "error": None if fits else f"not kept: {MAX_WAITING} messages wait already",
        }
        result = connection.execute(MAIL.insert().values(**values).returning(MAIL.c.id))
        found.append(int(result.scalar_one()))
    return found


def due(connection: sa.Connection, now: float, limit: int) -> list[Mail]:
    """Messages whose time has come, oldest first."""
    query = sa.select(MAIL).where(MAIL.c.next_at <= now).order_by(MAIL.c.id).limit(limit)
    return [_mail(row) for row in connection.execute(query)]


def newest(connection: sa.Connection, limit: int) -> list[Mail]:
    """Messages, newest first, whatever became of them."""
    query = sa.select(MAIL).order_by(MAIL.c.id.desc()).limit(limit)
    return [_mail(row) for row in connection.execute(query)]


def note_sent(connection: sa.Connection, identifier: int, now: float) -> None:
    """Records that the server took a message."""
    connection.execute(
        MAIL.update()
        .where(MAIL.c.id == identifier)
        .values(delivered_at=now, attempts=MAIL.c.attempts + 1, next_at=None, error=None)
    )


def note_failed(
    connection: sa.Connection, one: Mail, error: str, now: float, *, final: bool
) -> None:
    """Records a failure; `final`: no other try would go better."""
    attempts = one.attempts + 1
    over = final or attempts >= MAX_ATTEMPTS
    connection.execute(
        MAIL.update()
        .where(MAIL.c.id == one.id)
        .values(
            attempts=attempts,
            error=error[:1000],
            next_at=None if over else now + min(FIRST_S * 2 ** (attempts - 1), 3600.0),
        )
    )


def forget(connection: sa.Connection, before: float) -> None:
    """Deletes messages from before a moment."""
    connection.execute(MAIL.delete().where(MAIL.c.created_at < before))


def _mail(row: Any) -> Mail:
    return Mail(**{name: getattr(row, name) for name in Mail.__struct_fields__})
