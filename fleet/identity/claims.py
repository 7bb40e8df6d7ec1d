"""Boards that are known by their serial number before they come: who may join as which device.

One claim token is for all of them: it is in a line, or an image, that is the same for each. It lets
nobody in by itself: a board names its serial number, and what is on the list joins, once. The first
board that comes with a number has it; another one with the same number is refused by name. A board
is known again by its machine id, so that a line which broke off may be typed again.

Whoever has the claim token can name another board's number before that board does: it is a secret,
it lasts for a while, and the board that comes second is told (and is in the audit log).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from typing import Final

import msgspec

from contracts import codec
from contracts.errors import InputError, RefusedError
from fleet.identity.records import Profile
from fleet.identity.registry import Transaction

PREFIX: Final = "claim_"
"""How claim tokens begin: a board's installer knows them by it."""

TOKEN_S: Final = 24 * 3600.0
"""Seconds in which a board joins after it has claimed its number; it may claim it again."""

MAX_SERIALS: Final = 50_000
_FORM: Final = re.compile(r"[a-z0-9][a-z0-9._:-]{3,63}")


class Expected(msgspec.Struct, frozen=True):
    """A board on the list.

    Attributes:
        serial: in small letters.
        profile: the device that it becomes.
        claimed: when a board came with this number; None: none did.
        machine: what that board is known by.
    """

    serial: str
    profile: Profile
    claimed: float | None = None
    machine: str | None = None


def serial_of(text: str) -> str:
    """A serial number as it is compared: in small letters, without what pads it.

    Raises:
        InputError: ``bad-serial``.
    """
    found = text.strip("\0 \t\r\n").lower()
    if _FORM.fullmatch(found) is None or len(set(found)) < 2:
        raise InputError(
            "bad-serial",
            f"{text[:64]!r} is no serial number: expected 4 to 64 of a-z 0-9 . _ : -, not all "
            "the same",
        )
    return found


def every(transaction: Transaction) -> list[Expected]:
    """The list, by serial number."""
    rows = transaction.execute("SELECT serial, profile, claimed, machine FROM serials ORDER BY 1")
    return [_expected(*row) for row in rows]


def find(transaction: Transaction, serial: str) -> Expected | None:
    """One board of the list."""
    row = transaction.execute(
        "SELECT serial, profile, claimed, machine FROM serials WHERE serial = ?", serial
    ).fetchone()
    return _expected(*row) if row else None


def expect(transaction: Transaction, boards: Iterable[tuple[str, Profile]]) -> None:
    """Puts boards on the list; one that is there and was not claimed is described anew.

    Raises:
        RefusedError: ``serial-taken``, ``already-enrolled``, ``too-many``.
    """
    named = {one.profile.device: one.serial for one in every(transaction)}
    for serial, profile in boards:
        known = find(transaction, serial)
        if known is not None and known.claimed is not None:
            raise RefusedError(
                "serial-taken",
                f"the board {serial} has joined as {known.profile.device} already: "
                f"`shoal fleet serials remove {serial}` lets another one come with this number",
            )
        enrolled = transaction.device(profile.device)
        if enrolled is not None and enrolled[1] is None:
            raise RefusedError(
                "already-enrolled", f"{profile.device} is enrolled: give {serial} another name"
            )
        if named.get(profile.device, serial) != serial:
            raise RefusedError(
                "already-enrolled",
                f"{profile.device} is the name of the board {named[profile.device]} already",
            )
        named[profile.device] = serial
        transaction.execute(
            "INSERT INTO serials (serial, profile) VALUES (?, ?) "
            "ON CONFLICT (serial) DO UPDATE SET profile = excluded.profile",
            serial, msgspec.json.encode(profile).decode(),
        )  # fmt: skip
    (count,) = transaction.execute("SELECT COUNT(*) FROM serials").fetchone()
    if count > MAX_SERIALS:
        raise RefusedError("too-many", f"the list has {MAX_SERIALS} boards at most")


def forget(transaction: Transaction, serial: str) -> Expected:
    """Takes a board off the list. A device that it became stays one.

    Raises:
        InputError: ``no-such-serial``.
    """
    known = find(transaction, serial_of(serial))
    if known is None:
        raise InputError("no-such-serial", f"no board {serial[:64]!r} is on the list")
    transaction.execute("DELETE FROM serials WHERE serial = ?", known.serial)
    return known


def new_secret(transaction: Transaction, now: float, seconds: float) -> str:
    """A claim token, for all boards of the list. Only its hash is kept."""
    secret = PREFIX + secrets.token_urlsafe(32)
    transaction.execute("DELETE FROM claims WHERE expires < ?", now)
    transaction.execute("INSERT INTO claims VALUES (?, ?)", _digest(secret), now + seconds)
    return secret


def claim(transaction: Transaction, secret: str, serial: str, machine: str, now: float) -> str:
    """The one-time token of the board with a serial number; the same board gets the same again.

    Raises:
        RefusedError: ``bad-token``, ``unknown-serial``, ``serial-taken``.
        InputError: ``bad-serial``.
    """
    found = transaction.execute(
        "SELECT 1 FROM claims WHERE hash = ? AND expires > ?", _digest(secret), now
    ).fetchone()
    if found is None:
        raise RefusedError(
            "bad-token",
            "the claim token is none of this fleet, or has expired: ask for a new line "
            "(`shoal fleet serials line`)",
        )
    serial = serial_of(serial)
    known = find(transaction, serial)
    if known is None:
        raise RefusedError(
            "unknown-serial",
            f"the board {serial} is not on the fleet's list: put it there with "
            "`shoal fleet serials add`, and type the same line again",
        )
    who = _digest(machine)
    if known.machine not in (None, who):
        raise RefusedError(
            "serial-taken",
            f"another board came with the serial number {serial} before, as "
            f"{known.profile.device}: one of the two is a copy. If this is the board, installed "
            f"anew: `shoal fleet serials remove {serial}`, and add it again",
        )
    token = base64.urlsafe_b64encode(
        hmac.digest(secret.encode(), f"{serial}/{who}".encode(), "sha256")
    )
    digest = _digest(token.decode().rstrip("="))
    if transaction.token(digest) is None:
        transaction.put_token(digest, known.profile, now + TOKEN_S)
    else:
        transaction.execute(
            "UPDATE tokens SET expires = ? WHERE hash = ? AND revoked IS NULL", now + TOKEN_S,
            digest,
        )  # fmt: skip
    transaction.execute(
        "UPDATE serials SET claimed = COALESCE(claimed, ?), machine = ? WHERE serial = ?",
        now, who, serial,
    )  # fmt: skip
    return token.decode().rstrip("=")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _expected(serial: str, profile: str, claimed: float | None, machine: str | None) -> Expected:
    return Expected(serial, codec.decoder(Profile).decode(profile), claimed, machine)
