"""Statements on the audit log: every change, by whom, in the change's own transaction."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from fleet.store.documents import dump, load
from fleet.store.schema import AUDIT


class Entry(msgspec.Struct, frozen=True):
    """One change."""

    id: int
    at: float
    actor: str
    role: str
    action: str
    target: str
    detail: dict[str, Any]


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
    """Appends an entry."""
    connection.execute(
        AUDIT.insert().values(
            at=at,
            actor=actor,
            role=role,
            action=action,
            target=target[:256],
            detail=dump(detail or {}),
        )
    )


def page(
    connection: sa.Connection, before: int | None, limit: int
) -> tuple[list[Entry], int | None]:
    """Entries, newest first; and the id to go on before."""
    query = sa.select(AUDIT).order_by(AUDIT.c.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(AUDIT.c.id < before)
    rows = connection.execute(query).all()
    found = [
        Entry(r.id, r.at, r.actor, r.role, r.action, r.target, load(r.detail, dict[str, Any]))
        for r in rows[:limit]
    ]
    return found, (found[-1].id if len(rows) > limit else None)
