"""Talks to a provider, and believes of what it says only what is signed, ours, and of now.

What is checked of an ID token: its signature, by a key of the provider and an algorithm with two
keys (``none`` and shared secrets are refused); issuer, audience and authorised party; expiry, issue
and not-before; the nonce of this sign-in; and a subject (OpenID Connect Core 1.0, 3.1.3.7).
"""

from __future__ import annotations

import hmac
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import httpx
import msgspec
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import OAuth2Client
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from contracts import authorities, files
from contracts.errors import RefusedError, ShoalError, UnavailableError
from fleet.openid.config import OpenIdConfig, secure

ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
LEEWAY_S: Final = 60
"""Seconds by which clocks may differ."""

MAX_TOKEN: Final = 32 * 1024
"""Characters of an ID token."""

_MAX_BYTES: Final = 1024 * 1024
_TIMEOUT_S: Final = 10.0
_FRESH_S: Final = 3600.0
_AGAIN_S: Final = 10.0


class Metadata(msgspec.Struct, frozen=True):
    """What the provider says of itself (OpenID Connect Discovery 1.0)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""
    token_endpoint_auth_methods_supported: list[str] | None = None
    authorization_response_iss_parameter_supported: bool = False


class Provider:
    """One provider. Methods block: they are called on threads.

    Args:
        config: which.
        folder: the fleet's, which paths are relative to.
        redirect: where it sends browsers back to.
        ca: PEM text of the fleet's own authority; empty: none.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        config: OpenIdConfig,
        folder: Path,
        redirect: str,
        *,
        ca: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.redirect = redirect
        self._folder = folder
        self._ca = ca
        self._clock = clock
        self._lock = threading.Lock()
        self._metadata: tuple[float, Metadata] | None = None
        self._keys: tuple[float, KeySet] | None = None

    def address(self, state: str, nonce: str, verifier: str) -> str:
        """Where a browser goes to sign in.

        Raises:
            UnavailableError: ``provider-unreachable``.
        """
        metadata = self._describe()
        with self._client(metadata) as client:
            url, _ = client.create_authorization_url(
                metadata.authorization_endpoint, state=state, nonce=nonce, code_verifier=verifier
            )
        return str(url)

    def farewell(self) -> str:
        """Where somebody signs out at the provider too (OpenID Connect RP-Initiated Logout 1.0).

        Empty: it offers no such page, or cannot be asked now.
        """
        try:
            found = self._describe().end_session_endpoint
        except ShoalError:
            return ""
        asked = urlencode({"client_id": self.config.client_id})
        return f"{found}{'&' if '?' in found else '?'}{asked}" if found else ""

    def claims(self, code: str, nonce: str, verifier: str, issuer: str | None) -> dict[str, Any]:
        """Who signed in.

        Args:
            code: that the browser brought.
            nonce: of this sign-in.
            verifier: of this sign-in.
            issuer: whom the browser says that it comes from (RFC 9207); None: it does not say.

        Returns:
            The claims of the checked ID token, and of the account what is not in it.

        Raises:
            RefusedError: ``sign-in-refused``.
            UnavailableError: ``provider-unreachable``.
        """
        metadata = self._describe()
        told = metadata.authorization_response_iss_parameter_supported
        if (issuer is not None or told) and issuer != self.config.issuer:
            raise _refused(f"the answer is of {str(issuer)[:200]!r}, not of {self.config.issuer}")
        with self._client(metadata) as client:
            try:
                token = client.fetch_token(
                    metadata.token_endpoint, code=code, code_verifier=verifier
                )
            except AuthlibBaseError as error:
                raise _refused(f"the provider refused the code: {_line(error)}") from None
            except (httpx.HTTPError, ValueError) as error:
                raise _unreachable(self.config.issuer, error) from None
        if not isinstance(token, dict):
            raise _refused("the provider's answer is no token")
        found = self._checked(token.get("id_token"), nonce)
        return self._with_account(metadata, token.get("access_token"), found)

    # Parts. -------------------------------------------------------------------------------

    def _checked(self, text: object, nonce: str) -> dict[str, Any]:
        if not isinstance(text, str) or not 0 < len(text) <= MAX_TOKEN:
            raise _refused("the provider gave no ID token")
        try:
            found = self._decoded(text)
            registry = jwt.JWTClaimsRegistry(
                now=int(self._clock()),
                leeway=LEEWAY_S,
                iss={"essential": True, "value": self.config.issuer},
                aud={"essential": True, "value": self.config.client_id},
                sub={"essential": True},
                exp={"essential": True},
                iat={"essential": True},
                nonce={"essential": True},
            )
            registry.validate(found)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise _refused(f"the ID token is not valid: {_line(error)}") from None
        audience, party = found["aud"], found.get("azp")
        several = isinstance(audience, list) and len(audience) > 1
        if (several or party is not None) and party != self.config.client_id:
            raise _refused("the ID token is for another party")
        given = found["nonce"]
        if not isinstance(given, str) or not hmac.compare_digest(given.encode(), nonce.encode()):
            raise _refused("the ID token is of another sign-in")
        if not isinstance(found["sub"], str) or not 0 < len(found["sub"]) <= 255:
            raise _refused("the ID token names no account")
        return found

    def _decoded(self, text: str) -> dict[str, Any]:
        """Claims of a token whose signature is right; a key that is new is asked for, once."""
        try:
            return dict(jwt.decode(text, self._key_set(), algorithms=list(ALGORITHMS)).claims)
        except (JoseError, ValueError) as error:
            known = self._keys
            if known is None or self._clock() - known[0] < _AGAIN_S:
                raise
            del error
        return dict(jwt.decode(text, self._key_set(again=True), algorithms=list(ALGORITHMS)).claims)

    def _with_account(
        self, metadata: Metadata, access: object, claims: dict[str, Any]
    ) -> dict[str, Any]:
        """Adds what many providers tell at another address alone: email and groups."""
        first = self.config.groups_claim.split(".")[0]
        groups = {self.config.groups_claim, first} & claims.keys()
        missing = not groups or "email" not in claims
        if not (missing and metadata.userinfo_endpoint and isinstance(access, str)):
            return claims
        headers = {"Authorization": f"Bearer {access}"}
        account = self._get(metadata.userinfo_endpoint, headers)
        if account.get("sub") != claims["sub"]:
            raise _refused("the provider tells of another account")
        return account | claims

    def _describe(self) -> Metadata:
        with self._lock:
            known = self._metadata
            if known is not None and 0 <= self._clock() - known[0] < _FRESH_S:
                return known[1]
            url = f"{self.config.issuer.rstrip('/')}/.well-known/openid-configuration"
            try:
                found = msgspec.convert(self._get(url), Metadata)
            except msgspec.ValidationError as error:
                raise _unreachable(self.config.issuer, error) from None
            if found.issuer != self.config.issuer:
                raise UnavailableError(
                    "provider-unreachable",
                    f"the provider calls itself {found.issuer[:200]!r}: openid.issuer must be that "
                    "to the letter",
                )
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                secure(getattr(found, name), name)
            for name in ("userinfo_endpoint", "end_session_endpoint"):
                if getattr(found, name):
                    secure(getattr(found, name), name)
            self._metadata = (self._clock(), found)
            return found

    def _key_set(self, *, again: bool = False) -> KeySet:
        metadata = self._describe()
        with self._lock:
            known = self._keys
            if known is not None and not again and 0 <= self._clock() - known[0] < _FRESH_S:
                return known[1]
            document = self._get(metadata.jwks_uri)
            try:
                found: KeySet = KeySet.import_key_set(document)  # type: ignore[arg-type]
            except (JoseError, ValueError, TypeError, KeyError) as error:
                raise _unreachable(self.config.issuer, error) from None
            self._keys = (self._clock(), found)
            return found

    def _get(self, url: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """A JSON object, bounded; no redirect is followed."""
        try:
            with (
                self._http() as client,
                client.stream("GET", url, headers=headers or {}) as answer,
            ):
                body = b""
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > _MAX_BYTES:
                        raise ValueError(f"it says more than {_MAX_BYTES} bytes")
                if not answer.is_success:
                    raise ValueError(f"status {answer.status_code}")
            return msgspec.json.decode(body, type=dict[str, Any])
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, msgspec.DecodeError) as error:
            raise _unreachable(url, error) from None

    def _http(self) -> httpx.Client:
        return httpx.Client(
            verify=self._context(), timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False
        )

    def _client(self, metadata: Metadata) -> OAuth2Client:
        secret = self._secret()
        methods = metadata.token_endpoint_auth_methods_supported or ["client_secret_basic"]
        way = "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
        return OAuth2Client(
            self.config.client_id,
            secret or None,
            token_endpoint_auth_method=way if secret else "none",
            scope=" ".join(self.config.scopes),
            redirect_uri=self.redirect,
            code_challenge_method="S256",
            verify=self._context(),
            timeout=_TIMEOUT_S,
            follow_redirects=False,
            trust_env=False,
        )

    def _context(self) -> Any:
        named = ""
        if self.config.ca:
            path = self._folder / self.config.ca
            text = files.read_small(path, what="certificate file", code="bad-certificate")
            named = text.decode("ascii", "replace")
        return authorities.context(self._ca, named)

    def _secret(self) -> str:
        config = self.config
        if config.client_secret_env:
            return os.environ.get(config.client_secret_env, "")
        if not config.client_secret_file:
            return ""
        path = self._folder / config.client_secret_file
        try:
            return path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UnavailableError(
                "provider-unreachable", f"the client secret cannot be read: {path}: {error}"
            ) from None


def _refused(why: str) -> RefusedError:
    return RefusedError("sign-in-refused", why)


def _unreachable(url: str, error: Exception) -> ShoalError:
    return UnavailableError(
        "provider-unreachable", f"the provider ({url[:200]}) cannot be used now: {_line(error)}"
    )


def _line(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]
