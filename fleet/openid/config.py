"""`openid` in ``fleet.yaml``: whose accounts may sign in to the dashboard, and as what."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from contracts.errors import InputError

Signed = Literal["viewer", "operator", "admin"]
BEST_FIRST: Final[tuple[Signed, ...]] = ("admin", "operator", "viewer")

_MAX_GROUPS: Final = 2000
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=254)]


class Whom(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Who has a role.

    Attributes:
        emails: addresses that the provider has verified; ``*@example.org``: all of a domain.
        groups: as the provider names them.
    """

    emails: Annotated[list[_Text], msgspec.Meta(max_length=1000)] = []
    groups: Annotated[list[_Text], msgspec.Meta(max_length=1000)] = []


class OpenIdConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A provider, and what its accounts may.

    Attributes:
        issuer: the provider's URL, to the letter as it says it.
        client_id: under which it knows this fleet.
        client_secret_file: relative to the folder; empty with no secret (a public client).
        client_secret_env: the name of a variable, in its place.
        roles: who is what; somebody with several is the highest. Nobody else may sign in.
        title: of the button.
        scopes: that are asked for.
        groups_claim: where groups are, with dots: ``realm_access.roles``.
        trust_unverified: emails count also where the provider does not say that it has verified
            them. Only for one that lets nobody choose an address.
        hours: after which somebody signs in again.
        ca: a PEM file of authorities that count beside the system's and the fleet's own.
    """

    issuer: Annotated[str, msgspec.Meta(max_length=2000)]
    client_id: Annotated[str, msgspec.Meta(min_length=1, max_length=254)]
    roles: dict[Signed, Whom]
    client_secret_file: str = ""
    client_secret_env: str = ""
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=60)] = "Sign in with your account"
    scopes: Annotated[list[_Text], msgspec.Meta(max_length=20)] = msgspec.field(
        default_factory=lambda: ["openid", "email", "profile"]
    )
    groups_claim: _Text = "groups"
    trust_unverified: bool = False
    hours: Annotated[float, msgspec.Meta(gt=0, le=24)] = 12.0
    ca: str = ""


def check(config: OpenIdConfig) -> None:
    """What must hold between the fields.

    Raises:
        InputError: ``tls-needed``, ``bad-config``.
    """
    secure(config.issuer, "openid.issuer")
    if config.client_secret_file and config.client_secret_env:
        raise InputError(
            "bad-config", "openid.client_secret_file and openid.client_secret_env: set one of them"
        )
    if "openid" not in config.scopes:
        raise InputError("bad-config", "openid.scopes needs openid")
    if not any(one.emails or one.groups for one in config.roles.values()):
        raise InputError(
            "bad-config",
            "openid.roles names nobody: give emails or groups to viewer, operator or admin",
        )


def secure(url: str, what: str) -> None:
    """Whether a URL may be asked: by TLS alone.

    Raises:
        InputError: ``tls-needed``.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme != "https":
        raise InputError("tls-needed", f"{what} is not an https URL: {url[:200]!r}")


def email_of(claims: dict[str, Any], config: OpenIdConfig) -> str:
    """The address of an account, in small letters, if it counts; else empty."""
    email = claims.get("email")
    verified = claims.get("email_verified") is True or config.trust_unverified
    return email.strip().lower()[:254] if isinstance(email, str) and verified else ""


def groups_of(claims: dict[str, Any], config: OpenIdConfig) -> set[str]:
    """The groups of an account."""
    found: Any = claims.get(config.groups_claim)
    if found is None:
        found = claims
        for part in config.groups_claim.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    if isinstance(found, str):
        return {found}
    if not isinstance(found, list):
        return set()
    return {one for one in found[:_MAX_GROUPS] if isinstance(one, str)}


def role_of(claims: dict[str, Any], config: OpenIdConfig) -> Signed | None:
    """The highest role of an account; None: it has none."""
    email, groups = email_of(claims, config), groups_of(claims, config)
    domain = email.rpartition("@")[2]
    for role in BEST_FIRST:
        whom = config.roles.get(role)
        if whom is None:
            continue
        named = {one.lower() for one in whom.emails}
        if email and (email in named or (domain and f"*@{domain}" in named)):
            return role
        if groups & set(whom.groups):
            return role
    return None
