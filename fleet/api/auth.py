"""Who asks, and what they may: bearer tokens, roles, and a limit of requests."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Annotated, Final

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from fleet.api import idempotency
from fleet.api.errors import ApiError
from fleet.api.refusals import address
from fleet.controller import Controller
from fleet.store import tokens
from fleet.store.tokens import Role, Token

_BEARER: Final = HTTPBearer(
    auto_error=False, description="a token of `shoal fleet init` or `POST /v1/tokens`"
)
_CACHE_S: Final = 2.0
_MAX_BUCKETS: Final = 10_000
_OTHERS: Final = "others"
"""The bucket of keys for which there is no room: no address and no token is called so."""

_BAD_PER_S: Final = 5.0
_BAD_BURST: Final = 20
_OPEN_PER_S: Final = 20.0
_OPEN_BURST: Final = 100


class Limiter:
    """Token buckets: `rate` requests a second, and `burst` at once, for each key.

    A bucket is let go when it is full again, as a new one would be. While none is, further keys
    share one: who comes under ever more addresses makes nobody's count be forgotten.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, now: float) -> float:
        """Takes one request; returns 0.0, or how many seconds to wait."""
        with self._lock:
            if key not in self._buckets and not self._room(now):
                key = _OTHERS
            left, at = self._buckets.get(key, (float(self._burst), now))
            left = min(self._burst, left + (now - at) * self._rate)
            wait = 0.0 if left >= 1 else (1 - left) / self._rate
            self._buckets[key] = (left if wait else left - 1, now)
            self._buckets.move_to_end(key)
            return wait

    def _room(self, now: float) -> bool:
        """Whether one more key may have a bucket; the one that rested longest is looked at."""
        while len(self._buckets) >= _MAX_BUCKETS:
            key, (left, at) = next(iter(self._buckets.items()))
            if left + (now - at) * self._rate < self._burst:
                return False
            del self._buckets[key]
        return True


class Gatekeeper:
    """Checks tokens; a token that was just checked is believed for two seconds.

    The tokens that count are read together, so that a request costs no look-up. One that is not
    among them is looked up, which its address may do a few times a second.

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
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, Token]] = {}
        self._read_at: float | None = None

    async def check(self, secret: str | None, peer: str) -> Token:
        """The token behind a secret, within its limit of requests.

        Raises:
            ApiError: ``unauthorized``, ``rate-limited``.
        """
        token = await self.identify(secret, peer)
        self.limit(token)
        return token

    async def identify(self, secret: str | None, peer: str) -> Token:
        """The token behind a secret.

        Raises:
            ApiError: ``unauthorized``; ``rate-limited``, when too much was tried from `peer`.
        """
        token = await self.find(secret) if secret else None
        if token is None:
            self._limit(self._bad, peer, self._monotonic())
            if secret and tokens.formed(secret):
                token = await run_in_threadpool(self._look_up, secret)
        if token is None:
            raise ApiError(
                "unauthorized",
                "a valid bearer token is needed: send 'Authorization: Bearer shoal_...'",
                {"WWW-Authenticate": "Bearer"},
            )
        return token

    def limit(self, token: Token) -> None:
        """Counts a request of a token.

        Raises:
            ApiError: ``rate-limited``.
        """
        self._limit(self._limiter, token.id, self._monotonic())

    async def find(self, secret: str) -> Token | None:
        """The token behind a secret, as it was known two seconds ago at most."""
        if not self._fresh():
            await run_in_threadpool(self._read)
        return tokens.find(self._known, secret, self._controller.clock())

    def _fresh(self) -> bool:
        return self._read_at is not None and self._monotonic() - self._read_at < _CACHE_S

    def _read(self) -> None:
        with self._lock:
            if self._fresh():
                return  # somebody else read while this one waited
            began = self._monotonic()
            with self._controller.store.read() as connection:
                self._known = tokens.valid(connection, self._controller.clock())
            self._read_at = began

    def _look_up(self, secret: str) -> Token | None:
        """A token that was made since; from then on it is known."""
        with self._controller.store.read() as connection:
            found = tokens.check(connection, secret, self._controller.clock())
        if found is not None:
            self.forget()
        return found

    def limit_open(self, peer: str) -> None:
        """Limits requests that need no token, by address.

        Raises:
            ApiError: ``rate-limited``.
        """
        self._limit(self._open, peer, self._monotonic())

    def forget(self) -> None:
        """Forgets what was believed: a token was made or revoked."""
        self._read_at = None

    @staticmethod
    def _limit(limiter: Limiter, key: str, now: float) -> None:
        wait = limiter.take(key, now)
        if wait > 0:
            raise ApiError(
                "rate-limited",
                f"too many requests: try again in {wait:.1f} s",
                {"Retry-After": str(max(1, round(wait)))},
            )


def _needs(role: Role) -> Callable[..., Awaitable[Token]]:
    async def check(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    ) -> Token:
        gatekeeper: Gatekeeper = request.app.state.gatekeeper
        token = await gatekeeper.identify(
            bearer.credentials if bearer else None, address(request.scope)
        )
        # What is refused from here on is in the audit log under the token's name.
        request.state.token = token
        gatekeeper.limit(token)
        if not token.may(role):
            raise ApiError("forbidden", f"this needs the role {role}; the token is {token.role}")
        await idempotency.begin(request, token.id)
        return token

    return check


SHOWN_ONCE: Final = Depends(idempotency.shown_once)
"""Of routes whose answers hold a secret."""

QUESTION: Final = Depends(idempotency.question)
"""Of routes that ask devices: their answers hold texts."""

Pooled = Annotated[Token, Depends(_needs("pooled"))]
Viewer = Annotated[Token, Depends(_needs("viewer"))]
Operator = Annotated[Token, Depends(_needs("operator"))]
Admin = Annotated[Token, Depends(_needs("admin"))]


def _open_to_anybody(request: Request) -> None:
    gatekeeper: Gatekeeper = request.app.state.gatekeeper
    gatekeeper.limit_open(address(request.scope))


Anybody = Annotated[None, Depends(_open_to_anybody)]


def controller_of(request: Request) -> Controller:
    """The controller that the app belongs to."""
    controller: Controller = request.app.state.controller
    return controller


TheController = Annotated[Controller, Depends(controller_of)]
