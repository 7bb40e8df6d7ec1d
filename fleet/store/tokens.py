"""API tokens: ``shoal_{id}_{secret}``. Only the secret's hash is stored.

The secret has 256 random bits, so a plain sha256 cannot be searched for it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import Any, Final, Literal, get_args

import msgspec
import sqlalchemy as sa

from contracts.errors import InputError
from fleet.store.schema import TOKEN

Role = Literal["pooled", "viewer", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
_FORM: Final = re.compile(r"shoal_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


class Token(msgspec.Struct, frozen=True):
    """A token without its secret."""

    id: str
    name: str
    role: Role
    created_at: float
    expires_at: float | None
    revoked_at: float | None

    def may(self, role: Role) -> bool:
        """Whether it has a role, or one above it."""
        return ROLES.index(self.role) >= ROLES.index(role)


def create(
    connection: sa.Connection,
    name: str,
    role: str,
    now: float,
    expires_at: float | None = None,
) -> str:
    """Makes a token and returns it: the only time that its secret is seen.

    Raises:
        InputError: ``bad-role``.
    """
    if role not in ROLES:
        raise InputError("bad-role", f"unknown role {role[:40]!r}: one of {', '.join(ROLES)}")
    identifier, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    connection.execute(
        TOKEN.insert().values(
            id=identifier,
            name=name,
            role=role,
            secret_sha256=hashlib.sha256(secret.encode()).hexdigest(),
            created_at=now,
            expires_at=expires_at,
        )
    )
    return f"shoal_{identifier}_{secret}"


def check(connection: sa.Connection, token: str, now: float) -> Token | None:
    """The token, when it is known, not revoked and not expired."""
    match = _FORM.fullmatch(token)
    if match is None:
        return None
    row = connection.execute(sa.select(TOKEN).where(TOKEN.c.id == match[1])).first()
    digest = hashlib.sha256(match[2].encode()).hexdigest()
    if row is None or not hmac.compare_digest(row.secret_sha256, digest):
        return None
    found = _token(row)
    ended = found.expires_at is not None and found.expires_at <= now
    return None if ended or found.revoked_at is not None else found


def valid(connection: sa.Connection, now: float) -> dict[str, tuple[str, Token]]:
    """All tokens that count now, by id: the hash of the secret, and the token."""
    rows = connection.execute(
        sa.select(TOKEN).where(
            TOKEN.c.revoked_at.is_(None),
            sa.or_(TOKEN.c.expires_at.is_(None), TOKEN.c.expires_at > now),
        )
    )
    return {row.id: (row.secret_sha256, _token(row)) for row in rows}


def find(known: dict[str, tuple[str, Token]], token: str, now: float) -> Token | None:
    """The token among those that :func:`valid` gave, when it has not expired since."""
    match = _FORM.fullmatch(token)
    entry = known.get(match[1]) if match is not None else None
    if match is None or entry is None:
        return None
    digest = hashlib.sha256(match[2].encode()).hexdigest()
    if not hmac.compare_digest(entry[0], digest):
        return None
    ends = entry[1].expires_at
    return None if ends is not None and ends <= now else entry[1]


def formed(token: str) -> bool:
    """Whether a text looks like a token at all: what does not is looked up nowhere."""
    return _FORM.fullmatch(token) is not None


def _token(row: Any) -> Token:
    return Token(row.id, row.name, row.role, row.created_at, row.expires_at, row.revoked_at)


def every(connection: sa.Connection) -> list[Token]:
    """All tokens, oldest first."""
    return [_token(r) for r in connection.execute(sa.select(TOKEN).order_by(TOKEN.c.created_at))]


def revoke(connection: sa.Connection, identifier: str, now: float) -> None:
    """Revokes a token.

    Raises:
        InputError: ``no-such-token``.
    """
    changed = connection.execute(
        TOKEN.update()
        .where(TOKEN.c.id == identifier, TOKEN.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    if changed.rowcount != 1:
        raise InputError("no-such-token", f"no token {identifier[:64]!r} is in use")
