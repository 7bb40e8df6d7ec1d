"""What the authority has issued, and one-time tokens, in a small SQLite database.

Every change is one transaction with ``synchronous=FULL``: a token that was taken stays taken
after a power cut, and of two requests that race for one token, one gets it.
"""

from __future__ import annotations

import hashlib
import sqlite3
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from contracts import __version__, codec
from contracts.errors import RefusedError, UnavailableError
from contracts.messages import DeviceLabels, Name

_SCHEMA = """
CREATE TABLE IF NOT EXISTS devices (
    device TEXT PRIMARY KEY, board TEXT NOT NULL, labels TEXT NOT NULL, groups TEXT NOT NULL,
    revoked REAL
) STRICT;
CREATE TABLE IF NOT EXISTS certificates (
    serial TEXT PRIMARY KEY, device TEXT NOT NULL, pem TEXT NOT NULL,
    issued REAL NOT NULL, expires REAL NOT NULL, revoked REAL,
    parent TEXT, sha256 TEXT, used REAL
) STRICT;
CREATE INDEX IF NOT EXISTS certificates_device ON certificates (device);
CREATE TABLE IF NOT EXISTS tokens (
    hash TEXT PRIMARY KEY, profile TEXT NOT NULL, expires REAL NOT NULL, used REAL
) STRICT;
"""


_ADDED: Final = (("parent", "TEXT"), ("sha256", "TEXT"), ("used", "REAL"))
"""Columns of `certificates` that a registry of an earlier version lacks."""


_VERSION: Final = 1
"""Of the tables: a later version that changes what they mean counts on."""


class Profile(msgspec.Struct, frozen=True):
    """What is decided about a device when it is enrolled."""

    device: Name
    board: Name
    labels: DeviceLabels = {}
    groups: list[Name] = []


class Issued(msgspec.Struct, frozen=True):
    """One certificate of a device; times are seconds since the epoch.

    Attributes:
        serial: of the certificate.
        device: its common name.
        pem: the certificate.
        issued, expires: its life.
        revoked: when it was; None: it counts.
        parent: serial of the certificate that it was renewed with; None: of an enrolment.
        used: when a device was first seen with it; None: not yet.
    """

    serial: int
    device: str
    pem: str
    issued: float
    expires: float
    revoked: float | None
    parent: int | None = None
    used: float | None = None


class Registry:
    """The database of one authority.

    Args:
        path: of the database file; made when missing, mode 0600.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            path.touch(mode=0o600)
        try:
            with closing(self._connect()) as connection:
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version > _VERSION:
                    raise RefusedError(
                        "newer-database",
                        f"{path} has schema {version}, written by a newer version of Shoal; this "
                        f"is Shoal {__version__}, which knows {_VERSION}: install the newer one, "
                        "or restore the backup from before it",
                    )
                connection.executescript(_SCHEMA)
                _upgrade(connection)
                if version < _VERSION:
                    connection.execute(f"PRAGMA user_version = {_VERSION}")
        except sqlite3.Error as error:
            raise UnavailableError(
                "database", f"{path} cannot be used: {error}; restore it from a backup if it stays"
            ) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """One change: all of it, or nothing. Changes wait for one another."""
        with closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield Transaction(connection)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")


def _upgrade(connection: sqlite3.Connection) -> None:
    """Adds what a registry of an earlier version lacks."""
    present = {row[1] for row in connection.execute("PRAGMA table_info(certificates)")}
    if {name for name, _ in _ADDED} <= present:
        return
    connection.execute("BEGIN IMMEDIATE")
    present = {row[1] for row in connection.execute("PRAGMA table_info(certificates)")}
    for name, kind in _ADDED:
        if name not in present:
            connection.execute(f"ALTER TABLE certificates ADD COLUMN {name} {kind}")
    rows = connection.execute("SELECT serial, pem FROM certificates WHERE sha256 IS NULL")
    for serial, pem in rows.fetchall():
        connection.execute(
            "UPDATE certificates SET sha256 = ? WHERE serial = ?", (fingerprint(pem), serial)
        )
    connection.execute("COMMIT")


class Transaction:
    """What can be asked and changed inside :meth:`Registry.transaction`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    # Devices. ---------------------------------------------------------------------------

    def put_device(self, profile: Profile) -> None:
        """Stores a device, not revoked."""
        self._connection.execute(
            "INSERT INTO devices VALUES (?, ?, ?, ?, NULL) ON CONFLICT (device) DO UPDATE SET "
            "board = excluded.board, labels = excluded.labels, groups = excluded.groups, "
            "revoked = NULL",
            (
                profile.device,
                profile.board,
                msgspec.json.encode(profile.labels).decode(),
                msgspec.json.encode(profile.groups).decode(),
            ),
        )

    def describe(self, profile: Profile) -> None:
        """Stores other labels and groups of a device, revoked or not."""
        self._connection.execute(
            "UPDATE devices SET labels = ?, groups = ? WHERE device = ?",
            (
                msgspec.json.encode(profile.labels).decode(),
                msgspec.json.encode(profile.groups).decode(),
                profile.device,
            ),
        )

    def devices(self) -> list[tuple[Profile, float | None]]:
        """Every device with the time of its revocation, by name."""
        rows = self._connection.execute(
            "SELECT device, board, labels, groups, revoked FROM devices ORDER BY device"
        )
        return [_entry(row) for row in rows]

    def device(self, name: str) -> tuple[Profile, float | None] | None:
        """One device with the time of its revocation."""
        row = self._connection.execute(
            "SELECT device, board, labels, groups, revoked FROM devices WHERE device = ?", (name,)
        ).fetchone()
        return None if row is None else _entry(row)

    def remove_device(self, name: str) -> None:
        """Forgets a device; what was issued to it is remembered."""
        self._connection.execute("DELETE FROM devices WHERE device = ?", (name,))

    # Certificates. ----------------------------------------------------------------------

    def put_certificate(self, issued: Issued) -> None:
        """Stores a certificate."""
        self._connection.execute(
            "INSERT INTO certificates (serial, device, pem, issued, expires, revoked, parent,"
            " sha256, used) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                str(issued.serial),
                issued.device,
                issued.pem,
                issued.issued,
                issued.expires,
                issued.revoked,
                None if issued.parent is None else str(issued.parent),
                fingerprint(issued.pem),
                issued.used,
            ),
        )

    def certificates(self, device: str) -> list[Issued]:
        """A device's certificates, oldest first."""
        rows = self._connection.execute(
            "SELECT serial, device, pem, issued, expires, revoked, parent, used "
            "FROM certificates WHERE device = ? ORDER BY issued, rowid",
            (device,),
        )
        return [_issued(row) for row in rows]

    def note_used(self, device: str, sha256: str, at: float) -> Issued | None:
        """Records that a device was seen with a certificate; None when there is none such."""
        self._connection.execute(
            "UPDATE certificates SET used = ? WHERE device = ? AND sha256 = ? AND used IS NULL",
            (at, device, sha256),
        )
        row = self._connection.execute(
            "SELECT serial, device, pem, issued, expires, revoked, parent, used "
            "FROM certificates WHERE device = ? AND sha256 = ?",
            (device, sha256),
        ).fetchone()
        return None if row is None else _issued(row)

    def denied(self, now: float) -> list[str]:
        """Names whose certificates are revoked and have not expired by themselves."""
        rows = self._connection.execute(
            "SELECT DISTINCT device FROM certificates WHERE revoked IS NOT NULL AND expires > ? "
            "UNION SELECT device FROM devices WHERE revoked IS NOT NULL ORDER BY 1",
            (now,),
        )
        return [row[0] for row in rows]

    def newest(self) -> list[tuple[Profile, float, float]]:
        """Devices that are not revoked, with the span of the certificate that lasts longest."""
        rows = self._connection.execute(
            "SELECT d.device, d.board, d.labels, d.groups, d.revoked, c.issued, MAX(c.expires) "
            "FROM devices d JOIN certificates c ON c.device = d.device AND c.revoked IS NULL "
            "WHERE d.revoked IS NULL GROUP BY d.device ORDER BY d.device"
        )
        return [(_entry(row[:5])[0], row[5], row[6]) for row in rows]

    def revoke(self, device: str, at: float) -> int:
        """Revokes a device and all its certificates; returns how many were valid."""
        self._connection.execute(
            "UPDATE devices SET revoked = ? WHERE device = ? AND revoked IS NULL", (at, device)
        )
        return self._connection.execute(
            "UPDATE certificates SET revoked = ? WHERE device = ? AND revoked IS NULL",
            (at, device),
        ).rowcount

    def revoked(self, now: float) -> list[tuple[int, float]]:
        """Serial and time of revocation of what is revoked and has not expired by itself."""
        rows = self._connection.execute(
            "SELECT serial, revoked FROM certificates WHERE revoked IS NOT NULL AND expires > ?"
            " ORDER BY revoked, rowid",
            (now,),
        )
        return [(int(serial), at) for serial, at in rows]

    # Tokens. ----------------------------------------------------------------------------

    def put_token(self, digest: str, profile: Profile, expires: float) -> None:
        """Stores a token by its hash."""
        self._connection.execute(
            "INSERT INTO tokens VALUES (?, ?, ?, NULL)",
            (digest, msgspec.json.encode(profile).decode(), expires),
        )

    def take_token(self, digest: str, now: float) -> Profile | None:
        """Takes a token for good; None when it is unknown, used, or out of date."""
        taken = self._connection.execute(
            "UPDATE tokens SET used = ? WHERE hash = ? AND used IS NULL AND expires > ?"
            " RETURNING profile",
            (now, digest, now),
        ).fetchone()
        return codec.decoder(Profile).decode(taken[0]) if taken else None

    def open_token(self, digest: str, now: float) -> str | None:
        """The device of a token that may be taken still."""
        row = self._connection.execute(
            "SELECT profile FROM tokens WHERE hash = ? AND used IS NULL AND expires > ?",
            (digest, now),
        ).fetchone()
        return codec.decoder(Profile).decode(row[0]).device if row else None

    def used_token(self, digest: str, now: float) -> Profile | None:
        """What a token was for that was taken and would not be out of date yet."""
        row = self._connection.execute(
            "SELECT profile FROM tokens WHERE hash = ? AND used IS NOT NULL AND expires > ?",
            (digest, now),
        ).fetchone()
        return codec.decoder(Profile).decode(row[0]) if row else None

    def open_tokens(self, now: float) -> list[tuple[str, float]]:
        """Tokens that may be taken still: whose, and until when."""
        rows = self._connection.execute(
            "SELECT profile, expires FROM tokens WHERE used IS NULL AND expires > ? "
            "ORDER BY expires",
            (now,),
        )
        decoder = codec.decoder(Profile)
        return [(decoder.decode(profile).device, expires) for profile, expires in rows]

    def forget_tokens(self, before: float) -> None:
        """Drops tokens that expired before a time."""
        self._connection.execute("DELETE FROM tokens WHERE expires < ?", (before,))


def fingerprint(pem: str) -> str:
    """The SHA-256 of a certificate: a device names the one that it uses by it."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def _entry(row: Any) -> tuple[Profile, float | None]:
    device, board, labels, groups, revoked = row
    decode = msgspec.json.decode
    return Profile(device, board, decode(labels), decode(groups)), revoked


def _issued(row: Any) -> Issued:
    serial, device, pem, issued, expires, revoked, parent, used = row
    return Issued(
        int(serial), device, pem, issued, expires, revoked,
        None if parent is None else int(parent), used,
    )  # fmt: skip
