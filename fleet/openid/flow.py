"""Sign-ins that are under way: each belongs to one browser, counts once, and ends soon."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

LASTS_S: Final = 600.0
MAX_PENDING: Final = 2000


class Begun(msgspec.Struct, frozen=True):
    """A sign-in that began.

    Attributes:
        state: that the provider gives back.
        nonce: that must be in the ID token.
        verifier: of PKCE.
        browser: what the browser's cookie must be.
        following: the page that was wanted.
    """

    state: str
    nonce: str
    verifier: str
    browser: str
    following: str


class Pending:
    """Remembers them, in memory alone: a restart of the controller ends all.

    Args:
        monotonic: seconds that only grow.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Begun]] = {}

    def begin(self, following: str) -> Begun:
        """A new one; the oldest makes room."""
        state, nonce, verifier, browser = (secrets.token_urlsafe(32) for _ in range(4))
        made = Begun(state, nonce, verifier, browser, following[:2000])
        now = self._monotonic()
        with self._lock:
            self._known = {k: v for k, v in self._known.items() if v[0] > now}
            if len(self._known) >= MAX_PENDING:
                del self._known[next(iter(self._known))]
            self._known[_key(made.state)] = (now + LASTS_S, made)
        return made

    def take(self, state: str, browser: str) -> Begun | None:
        """The one of a state and a browser, which is then over; None: there is none such."""
        with self._lock:
            found = self._known.get(_key(state))
            if found is None or found[0] <= self._monotonic():
                return None
            # Another's browser must not end it: only the right one takes it away.
            if not hmac.compare_digest(
                found[1].browser.encode(), browser.encode("utf-8", "replace")
            ):
                return None
            del self._known[_key(state)]
            return found[1]


def _key(state: str) -> str:
    return hashlib.sha256(state.encode("utf-8", "surrogatepass")).hexdigest()
