"""The list of boards that join by their serial number, and the one line for all of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from contracts.errors import InputError
from fleet.folder import Fleet
from fleet.identity import claims
from fleet.identity.claims import Expected
from fleet.identity.devices import MAX_TOKEN_SECONDS
from fleet.identity.enrolment import make_profile
from fleet.joining import command
from fleet.joining.invitations import MANY, Wanted, check_board
from fleet.store import audit
from fleet.store.entries import Actor


def add(fleet: Fleet, boards: Sequence[Wanted], actor: Actor | None = None) -> None:
    """Puts boards on the list: all of them, or none.

    Raises:
        InputError: ``unknown-board``, ``wrong-board``, ``bad-name``, ``bad-serial``.
        RefusedError: ``serial-taken``, ``already-enrolled``, ``too-many``.
    """
    found = []
    for one in boards:
        check_board(one.board)
        profile = make_profile(one.device, one.board, one.labels or {}, one.groups or [])
        found.append((claims.serial_of(one.serial), profile))
    with fleet.open_identity().registry.transaction() as transaction:
        claims.expect(transaction, found)
        named = [one.serial[:64] for one in boards[:MANY]]
        _note(fleet, actor, "device.serials", f"{len(boards)} boards", serials=named)


def line(fleet: Fleet, seconds: float, actor: Actor | None = None) -> str:
    """The line that is the same for every board of the list; its claim token is shown this once.

    Raises:
        InputError: ``tls-needed``, ``bad-duration``.
    """
    if not 0 < seconds <= MAX_TOKEN_SECONDS:
        raise InputError("bad-duration", f"a line lasts up to {MAX_TOKEN_SECONDS / 86400:.0f} days")
    if not fleet.api_url.startswith("https://"):
        raise InputError(
            "tls-needed",
            "boards join by a line only where the API has TLS: make the fleet with "
            "`shoal fleet init --host NAME`",
        )
    with fleet.open_identity().registry.transaction() as transaction:
        made = command.line(fleet, claims.new_secret(transaction, time.time(), seconds))
        _note(fleet, actor, "device.serials", "line", seconds=seconds)
    return made


def every(fleet: Fleet) -> list[Expected]:
    """The list."""
    with fleet.open_identity().registry.transaction() as transaction:
        return claims.every(transaction)


def remove(fleet: Fleet, serial: str, actor: Actor | None = None) -> Expected:
    """Takes a board off the list; a device that it became stays one.

    Raises:
        InputError: ``bad-serial``, ``no-such-serial``.
    """
    with fleet.open_identity().registry.transaction() as transaction:
        gone = claims.forget(transaction, serial)
        _note(fleet, actor, "device.serial-remove", gone.serial, device=gone.profile.device)
    return gone


def _note(fleet: Fleet, actor: Actor | None, action: str, target: str, **detail: Any) -> None:
    """The entry of the audit log; a change that cannot be noted is not made."""
    with contextlib.closing(fleet.open_store()) as store, store.write() as connection:
        by = actor or audit.local()
        audit.note_by(connection, by, action, target, time.time(), **detail)


def claim(fleet: Fleet, secret: str, serial: str, machine: str) -> tuple[str, str]:
    """A board's one-time token, and the name of the device that it becomes.

    Raises:
        RefusedError: ``bad-token``, ``unknown-serial``, ``serial-taken``.
        InputError: ``bad-serial``.
    """
    with fleet.open_identity().registry.transaction() as transaction:
        token = claims.claim(transaction, secret, serial, machine, time.time())
        known = claims.find(transaction, claims.serial_of(serial))
    assert known is not None
    return token, known.profile.device
