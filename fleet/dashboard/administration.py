"""What admins do beside the devices: alert rules, webhooks, tokens; and who may do what."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from contracts.errors import RefusedError
from fleet import access
from fleet.alerts import rule as rules
from fleet.alerts.rule import Rule
from fleet.controller import Controller
from fleet.lookout import commands
from fleet.store import tokens, webhooks
from fleet.store.entries import Actor
from fleet.store.tokens import Role, Token
from fleet.store.webhooks import Webhook


class Administration:
    """Changes of one controller's alerts and access.

    Args:
        controller: whose.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._fleet = controller.fleet

    @contextmanager
    def _as(self, token: Token, role: Role, action: str, target: str) -> Iterator[Actor]:
        """Who does it.

        Raises:
            RefusedError: ``forbidden``, which is counted in the audit log.
        """
        actor = Actor(token.name, token.role, "dashboard")
        if not token.may(role):
            self._controller.attempts.count(actor, action, target, "forbidden")
            raise RefusedError("forbidden", f"this needs the role {role}")
        yield actor

    # Alerts -------------------------------------------------------------------------------

    def silence(self, rule: str, seconds: float, token: Token) -> None:
        """Has nobody told of a rule's alerts for a while; 0: they are told again.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``no-such-rule``.
        """
        controller = self._controller
        with self._as(token, "operator", "alert.silence", rule[:200]) as actor:
            commands.silence(controller.store, rule, seconds, actor, controller.clock())

    def test_alerts(self, to: Sequence[str], token: Token) -> tuple[int, int]:
        """Sends a test message; to how many webhooks, and to how many addresses.

        Raises:
            RefusedError: ``forbidden``, ``nobody-to-tell``.
            InputError: ``bad-address``.
        """
        controller = self._controller
        with self._as(token, "admin", "alert.test", "") as actor:
            hooks, mails = commands.test(
                controller.store, controller.lookout, to, actor, controller.clock()
            )
        return hooks, len(mails)

    def add_rule(
        self,
        kind: str,
        title: str,
        selected: str,
        threshold: float | None,
        hold_s: float | None,
        emails: Sequence[str],
        token: Token,
    ) -> Rule:
        """Adds an alert rule; what is None is as usual for its kind.

        Raises:
            RefusedError: ``forbidden``, ``too-many``.
            InputError: what :func:`fleet.alerts.rule.new` refuses.
        """
        controller = self._controller
        with self._as(token, "admin", "alert.add", kind[:200]) as actor:
            made = rules.new(
                f"r{secrets.token_hex(4)}", kind, now=controller.clock(), by=token.name,
                title=title, selected=selected, threshold=threshold, hold_s=hold_s, emails=emails,
            )  # fmt: skip
            commands.add(controller.store, made, actor, controller.clock())
        return made

    def remove_rule(self, rule: str, token: Token) -> None:
        """Removes an alert rule; its open alerts are over.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``no-such-rule``.
        """
        with self._as(token, "admin", "alert.remove", rule[:200]) as actor:
            commands.remove(self._controller.store, rule, actor, self._controller.clock())

    def add_webhook(self, url: str, events: Sequence[str], token: Token) -> Webhook:
        """Adds a webhook; its secret is shown this once.

        Raises:
            RefusedError: ``forbidden``, ``too-many``.
            InputError: ``bad-url``, and what the address refuses.
        """
        with self._as(token, "admin", "webhook.create", "") as actor:
            return access.new_webhook(self._controller, url, events, None, actor)

    def remove_webhook(self, webhook: str, token: Token) -> None:
        """Removes a webhook.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``no-such-webhook``.
        """
        with self._as(token, "admin", "webhook.delete", webhook[:200]) as actor:
            access.remove_webhook(self._controller, webhook, actor)

    def webhooks(self, token: Token) -> list[Webhook]:
        """All webhooks.

        Raises:
            RefusedError: ``forbidden``.
        """
        with (
            self._as(token, "admin", "webhook.list", ""),
            self._controller.store.read() as connection,
        ):
            return webhooks.every(connection)

    # Who may what -----------------------------------------------------------------------------

    def tokens(self, token: Token) -> list[Token]:
        """All tokens, without their secrets.

        Raises:
            RefusedError: ``forbidden``.
        """
        with (
            self._as(token, "admin", "token.list", ""),
            self._controller.store.read() as connection,
        ):
            return tokens.every(connection)

    def accounts(self) -> dict[str, list[str]]:
        """Whom an OpenID Connect provider's accounts are, by role; none: there is no provider."""
        config = self._fleet.config.openid
        found = config.roles if config is not None else {}
        return {role: [*whom.emails, *whom.groups] for role, whom in found.items()}

    def new_token(self, name: str, role: str, days: float, token: Token) -> str:
        """Makes a token and returns it, this once; `days` 0: until it is revoked.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``bad-name``, ``bad-role``, ``bad-duration``.
        """
        with self._as(token, "admin", "token.create", name[:200]) as actor:
            seconds = days * 24 * 3600 if days else None
            return access.new_token(self._controller, name.strip(), role, seconds, actor)

    def revoke_token(self, which: str, token: Token) -> None:
        """Revokes a token.

        Raises:
            RefusedError: ``forbidden``, ``own-token``.
            InputError: ``no-such-token``.
        """
        with self._as(token, "admin", "token.revoke", which[:200]) as actor:
            access.revoke_token(self._controller, which, token, actor)
