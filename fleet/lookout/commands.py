"""What people do about alerts, each in the audit log: for the API and the dashboard alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from contracts.errors import RefusedError
from fleet.alerts.rule import Rule
from fleet.lookout.lookout import Lookout
from fleet.smtp import check_address
from fleet.store import Store, alerts, audit, mail, webhooks
from fleet.store.entries import Actor


class Delivery(msgspec.Struct, frozen=True):
    """How one delivery went, or goes; `next_at`: None: it is not tried (any more)."""

    way: Literal["webhook", "mail"]
    id: int
    event: str
    to: str
    attempts: int
    next_at: float | None
    delivered_at: float | None
    error: str | None


def add(store: Store, rule: Rule, actor: Actor, now: float) -> None:
    """Adds a rule.

    Raises:
        RefusedError: ``too-many``, ``name-taken``.
    """
    with store.write() as connection:
        alerts.add_rule(connection, rule)
        audit.note_by(
            connection, actor, "alert.add", rule.id, now,
            kind=rule.kind, selector=rule.selector, threshold=rule.threshold, emails=rule.emails,
        )  # fmt: skip


def remove(store: Store, rule: str, actor: Actor, now: float) -> None:
    """Removes a rule.

    Raises:
        InputError: ``no-such-rule``.
    """
    with store.write() as connection:
        alerts.remove_rule(connection, rule, now)
        audit.note_by(connection, actor, "alert.remove", rule, now)


def silence(store: Store, rule: str, seconds: float, actor: Actor, now: float) -> Rule:
    """Has nobody told of a rule's alerts for a while; 0: they are told again.

    Raises:
        InputError: ``no-such-rule``.
    """
    with store.write() as connection:
        alerts.silence(connection, rule, now + seconds if seconds > 0 else 0.0)
        audit.note_by(connection, actor, "alert.silence", rule, now, seconds=seconds)
        return alerts.rule(connection, rule)


def test(
    store: Store, lookout: Lookout, to: Sequence[str], actor: Actor, now: float
) -> tuple[int, list[int]]:
    """Sends a test message; for how many webhooks, and the ids of mail.

    Raises:
        InputError: ``bad-address``.
        RefusedError: ``nobody-to-tell``.
    """
    recipients = [check_address(one) for one in dict.fromkeys(to)]
    with store.write() as connection:
        hooks, mails = lookout.test(connection, recipients, actor.name)
        if not hooks and not mails:
            raise RefusedError(
                "nobody-to-tell",
                "nobody would be told of an alert: add a webhook (`POST /v1/webhooks`), or `mail` "
                "with a server and `to` in fleet.yaml, and start the controller again",
            )
        audit.note_by(
            connection, actor, "alert.test", ",".join(recipients)[:200], now,
            webhooks=hooks, mails=len(mails),
        )  # fmt: skip
    return hooks, mails


def deliveries(store: Store, limit: int) -> list[Delivery]:
    """How deliveries of alerts went, the newest of each way first."""
    with store.read() as connection:
        hooks = webhooks.outcomes(connection, "alert-", limit)
        mails = mail.newest(connection, limit)
    found = [
        Delivery(
            "webhook", one.id, one.event, one.to, one.attempts, one.next_at, one.delivered_at,
            one.error,
        )
        for one in hooks
    ]  # fmt: skip
    found += [
        Delivery(
            "mail", one.id, one.event, one.recipient, one.attempts, one.next_at, one.delivered_at,
            one.error,
        )
        for one in mails
    ]  # fmt: skip
    return found
