"""Who asks, and what they may: bearer tokens, roles, and a limit of requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Annotated, Final

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from fleet.api.errors import ApiError
from fleet.controller import Controller
from fleet.store import tokens
from fleet.store.tokens import Role, Token

_BEARER: Final = HTTPBearer(
    auto_error=False, description="a token of `shoal fleet init` or `POST /v1/tokens`"
)
_CACHE_S: Final = 2.0
_MAX_BUCKETS: Final = 10_000
_BAD_PER_S: Final = 5.0
_BAD_BURST: Final = 20
_OPEN_PER_S: Final = 20.0
_OPEN_BURST: Final = 100


class Limiter:
    """Token buckets: `rate` requests a second, and `burst` at once, for each key."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: str, now: float) -> float:
        """Takes one request; returns 0.0, or how many seconds to wait."""
        with self._lock:
            left, at = self._buckets.get(key, (float(self._burst), now))
            left = min(self._burst, left + (now - at) * self._rate)
            if left < 1:
                self._buckets[key] = (left, now)
                return (1 - left) / self._rate
            if len(self._buckets) >= _MAX_BUCKETS:
                self._buckets.clear()
            self._buckets[key] = (left - 1, now)
            return 0.0


class Gatekeeper:
    """Checks tokens; a token that was just checked is believed for two seconds.

    Args:
        controller: where the tokens are.
        monotonic: seconds that only grow.
    """

    def __init__(
        self, controller: Controller, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._controller = controller
        self._monotonic = monotonic
        api = controller.fleet.config.api
        self._limiter = Limiter(api.requests_per_s, api.burst)
        self._open = Limiter(_OPEN_PER_S, _OPEN_BURST)
        self._bad = Limiter(_BAD_PER_S, _BAD_BURST)
        self._cache: dict[str, tuple[float, Token]] = {}

    def check(self, secret: str | None, peer: str) -> Token:
        """The token behind a secret.

        Raises:
            ApiError: ``unauthorized``, ``rate-limited``.
        """
        return self.admit(self.find(secret) if secret else None, peer)

    def admit(self, token: Token | None, peer: str) -> Token:
        """The token, within its limit of requests; None is nobody's.

        Raises:
            ApiError: as :meth:`check`.
        """
        now = self._monotonic()
        if token is None:
            self._limit(self._bad, peer, now)
            raise ApiError(
                "unauthorized",
                "a valid bearer token is needed: send 'Authorization: Bearer shoal_...'",
                {"WWW-Authenticate": "Bearer"},
            )
        self._limit(self._limiter, token.id, now)
        return token

    def find(self, secret: str) -> Token | None:
        """The token behind a secret; None when it is not a valid one."""
        now = self._monotonic()
        cached = self._cache.get(secret)
        if cached is not None and now - cached[0] < _CACHE_S:
            return cached[1]
        self._cache.pop(secret, None)
        with self._controller.store.read() as connection:
            token = tokens.check(connection, secret, self._controller.clock())
        if token is not None:
            if len(self._cache) > 1000:
                self._cache.clear()
            self._cache[secret] = (now, token)
        return token

    def limit_open(self, peer: str) -> None:
        """Limits requests that need no token, by address.

        Raises:
            ApiError: ``rate-limited``.
        """
        self._limit(self._open, peer, self._monotonic())

    def forget(self) -> None:
        """Forgets what was believed: a token was revoked."""
        self._cache.clear()

    @staticmethod
    def _limit(limiter: Limiter, key: str, now: float) -> None:
        wait = limiter.take(key, now)
        if wait > 0:
            raise ApiError(
                "rate-limited",
                f"too many requests: try again in {wait:.1f} s",
                {"Retry-After": str(max(1, round(wait)))},
            )


def _needs(role: Role) -> Callable[..., Token]:
    def check(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    ) -> Token:
        gatekeeper: Gatekeeper = request.app.state.gatekeeper
        peer = request.client.host if request.client else "?"
        found = gatekeeper.find(bearer.credentials) if bearer else None
        # What is refused from here on is in the audit log under the token's name.
        request.state.token = found
        token = gatekeeper.admit(found, peer)
        if not token.may(role):
            raise ApiError("forbidden", f"this needs the role {role}; the token is {token.role}")
        return token

    return check


Viewer = Annotated[Token, Depends(_needs("viewer"))]
Operator = Annotated[Token, Depends(_needs("operator"))]
Admin = Annotated[Token, Depends(_needs("admin"))]


def _open_to_anybody(request: Request) -> None:
    gatekeeper: Gatekeeper = request.app.state.gatekeeper
    gatekeeper.limit_open(request.client.host if request.client else "?")


Anybody = Annotated[None, Depends(_open_to_anybody)]


def controller_of(request: Request) -> Controller:
    """The controller that the app belongs to."""
    controller: Controller = request.app.state.controller
    return controller


TheController = Annotated[Controller, Depends(controller_of)]
