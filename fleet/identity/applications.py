"""Applications: programs that ask devices over MQTT, each with a certificate of its own.

An application has no ``agent.yaml`` and is no device: what it may ask, and of whose devices, stands
in the registry, and the broker enforces it (:mod:`fleet.broker.acl`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from contracts.errors import InputError
from contracts.topics import check_name
from fleet.broker.acl import OPERATIONS, Application
from fleet.identity import authority as ca
from fleet.identity.devices import Identity
from fleet.identity.registry import Transaction

MAX_APPLICATIONS: Final = 200
"""Applications of one fleet."""

MAX_DAYS: Final = 10 * 365
"""Days for which an application's certificate may last."""


class Credentials(msgspec.Struct, frozen=True):
    """What an application connects with, as PEM text; the key is nowhere else."""

    ca: str
    certificate: str
    key: str


class Known(msgspec.Struct, frozen=True):
    """An application as it stands.

    Attributes:
        revoked: when it was, in seconds since the epoch; None: it counts.
        expires: when its certificate ends.
    """

    application: Application
    revoked: float | None
    expires: float | None


def wanted(name: str, may: Sequence[str], groups: Sequence[str]) -> Application:
    """What somebody asks for, checked.

    Raises:
        InputError: ``bad-name``, ``unknown-operation``, ``bad-options``.
    """
    check_name(name, "application")
    for group in groups:
        check_name(group, "group")
    unknown = [op for op in may if op not in OPERATIONS]
    if unknown:
        raise InputError(
            "unknown-operation",
            f"an application cannot be allowed {unknown[0][:64]!r}: of {', '.join(OPERATIONS)}",
        )
    if not may or not groups:
        raise InputError(
            "bad-options", "name at least one operation (--may) and one group (--on group=NAME)"
        )
    return Application(name, sorted({*may}), sorted({*groups}))


@contextmanager
def adding(
    identity: Identity, application: Application, now: float, *, replace: bool, days: int
) -> Iterator[Credentials]:
    """Makes a key and a certificate; they count when the block ends, and not when it raises.

    Raises:
        InputError: ``already-enrolled``, ``bad-duration``, ``too-many``.
    """
    if not 1 <= days <= MAX_DAYS:
        raise InputError("bad-duration", f"a certificate lasts 1 to {MAX_DAYS} days, not {days}")
    key = ca.new_key()
    with identity.registry.transaction() as transaction:
        known = {one.name: since for one, since in transaction.applications()}
        if application.name in known and known[application.name] is None:
            if not replace:
                raise InputError(
                    "already-enrolled",
                    f"{application.name} is there: revoke it first, or use --replace",
                )
            transaction.revoke_application(application, now)
        elif application.name not in known and len(known) >= MAX_APPLICATIONS:
            raise InputError("too-many", f"there are {MAX_APPLICATIONS} applications already")
        transaction.put_application(application)
        pem = identity.issue(transaction, application.user, key.public_key(), days).pem
        yield Credentials(identity.own.ca_pem, pem, ca.key_pem(key).decode())


def revoke(identity: Identity, name: str, now: float) -> int:
    """Revokes an application; returns how many certificates were valid.

    Raises:
        InputError: ``no-such-application``.
    """
    with identity.registry.transaction() as transaction:
        for known in _every(transaction):
            if known.application.name == name and known.revoked is None:
                return transaction.revoke_application(known.application, now)
    raise InputError("no-such-application", f"no application is called {name[:64]!r}")


def every(identity: Identity) -> list[Known]:
    """All applications, revoked ones too, by name."""
    with identity.registry.transaction() as transaction:
        return _every(transaction)


def _every(transaction: Transaction) -> list[Known]:
    found = []
    for application, revoked in transaction.applications():
        mine = [one for one in transaction.certificates(application.user) if one.revoked is None]
        ends = max((one.expires for one in mine), default=None)
        found.append(Known(application, revoked, ends))
    return found
