"""Statements on webhooks: who is told of what, and what is still to be delivered."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import sqlalchemy as sa

from contracts.errors import InputError
from fleet.store.documents import dump, load
from fleet.store.schema import DELIVERY, WEBHOOK

MAX_ATTEMPTS: Final = 16
"""The last some hours after the first."""
MAX_WEBHOOKS: Final = 50
MAX_TEXT_CHARS: Final = 1900
"""Of an event in words: Discord takes 2,000."""

KINDS: Final = (
    *("alert-opened", "alert-resolved", "alert-test", "expiring"),
    *("device-online", "device-offline", "device-failed", "device-cloned", "late-joiner"),
    *("data-dropped", "over-quota"),
    *("rollout-created", "rollout-started", "rollout-paused", "rollout-succeeded"),
    *("rollout-stopped", "rollout-aborted", "wave-began", "wave-passed"),
    *("gate-failed", "approval-needed"),
    *("paused-by-person", "resumed-by-person", "approved-by-person", "aborted-by-person"),
)
"""What webhooks are told of."""

_MENTIONS: Final = str.maketrans({"<": "\u2039", ">": "\u203a", "@": "\uff20"})


class Webhook(msgspec.Struct, frozen=True):
    """Who is told. `events` are kinds of events; ``*`` means all."""

    id: str
    url: str
    secret: str
    events: list[str]
    created_at: float
    version: int


class Delivery(msgspec.Struct, frozen=True):
    """One event for one webhook."""

    id: int
    webhook: Webhook
    event: str
    payload: str
    attempts: int


def endpoint(url: str) -> tuple[str, int]:
    """Host and port of a URL.

    Raises:
        InputError: ``bad-url``.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise InputError("bad-url", f"the URL cannot be used: {error}") from None
    if not parts.hostname:
        raise InputError("bad-url", "the URL names no host: expected https://HOST/...")
    return parts.hostname, port


def origin(url: str) -> str:
    """Scheme, host and port of a URL: what may be told of it."""
    host, port = endpoint(url)
    shown = f"[{host}]" if ":" in host else host
    return f"{urlsplit(url).scheme}://{shown}:{port}"


def every(connection: sa.Connection) -> list[Webhook]:
    """All webhooks, oldest first."""
    rows = connection.execute(sa.select(WEBHOOK).order_by(WEBHOOK.c.created_at, WEBHOOK.c.id))
    return [_webhook(row) for row in rows]


def _webhook(row: Any) -> Webhook:
    return Webhook(
        row.id, row.url, row.secret, load(row.events, list[str]), row.created_at, row.version
    )


def get(connection: sa.Connection, webhook: str) -> Webhook:
    """One webhook; ``InputError`` (``no-such-webhook``) when there is none."""
    row = connection.execute(sa.select(WEBHOOK).where(WEBHOOK.c.id == webhook)).first()
    if row is None:
        raise InputError("no-such-webhook", f"no webhook is called {webhook[:64]!r}")
    return _webhook(row)


def add(connection: sa.Connection, webhook: Webhook) -> None:
    """Stores a new webhook."""
    values = msgspec.structs.asdict(webhook) | {"events": dump(webhook.events)}
    connection.execute(WEBHOOK.insert().values(**values))


def remove(connection: sa.Connection, webhook: str) -> None:
    """Deletes a webhook and what was still to be delivered to it."""
    get(connection, webhook)
    connection.execute(DELIVERY.delete().where(DELIVERY.c.webhook == webhook))
    connection.execute(WEBHOOK.delete().where(WEBHOOK.c.id == webhook))


def enqueue(
    connection: sa.Connection, event: str, facts: dict[str, Any], now: float, *, also: str = ""
) -> int:
    """Notes an event for every webhook that wants it, in the transaction of the event itself.

    Args:
        connection: the transaction.
        event: its kind.
        facts: what is told.
        now: seconds since the epoch.
        also: another kind: who wants that gets this one too.

    Returns:
        For how many.
    """
    payload = dump({"event": event, "at": now, "data": facts, **said(event, facts)})
    rows = [
        {
            "webhook": hook.id,
            "event": event,
            "payload": payload,
            "next_at": now,
        }
        for hook in every(connection)
        if {"*", event, also} & set(hook.events)
    ]
    if rows:
        connection.execute(DELIVERY.insert(), rows)
    return len(rows)


def said(event: str, facts: dict[str, Any]) -> dict[str, Any]:
    """An event in words, under the keys where chats and notifiers look for them.

    ``text``: Slack, Mattermost, Rocket.Chat, Teams; ``content``: Discord; ``title`` and
    ``message``: Gotify, Grafana OnCall, and templates of ntfy. What comes from a device mentions
    nobody in any of them.
    """
    title = event.replace("-", " ").capitalize()
    about = facts.get("rollout") or facts.get("device")
    words = [f"{title}:" if about is None else f"{title}, {about}:", str(facts.get("message", ""))]
    text = "".join(c if c.isprintable() else " " for c in " ".join(words)).strip(" :")
    text = text.translate(_MENTIONS)[:MAX_TEXT_CHARS]
    return {
        "title": title,
        "text": text,
        "content": text,
        "message": text,
        "allowed_mentions": {"parse": []},
    }


def _is_due(now: float) -> sa.ColumnElement[bool]:
    return sa.and_(
        DELIVERY.c.delivered_at.is_(None),
        DELIVERY.c.next_at <= now,
        DELIVERY.c.attempts < MAX_ATTEMPTS,
    )


def waiting(connection: sa.Connection, now: float) -> set[str]:
    """Webhooks for which there is something to deliver."""
    return set(connection.scalars(sa.select(DELIVERY.c.webhook).distinct().where(_is_due(now))))


def due(
    connection: sa.Connection, now: float, limit: int, webhook: str | None = None
) -> list[Delivery]:
    """Deliveries whose time has come, of one webhook or of all, oldest first."""
    hooks = {hook.id: hook for hook in every(connection)}
    wanted = _is_due(now)
    if webhook is not None:
        wanted = sa.and_(wanted, DELIVERY.c.webhook == webhook)
    rows = connection.execute(
        sa.select(DELIVERY).where(wanted).order_by(DELIVERY.c.id).limit(limit)
    )
    return [
        Delivery(row.id, hooks[row.webhook], row.event, row.payload, row.attempts)
        for row in rows
        if row.webhook in hooks
    ]


def note_delivered(connection: sa.Connection, delivery: int, now: float) -> None:
    """Records a success."""
    connection.execute(
        DELIVERY.update()
        .where(DELIVERY.c.id == delivery)
        .values(delivered_at=now, attempts=DELIVERY.c.attempts + 1, error=None)
    )


def note_failed(
    connection: sa.Connection, delivery: int, attempts: int, error: str, now: float
) -> None:
    """Records a failure; the next try is after 2, 4, 8, ... seconds, at most an hour."""
    connection.execute(
        DELIVERY.update()
        .where(DELIVERY.c.id == delivery)
        .values(
            attempts=attempts + 1,
            error=error[:1000],
            next_at=now + min(2.0 ** (attempts + 1), 3600.0),
        )
    )


class Outcome(msgspec.Struct, frozen=True):
    """How one delivery went; `to` says of a URL what may be told of it."""

    id: int
    event: str
    to: str
    attempts: int
    next_at: float | None
    delivered_at: float | None
    error: str | None


def outcomes(connection: sa.Connection, beginning: str, limit: int) -> list[Outcome]:
    """The newest deliveries of events whose kinds begin so, newest first."""
    hooks = {hook.id: origin(hook.url) for hook in every(connection)}
    rows = connection.execute(
        sa.select(DELIVERY)
        .where(DELIVERY.c.event.startswith(beginning, autoescape=True))
        .order_by(DELIVERY.c.id.desc())
        .limit(limit)
    )
    return [
        Outcome(
            row.id,
            row.event,
            hooks.get(row.webhook, row.webhook),
            row.attempts,
            row.next_at if row.delivered_at is None and row.attempts < MAX_ATTEMPTS else None,
            row.delivered_at,
            row.error,
        )
        for row in rows
    ]


def forget(connection: sa.Connection, before: float) -> None:
    """Deletes what was delivered, or given up, before a moment."""
    connection.execute(DELIVERY.delete().where(DELIVERY.c.next_at < before))
