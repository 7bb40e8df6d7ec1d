"""What pages do beyond reading: each change checked against the role, and in the audit log.

Methods block: pages call them on a thread. A button that is hidden protects nothing: the role is
checked here, with the token as it is worth now.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from contracts import board
from contracts.answers import Logged
from contracts.errors import InputError, RefusedError, ShoalError
from contracts.messages import BundleRef, DeviceLabels
from fleet import access, logtail
from fleet.alerts import rule as rules
from fleet.alerts.rule import Rule
from fleet.controller import Controller
from fleet.dashboard.uploads import Upload, Uploads
from fleet.identity.registry import Invitation
from fleet.joining import invitations, offers, table
from fleet.joining.invitations import Wanted
from fleet.joining.offers import Offer
from fleet.lookout import commands
from fleet.membership import labelling, leaving
from fleet.membership.labelling import Relabelling
from fleet.store import listing, tokens, webhooks
from fleet.store.entries import Actor
from fleet.store.listing import Listing
from fleet.store.tokens import Role, Token
from fleet.store.webhooks import Webhook

MAX_OFFERS: Final = 200
"""Lines that one page makes at once; more come from `shoal fleet enroll --csv`."""

MAX_REVOKED: Final = 50
"""Devices that are revoked at once."""

MAX_HOURS: Final = 720.0


class Work:
    """Changes of one controller's fleet.

    Args:
        controller: whose.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._fleet = controller.fleet
        self.uploads = Uploads(controller.fleet.folder)

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

    # Devices that join --------------------------------------------------------------------

    def boards(self) -> list[str]:
        """Boards that join by a line."""
        return [name for name in board.names() if board.load(name).kind == "linux"]

    def offer(
        self,
        name: str,
        count: int,
        kind: str,
        labels: DeviceLabels | None,
        groups: list[str] | None,
        hours: float,
        token: Token,
        *,
        replace: bool = False,
    ) -> list[Offer]:
        """The line for one device, or for many with a number each: as `shoal fleet enroll`.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``bad-count``, ``bad-duration``, and what making the lines refuses.
        """
        with self._as(token, "admin", "device.token", name[:200]) as actor:
            if not 1 <= count <= MAX_OFFERS:
                raise InputError("bad-count", f"1 to {MAX_OFFERS} devices at once, not {count}")
            if not 0 < hours <= MAX_HOURS:
                raise InputError("bad-duration", f"a line lasts up to {MAX_HOURS:.0f} hours")
            wanted = [Wanted(name, kind, labels, groups)]
            if count > 1:
                wanted = table.numbered(name, count, kind, labels, groups)
            return offers.make(
                self._fleet, wanted, seconds=hours * 3600, replace=replace, actor=actor
            )

    def missing(self, boards: Sequence[str]) -> list[str]:
        """Commands without which there is nothing to install on a board."""
        return offers.missing(self._fleet, boards)

    def open_offers(self, token: Token) -> list[Invitation]:
        """Lines that may still be typed, without their secrets.

        Raises:
            RefusedError: ``forbidden``.
        """
        with self._as(token, "admin", "device.token-list", ""):
            now = self._controller.clock()
            return [one for one in invitations.every(self._fleet) if one.state(now) == "open"]

    def take_back(self, which: str, token: Token) -> int:
        """Takes a line back that was not typed yet, by its id.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``no-such-token``.
        """
        with self._as(token, "admin", "device.token-revoke", which[:200]) as actor:
            return invitations.revoke(self._fleet, which, actor)

    # Logs ---------------------------------------------------------------------------------

    def logs(self, device: str, follow_s: float, token: Token) -> AsyncGenerator[Logged, None]:
        """A device's log; once, or as it grows.

        Raises:
            RefusedError: ``forbidden``.
            ShoalError: while it is read, what :func:`fleet.logtail.read` raises.
        """
        with self._as(token, "operator", logtail.ACTION, device[:200]) as actor:
            wanted = logtail.Wanted(follow_s=follow_s)
            return logtail.read(self._controller, device, wanted, actor)

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

    # Labels, groups, and who leaves ---------------------------------------------------------

    def matching(self, wanted: Listing) -> list[str]:
        """The names of all devices of a list.

        Raises:
            InputError: ``too-many``.
        """
        with self._controller.store.read() as connection:
            found = listing.names(connection, wanted, labelling.MAX_DEVICES + 1)
        if len(found) > labelling.MAX_DEVICES:
            raise InputError("too-many", f"over {labelling.MAX_DEVICES} devices: narrow the list")
        return found

    def relabel(self, names: Sequence[str], change: Relabelling, token: Token) -> int:
        """Changes labels and groups of devices; returns of how many.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``no-devices``, and what the change refuses.
        """
        controller, target = self._controller, f"{len(names)} devices"
        with self._as(token, "operator", "device.change", target) as actor:
            if not names:
                raise InputError("no-devices", "No device is chosen.")
            changed = labelling.relabel(
                self._fleet, controller.store, names, change, actor, controller.clock()
            )
        controller.wake()
        return changed

    def revoke(self, names: Sequence[str], token: Token) -> list[str]:
        """Revokes devices; returns what is left to do.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``no-devices``, ``too-many``, ``no-such-device``.
        """
        with self._as(token, "admin", "device.revoke", f"{len(names)} devices") as actor:
            if not names:
                raise InputError("no-devices", "No device is chosen.")
            if len(names) > MAX_REVOKED:
                raise InputError("too-many", f"at most {MAX_REVOKED} devices at once")
            done = [leaving.revoke(self._fleet, name, actor) for name in names]
        self._controller.wake()
        return sorted({one.todo for one in done if one.todo})

    # Bundles --------------------------------------------------------------------------------

    def receive(
        self, identifier: str, name: str, size: int, offset: int, data: bytes, token: Token
    ) -> Upload:
        """A part of a file, a bundle or its report; without an identifier, the first.

        Raises:
            RefusedError: ``forbidden``.
            InputError, UnavailableError: what :class:`~fleet.dashboard.uploads.Uploads` refuses.
        """
        with self._as(token, "admin", "bundle.publish", name[:200]):
            if identifier:
                return self.uploads.add(identifier, offset, data, token.id)
            begun = self.uploads.begin(name, size, token.id)
            try:
                return self.uploads.add(begun.id, offset, data, token.id)
            except ShoalError:
                self.uploads.drop(begun.id)
                raise

    def publish(self, upload: Upload, token: Token, report: str = "") -> BundleRef:
        """Checks and publishes what came whole, as `shoal fleet publish`; it is removed then.

        Args:
            upload: the bundle.
            token: whose.
            report: the upload of its build report, which came before; empty: there is none.

        Raises:
            RefusedError: ``forbidden``, ``version-taken``.
            ShoalError: what the bundle and the repository raise.
        """
        try:
            with self._as(token, "admin", "bundle.publish", upload.path.name) as actor:
                beside = self.uploads.find(report, token.id).path if report else None
                return self._fleet.publish(upload.path, beside, actor=actor)[0]
        finally:
            self.uploads.drop(upload.id)
            self.uploads.drop(report)

    def withdraw(self, name: str, version: str, token: Token) -> None:
        """Takes a bundle out of the signed list.

        Raises:
            RefusedError: ``forbidden``.
            InputError: ``no-such-bundle``, and what the repository raises.
        """
        with self._as(token, "admin", "bundle.withdraw", f"{name} {version}"[:200]) as actor:
            self._fleet.withdraw(name, version, actor=actor)


def pairs(text: str) -> DeviceLabels | None:
    """Labels as they are typed: ``site=lyon, floor=2``; None: nothing was typed.

    Raises:
        InputError: ``bad-label``.
    """
    found: DeviceLabels = {}
    for part in words(text):
        key, sign, value = part.partition("=")
        if not sign or not key.strip():
            raise InputError("bad-label", f"label {part[:80]!r} is not key=value")
        found[key.strip()] = value.strip()
    return found or None


def words(text: str) -> list[str]:
    """What is typed with commas, or each on a line of its own."""
    return [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
