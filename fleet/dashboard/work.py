"""What pages do beyond reading: each change checked against the role, and in the audit log.

Methods block: pages call them on a thread. A button that is hidden protects nothing: the role is
checked here, with the token as it is worth now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from contracts import board
from contracts.errors import InputError, RefusedError
from contracts.messages import DeviceLabels
from fleet.controller import Controller
from fleet.identity.registry import Invitation
from fleet.joining import invitations, offers, table
from fleet.joining.invitations import Wanted
from fleet.joining.offers import Offer
from fleet.store.entries import Actor
from fleet.store.tokens import Role, Token

MAX_OFFERS: Final = 200
"""Lines that one page makes at once; more come from `shoal fleet enroll --csv`."""

MAX_HOURS: Final = 720.0


class Work:
    """Changes of one controller's fleet.

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
