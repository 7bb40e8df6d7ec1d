"""Rows of the audit log: what every entry of it has, and that each is small."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from fleet.store.documents import dump
from fleet.store.schema import AUDIT

DONE: Final = "done"
BEGUN: Final = "begun"
_MAX_TEXT: Final = {"actor": 128, "role": 16, "action": 64, "target": 256, "outcome": 64}
_MAX_DETAIL: Final = 8192
"""Characters of the JSON of an entry's detail; what is longer is left out, and said to be."""


CLIENT_HEADER: Final = "Shoal-Client"
"""A header in which a program says who uses it, percent-encoded: ``cli:USER@HOST``."""

CLIENT: Final[ContextVar[str]] = ContextVar("client", default="")
"""What the program says of itself whose request is served: who sits at the command line."""


class Actor(msgspec.Struct, frozen=True):
    """Who does it.

    Attributes:
        name: a token's name, ``cli:USER@HOST``, a device's name, ``controller``, or an address.
        role: a token's role; ``folder``: who has the fleet's folder; ``device``;
            ``controller``; ``nobody``: without a valid token.
        by: the way: ``api``, ``dashboard``, ``command line``, ``controller``.
    """

    name: str
    role: str
    by: str = "api"


def insert(
    connection: sa.Connection,
    actor: Actor,
    action: str,
    target: str,
    detail: dict[str, Any],
    at: float,
    outcome: str,
    times: int = 1,
) -> int:
    """Appends an entry; returns its id."""
    result = connection.execute(
        AUDIT.insert()
        .values(
            at=at,
            actor=cut("actor", actor.name),
            role=cut("role", actor.role),
            action=cut("action", action),
            target=cut("target", target),
            detail=detail_text(said(actor, detail)),
            outcome=cut("outcome", outcome),
            times=times,
        )
        .returning(AUDIT.c.id)
    )
    return int(result.scalar_one())


def failed() -> sa.ColumnElement[bool]:
    """Entries of what was refused or failed."""
    return AUDIT.c.outcome.not_in((DONE, BEGUN))


def said(actor: Actor, detail: dict[str, Any]) -> dict[str, Any]:
    """A detail that also tells the way."""
    if actor.by:
        detail = detail | {"by": actor.by}
    client = CLIENT.get()
    return detail | {"client": client} if client else detail


def cut(column: str, text: str) -> str:
    """`text` as the column holds it."""
    # PostgreSQL keeps no NUL; a lone surrogate is no text.
    text = text.replace("\0", " ").encode("utf-8", "replace").decode()
    return text[: _MAX_TEXT[column]]


def detail_text(detail: dict[str, Any]) -> str:
    """A detail as JSON, or that it was left out."""
    try:
        text = dump(detail)
    except (TypeError, UnicodeEncodeError):
        return dump({"left_out": "what is no JSON"})
    if len(text) > _MAX_DETAIL:
        return dump({"left_out": f"{len(text)} characters", "fields": sorted(detail)[:20]})
    return text
