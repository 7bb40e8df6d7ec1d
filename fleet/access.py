"""Who may use the API, and which webhooks are told: made and taken back, each in the audit log.

For the API and the dashboard alike.
"""

from __future__ import annotations

import contextlib
import difflib
import secrets
from collections.abc import Sequence
from typing import Final

from contracts.errors import InputError, RefusedError
from fleet.controller import Controller
from fleet.store import audit, tokens, webhooks
from fleet.store.entries import Actor
from fleet.store.tokens import Token
from fleet.store.webhooks import Webhook

MAX_NAME: Final = 128
MAX_SECONDS: Final = 10 * 366 * 24 * 3600.0
MAX_URL: Final = 2000


def new_token(
    controller: Controller, name: str, role: str, seconds: float | None, actor: Actor
) -> str:
    """Makes a token and returns it: the only time that its secret is seen.

    Args:
        controller: of the fleet.
        name: of who gets it.
        role: what it may.
        seconds: how long it lasts; None: until it is revoked.
        actor: who makes it.

    Raises:
        InputError: ``bad-name``, ``bad-role``, ``bad-duration``.
    """
    if not name.strip() or len(name) > MAX_NAME:
        raise InputError("bad-name", f"a token has a name of 1 to {MAX_NAME} characters")
    if seconds is not None and not 0 < seconds <= MAX_SECONDS:
        raise InputError("bad-duration", "a token lasts up to ten years")
    now = controller.clock()
    until = now + seconds if seconds is not None else None
    with controller.store.write() as connection:
        secret = tokens.create(connection, name, role, now, until)
        audit.note_by(connection, actor, "token.create", name, now, role=role)
    return secret


def revoke_token(controller: Controller, identifier: str, own: Token, actor: Actor) -> None:
    """Revokes a token.

    Raises:
        RefusedError: ``own-token``; it is that of who asks.
        InputError: ``no-such-token``.
    """
    if identifier == own.id:
        raise RefusedError("own-token", "a token cannot revoke itself: use another admin token")
    now = controller.clock()
    with controller.store.write() as connection:
        tokens.revoke(connection, identifier, now)
        audit.note_by(connection, actor, "token.revoke", identifier, now)


def new_webhook(
    controller: Controller, url: str, events: Sequence[str], secret: str | None, actor: Actor
) -> Webhook:
    """Adds a webhook; its secret signs every delivery.

    Raises:
        InputError: ``bad-url``, ``bad-event``, and what the address refuses.
        RefusedError: ``too-many``.
    """
    if len(url) > MAX_URL or not url.startswith(("http://", "https://")):
        raise InputError("bad-url", "a webhook is an http or https URL of at most 2000 characters")
    for event in set(events) - {"*", *webhooks.KINDS}:
        near = difflib.get_close_matches(event[:64], webhooks.KINDS, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise InputError(
            "bad-event",
            f"no event is called {event[:64]!r}; {guess}known: *, {', '.join(webhooks.KINDS)}",
        )
    now = controller.clock()
    host, port = webhooks.endpoint(url)
    with contextlib.suppress(OSError):  # a name that is not known now may be later
        controller.webhook_hosts.resolve(host, port)
    hook = Webhook(
        f"w{secrets.token_hex(6)}", url, secret or secrets.token_urlsafe(32), list(events), now, 1
    )
    with controller.store.write() as connection:
        if len(webhooks.every(connection)) >= webhooks.MAX_WEBHOOKS:
            raise RefusedError("too-many", f"there are {webhooks.MAX_WEBHOOKS} webhooks already")
        webhooks.add(connection, hook)
        # The rest of a URL is often a secret; the log is for operators too.
        audit.note_by(
            connection, actor, "webhook.create", hook.id, now,
            to=webhooks.origin(hook.url), events=hook.events,
        )  # fmt: skip
    return hook


def remove_webhook(controller: Controller, webhook: str, actor: Actor) -> None:
    """Removes a webhook, and what was still to be delivered to it.

    Raises:
        InputError: ``no-such-webhook``.
    """
    now = controller.clock()
    with controller.store.write() as connection:
        webhooks.remove(connection, webhook)
        audit.note_by(connection, actor, "webhook.delete", webhook, now)
