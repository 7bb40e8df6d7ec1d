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
from fleet.broker.acl import Application
from fleet.identity.records import Invitation, Issued, Profile

__all__ = ["Invitation", "Issued", "Profile", "Registry", "Transaction", "fingerprint"]

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
CREATE TABLE IF NOT EXISTS applications (
    name TEXT PRIMARY KEY, may TEXT NOT NULL, groups TEXT NOT NULL, revoked REAL
) STRICT;
CREATE TABLE IF NOT EXISTS tokens (
    hash TEXT PRIMARY KEY, profile TEXT NOT NULL, expires REAL NOT NULL, used REAL,
    revoked REAL, replaces INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS serials (
    serial TEXT PRIMARY KEY, profile TEXT NOT NULL, claimed REAL, machine TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS claims (hash TEXT PRIMARY KEY, expires REAL NOT NULL) STRICT;
"""


_ADDED: Final = (
    ("certificates", "parent", "TEXT"),
    ("certificates", "sha256", "TEXT"),
    ("certificates", "used", "REAL"),
    ("tokens", "revoked", "REAL"),
    ("tokens", "replaces", "INTEGER"),
)
"""Tables and columns that a registry of an earlier version lacks."""


ID_CHARS: Final = 12
"""Characters of a token's hash by which it is named."""

_VERSION: Final = 1
"""Of the tables: a later version that changes what they mean counts on."""


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
    if not _lacking(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    for table, name, kind in _lacking(connection):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
    rows = connection.execute("SELECT serial, pem FROM certificates WHERE sha256 IS NULL")
    for serial, pem in rows.fetchall():
        connection.execute(
            "UPDATE certificates SET sha256 = ? WHERE serial = ?", (fingerprint(pem), serial)
        )
    connection.execute("COMMIT")


def _lacking(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    present = {
        (table, row[1])
        for table in ("certificates", "tokens")
        for row in connection.execute(f"PRAGMA table_info({table})")
    }
    return [one for one in _ADDED if one[:2] not in present]


class Transaction:
    """What can be asked and changed inside :meth:`Registry.transaction`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        """For tables that have a module of their own (:mod:`fleet.identity.claims`)."""
        return self._connection.execute(statement, values)

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

    # Applications. ----------------------------------------------------------------------

    def put_application(self, application: Application) -> None:
        """Stores an application, not revoked."""
        self._connection.execute(
            "INSERT INTO applications VALUES (?, ?, ?, NULL) ON CONFLICT (name) DO UPDATE SET "
            "may = excluded.may, groups = excluded.groups, revoked = NULL",
            (
                application.name,
                msgspec.json.encode(application.may).decode(),
                msgspec.json.encode(application.groups).decode(),
            ),
        )

    def applications(self) -> list[tuple[Application, float | None]]:
        """Every application with the time of its revocation, by name."""
        rows = self._connection.execute(
            "SELECT name, may, groups, revoked FROM applications ORDER BY name"
        )
        decode = msgspec.json.decode
        return [
            (Application(name, decode(may), decode(groups)), revoked)
            for name, may, groups, revoked in rows
        ]

    def revoke_application(self, application: Application, at: float) -> int:
        """Revokes an application and its certificates; returns how many were valid."""
        self._connection.execute(
            "UPDATE applications SET revoked = ? WHERE name = ? AND revoked IS NULL",
            (at, application.name),
        )
        return self.revoke(application.user, at)

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

    def put_token(
        self, digest: str, profile: Profile, expires: float, *, replaces: bool = False
    ) -> None:
        """Stores a token by its hash."""
        self._connection.execute(
            "INSERT INTO tokens (hash, profile, expires, replaces) VALUES (?, ?, ?, ?)",
            (digest, msgspec.json.encode(profile).decode(), expires, int(replaces)),
        )

    def take_token(self, digest: str, now: float) -> Invitation | None:
        """Takes a token for good; None when it is unknown, used, revoked, or out of date."""
        taken = self._connection.execute(
            "UPDATE tokens SET used = ? WHERE hash = ? AND used IS NULL AND revoked IS NULL"
            " AND expires > ? RETURNING hash, profile, expires, used, revoked, replaces",
            (now, digest, now),
        ).fetchone()
        return _invitation(taken) if taken else None

    def token(self, digest: str) -> Invitation | None:
        """What is known of a token, whatever became of it."""
        row = self._connection.execute(
            "SELECT hash, profile, expires, used, revoked, replaces FROM tokens WHERE hash = ?",
            (digest,),
        ).fetchone()
        return _invitation(row) if row else None

    def tokens(self) -> list[Invitation]:
        """All tokens that are remembered, the one that expires last at the end."""
        rows = self._connection.execute(
            "SELECT hash, profile, expires, used, revoked, replaces FROM tokens "
            "ORDER BY expires, hash"
        )
        return [_invitation(row) for row in rows]

    def revoke_tokens(self, ids: list[str], at: float) -> int:
        """Takes tokens back that were not used; returns how many."""
        return sum(
            self._connection.execute(
                "UPDATE tokens SET revoked = ? WHERE substr(hash, 1, ?) = ? AND used IS NULL"
                " AND revoked IS NULL",
                (at, ID_CHARS, one),
            ).rowcount
            for one in ids
        )

    def open_tokens(self, now: float) -> list[tuple[str, float]]:
        """Tokens that may be taken still: whose, and until when."""
        rows = self._connection.execute(
            "SELECT profile, expires FROM tokens WHERE used IS NULL AND revoked IS NULL "
            "AND expires > ? ORDER BY expires",
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


def _invitation(row: Any) -> Invitation:
    digest, profile, expires, used, revoked, replaces = row
    decoded = codec.decoder(Profile).decode(profile)
    return Invitation(digest[:ID_CHARS], decoded, expires, used, revoked, bool(replaces))


def _issued(row: Any) -> Issued:
    serial, device, pem, issued, expires, revoked, parent, used = row
    return Issued(
        int(serial), device, pem, issued, expires, revoked,
        None if parent is None else int(parent), used,
    )  # fmt: skip
