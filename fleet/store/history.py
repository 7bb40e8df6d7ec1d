"""Statements on what devices did: events of updates, results of local sources."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from fleet.store.documents import load
from fleet.store.schema import RESULT, UPDATE_EVENT


class Update(msgspec.Struct, frozen=True):
    """A stored event of an update."""

    id: int
    received_at: float
    event: dict[str, Any]


class Output(msgspec.Struct, frozen=True):
    """A stored result of a local source."""

    source: str
    at: float
    label: str
    confidence: float
    bundle: dict[str, Any]
    text: str | None


def updates(
    connection: sa.Connection, device: str, before: int | None, limit: int
) -> tuple[list[Update], int | None]:
    """A device's events, newest first; and the id to go on before."""
    query = (
        sa.select(UPDATE_EVENT.c.id, UPDATE_EVENT.c.received_at, UPDATE_EVENT.c.event)
        .where(UPDATE_EVENT.c.device == device)
        .order_by(UPDATE_EVENT.c.id.desc())
        .limit(limit + 1)
    )
    if before is not None:
        query = query.where(UPDATE_EVENT.c.id < before)
    rows = connection.execute(query).all()
    found = [Update(r.id, r.received_at, load(r.event, dict[str, Any])) for r in rows[:limit]]
    return found, (found[-1].id if len(rows) > limit else None)


def results(connection: sa.Connection, device: str, limit: int) -> list[Output]:
    """A device's newest results."""
    rows = connection.execute(
        sa.select(RESULT)
        .where(RESULT.c.device == device)
        .order_by(RESULT.c.received_at.desc(), RESULT.c.at.desc())
        .limit(limit)
    )
    return [
        Output(r.source, r.at, r.label, r.confidence, load(r.bundle, dict[str, Any]), r.text)
        for r in rows
    ]
