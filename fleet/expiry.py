"""All that runs out: signatures of roles, certificates, the revocation list, tokens.

One list with dates and what to do for each, from which every warning is made: 30, 7 and 1 days
before, as far as that is less than a quarter of its life. What the controller renews by itself
never comes near its end while the controller runs and has the keys: there it says that it does not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa

from contracts import board as boards
from contracts.connection import read_pem
from contracts.errors import InputError, ShoalError
from fleet.folder import Fleet
from fleet.identity import own
from fleet.identity.registry import Registry
from fleet.repository import Repository
from fleet.store import tokens

DAY_S: Final = 24 * 3600.0
DAYS: Final = (30, 7, 1)
"""Days before the end at which something is an alert; 0 is the end itself."""

GONE_S: Final = 7 * DAY_S
"""Seconds for which a token that has ended is listed still."""

Kind = Literal["role", "certificate", "list", "device", "application", "token", "enrolment"]

_ROLES: Final = {
    "root": "with a threshold of root keys at hand, `shoal fleet keys rotate root --add 0 --keep`, "
    "or a draft (docs/security.md)",
    "targets": "with the targets key at hand, `shoal fleet keys resign --targets`",
    "snapshot": "a running controller renews it; else `shoal fleet keys resign`",
    "timestamp": "a running controller renews it; else `shoal fleet keys resign`",
}
_DELEGATED: Final = "whoever holds its key signs it anew"
_OWN: Final[dict[str, tuple[Kind, str, str]]] = {
    "ca": ("certificate", "authority", "make a new fleet, and enrol the devices there"),
    "broker": (
        "certificate",
        "broker",
        "a running controller renews it; the broker must then read it (reload it)",
    ),
    "controller": ("certificate", "controller", "a running controller renews it"),
    "api": ("certificate", "API of this fleet", "a running controller renews it"),
    "crl": (
        "list",
        "revocation list",
        "a running controller renews it; the broker must then read it (reload it)",
    ),
}


class Item(msgspec.Struct, frozen=True):
    """Something that runs out.

    Attributes:
        kind: what it is.
        name: which.
        expires: when, seconds since the epoch.
        lasts_s: its whole life.
        todo: how it is renewed.
    """

    kind: Kind
    name: str
    expires: float
    lasts_s: float
    todo: str

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return f"{self.kind} {self.name}"[:256]

    def days(self, now: float) -> int | None:
        """The last warning that is due: 30, 7, 1, or 0 when it has run out; None: none yet."""
        left = self.expires - now
        if left <= 0:
            return 0
        due = [days for days in DAYS if left <= days * DAY_S and days * DAY_S <= self.lasts_s / 4]
        return min(due, default=None)

    def sentence(self, now: float) -> str:
        """The warning for people."""
        left = self.expires - now
        named = f"{_TITLES[self.kind]} {self.name}".strip()
        when = f"runs out in {_span(left)}" if left > 0 else f"ran out {_span(-left)} ago"
        return f"{named} {when}: {self.todo}"


_TITLES: Final[dict[Kind, str]] = {
    "role": "The signature of the role",
    "certificate": "The certificate of the",
    "list": "The",
    "device": "The certificate of device",
    "application": "The certificate of application",
    "token": "The API token",
    "enrolment": "The enrolment token of",
}


def _span(seconds: float) -> str:
    for size, unit in ((DAY_S, "days"), (3600.0, "hours")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1.0, seconds / 60):.0f} minutes"


def every(
    fleet: Fleet, repository: Repository, connection: sa.Connection, now: float
) -> list[Item]:
    """All that runs out, the first to end first."""
    found = [*_roles(repository), *_certificates(fleet), *_tokens(connection, now)]
    registry = fleet.folder / "ca" / "identity.db"
    if registry.exists():
        found += _devices(registry, now)
    return sorted(found, key=lambda item: (item.expires, item.kind, item.name))


def due(items: Sequence[Item], now: float) -> list[tuple[Item, int]]:
    """What a warning is due for, with its days."""
    found = [(item, item.days(now)) for item in items]
    return [(item, days) for item, days in found if days is not None]


def _roles(repository: Repository) -> Iterator[Item]:
    lasts = repository.metadata.expiry
    for role, ends in repository.expiries().items():
        days = getattr(lasts, role, lasts.targets)
        todo = _ROLES.get(role, _DELEGATED)
        yield Item("role", role, ends.timestamp(), days * DAY_S, todo)


def _certificates(fleet: Fleet) -> Iterator[Item]:
    for name, (begin, end) in own.spans(fleet.folder / "ca").items():
        kind, title, todo = _OWN[name]
        yield Item(kind, title, end, end - begin, todo)
    api, mqtt = fleet.config.api.certificate, fleet.config.mqtt.tls
    given = [("API", api), ("controller (mqtt.tls)", mqtt.certificate if mqtt else None)]
    for title, certificate in given:
        if certificate is None:
            continue
        try:
            begin, end = own.span(read_pem(certificate, fleet.folder).encode())
        except InputError:
            continue  # whoever uses it says what is wrong with it
        todo = "renew it where it comes from, and restart the controller"
        yield Item("certificate", title, end, end - begin, todo)


def _devices(registry: Path, now: float) -> Iterator[Item]:
    with Registry(registry).transaction() as transaction:
        newest, enrolments = transaction.newest(), transaction.open_tokens(now)
        applications = [
            (application, max(one.expires for one in mine))
            for application, revoked in transaction.applications()
            if revoked is None
            and (mine := [c for c in transaction.certificates(application.user) if not c.revoked])
        ]
    for profile, begin, end in newest:
        todo = f"`shoal fleet enroll {profile.device} --board {profile.board} --replace`"
        if _renews(profile.board):
            todo = f"its agent renews it when it runs and reaches the controller; else {todo}"
        yield Item("device", profile.device, end, end - begin, todo)
    for application, end in applications:
        todo = f"`shoal fleet app add {application.name} --replace`, with what it may"
        yield Item("application", application.name, end, 365 * DAY_S, todo)
    for device, end in enrolments:
        yield Item("enrolment", device, end, DAY_S, "use it, or make another: `shoal fleet token`")


@functools.lru_cache(maxsize=256)
def _renews(board: str) -> bool:
    """Whether the agent of a board renews its certificate: one for microcontrollers does not."""
    try:
        return boards.load(board).kind != "micropython"
    except ShoalError:
        return True


def _tokens(connection: sa.Connection, now: float) -> Iterator[Item]:
    for token in tokens.every(connection):
        ends = token.expires_at
        if ends is None or token.revoked_at is not None or now - ends > GONE_S:
            continue
        todo = f"make another with the role {token.role} (`POST /v1/tokens`)"
        yield Item("token", f"{token.name} ({token.id})", ends, ends - token.created_at, todo)


class Kept:
    """A list that is made anew at most every minute, or only looked at.

    Args:
        make: the list as it is.
        clock: seconds since the epoch.
    """

    _FRESH_S: Final = 60.0

    def __init__(self, make: Callable[[], list[Item]], clock: Callable[[], float]) -> None:
        self._make = make
        self._clock = clock
        self._made = 0.0
        self.known: list[Item] = []

    def __call__(self) -> list[Item]:
        """All that runs out."""
        now = self._clock()
        if not self.known or not 0 <= now - self._made < self._FRESH_S:
            self.known, self._made = self._make(), now
        return self.known


def grouped(found: Sequence[tuple[Item, int]], now: float) -> list[tuple[int, str, dict[str, Any]]]:
    """Warnings, one for each item, and one for all devices that are due for the same.

    Returns:
        The days, a sentence, and facts, the most urgent first.
    """
    said: list[tuple[int, str, dict[str, Any]]] = []
    many: dict[tuple[str, int], list[Item]] = {}
    for item, days in found:
        if item.kind in ("device", "enrolment"):
            many.setdefault((item.kind, days), []).append(item)
        else:
            said.append((days, item.sentence(now), _facts([item], days)))
    for (_, days), items in many.items():
        text = items[0].sentence(now)
        if len(items) > 1:
            text += f" (and {len(items) - 1} more)"
        said.append((days, text, _facts(items, days)))
    return sorted(said, key=lambda one: one[0])


def _facts(items: Sequence[Item], days: int) -> dict[str, Any]:
    first = min(items, key=lambda item: item.expires)
    return {
        "kind": first.kind,
        "days": days,
        "count": len(items),
        "names": sorted(item.name for item in items)[:20],
        "expires": first.expires,
        "todo": first.todo,
    }
