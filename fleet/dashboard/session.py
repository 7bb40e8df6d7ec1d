"""Sign-in sessions: a random cookie in the browser, the token in memory alone."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from fleet.store.tokens import Token

COOKIE: Final = "shoal_session"
LIFETIME_S: Final = 12 * 3600.0
MAX_SESSIONS: Final = 10_000


class _Session(msgspec.Struct):
    """Of who came with a token, its secret; of an account, what stands for one."""

    secret: str
    until: float
    account: Token | None = None


class Sessions:
    """Who is signed in.

    A session holds the API token that it began with and is worth what the token is worth now:
    a revoked token ends it. One of an account has the role that it began with, until its end.
    A restart of the controller ends all.

    Args:
        find: the token behind a secret; None when it is not valid (any more).
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        find: Callable[[str], Awaitable[Token | None]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._sessions: dict[str, _Session] = {}

    def begin(self, secret: str) -> str:
        """Signs in with an API token that was just checked; returns the cookie's value."""
        return self._add(secret, LIFETIME_S, None)

    def begin_as(self, account: Token, seconds: float) -> str:
        """Signs in somebody whom a provider knows, for so long; returns the cookie's value."""
        return self._add("", min(seconds, LIFETIME_S * 2), account)

    def _add(self, secret: str, seconds: float, account: Token | None) -> str:
        cookie, now = secrets.token_urlsafe(32), self._monotonic()
        with self._lock:
            if len(self._sessions) >= MAX_SESSIONS:
                self._sessions = {k: s for k, s in self._sessions.items() if s.until > now}
            if len(self._sessions) >= MAX_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[_key(cookie)] = _Session(secret, now + seconds, account)
        return cookie

    async def token(self, cookie: str | None) -> Token | None:
        """Who a cookie belongs to; None: nobody, or not any more."""
        if not cookie:
            return None
        with self._lock:
            session = self._sessions.get(_key(cookie))
        if session is None:
            return None
        token = session.account
        if session.until <= self._monotonic():
            token = None
        elif token is None:
            token = await self._find(session.secret)
        if token is None:
            self.end(cookie)
        return token

    def end(self, cookie: str | None) -> None:
        """Signs out."""
        if cookie:
            with self._lock:
                self._sessions.pop(_key(cookie), None)


def _key(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).hexdigest()
