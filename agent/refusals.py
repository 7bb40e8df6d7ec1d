"""What the broker does not allow this device: counted, said once, reported; the rest goes on.

A broker that refuses a message says so in its acknowledgement, or ends the connection. The second
must not cost more than that one topic: the client would send the message again on each connection
and lose each. Source: MQTT 5, sections 3.4.2.1, 3.9.3 and 3.14.2.1.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from agent.system.clock import Clock
from agent.system.log import logger
from contracts.errors import ErrorInfo, UnavailableError
from contracts.messages import Wait
from contracts.topics import HOME_ASSISTANT

log = logger(__name__)

NOT_ALLOWED: Final = "not-allowed"
"""The code of a reason that is the broker's access control."""

FAILURE: Final = 0x80
"""MQTT 5's reason codes from here on are failures."""

NOT_AUTHORIZED: Final = 0x87
"""One of them."""

STRIKES: Final = 3
"""Connections in a row that ended at once with the same message unanswered: it is to blame."""

AT_ONCE_S: Final = 10.0
"""Seconds within which such a connection ends."""

JUST_NOW_S: Final = 2.0
"""Seconds after a refusal within which a broker that ends connections for it does so."""

LEFT_ALONE_S: Final = 600.0
"""Seconds for which nothing is sent to a topic that is refused, where the device can do without
it, or that cost the connection."""

MAX_TOPICS: Final = 16
"""Topics that are remembered."""

_HINTS: Final = {f"{HOME_ASSISTANT}/": "set home_assistant: true in the fleet's fleet.yaml"}
_APPLICATION: Final = re.compile(r"shoal/v1/[^/]+/a/([^/]+)/#")

UPDATES_NEED: Final = frozenset({"desired", "blob/+"})
"""Own topics without which no update gets on."""

Verb = Literal["publish to", "subscribe to"]


class _Refused(msgspec.Struct):
    """One topic. `until`: nothing is sent before; `costly`: it ended connections."""

    verb: Verb
    since: float
    until: float = 0.0
    costly: bool = False


class Refusals:
    """What was refused. Any thread may tell and ask.

    Args:
        own: the beginning of the device's own topics, with a slash at its end.
        clock: the time.
        changed: told when there is something new to report.

    Attributes:
        count: refused messages and subscriptions since the start.
    """

    def __init__(self, own: str, clock: Clock, changed: Callable[[], None] = lambda: None) -> None:
        self._own = own
        self._applications = f"{'/'.join(own.split('/')[:3])}/a/"
        self._clock = clock
        self._changed = changed
        self._lock = threading.Lock()
        self._refused: dict[str, _Refused] = {}
        self._suspect = ""
        self._strikes = 0
        self._latest = ("", 0.0)
        self.count = 0

    def check(self, topic: str) -> None:
        """Called before a message is sent.

        Raises:
            UnavailableError: ``not-allowed``; the topic is left alone for a while.
        """
        key = self._key(topic)
        with self._lock:
            known = self._refused.get(key)
            if known is None or self._clock.monotonic() >= known.until:
                return
        raise UnavailableError(NOT_ALLOWED, _words(known.verb, key))

    def answered(self, verb: Verb, topic: str, *, allowed: bool) -> None:
        """The broker answered a message or a subscription."""
        key = self._key(topic)
        with self._lock:
            if key == self._suspect and allowed:
                self._strikes = 0
            if allowed:
                news = self._refused.pop(key, None) is not None
            else:
                self.count += 1
                self._latest = (key, self._clock.monotonic())
                news = self._note(verb, key, left_alone=not key.startswith(self._own))
        if not allowed and news:
            log.error("not allowed by the broker", reason=_words(verb, key))
        if news:
            self._changed()

    def connected(self) -> None:
        """A new connection: what did not cost the last one may be allowed by now."""
        with self._lock:
            for known in self._refused.values():
                if not known.costly:
                    known.until = 0.0

    def cut(self, oldest: str | None, lasted_s: float, code: int) -> str | None:
        """A connection was ended by the broker.

        Args:
            oldest: the topic of the first message that was not answered; None: all were.
            lasted_s: how long the connection had lasted.
            code: the broker's reason code; 0: it gave none.

        Returns:
            The topic to blame, as :meth:`blamed` knows it; its messages are to be forgotten.
        """
        key = self._key(oldest) if oldest else ""
        with self._lock:
            refused, at = self._latest
            self._latest = ("", 0.0)
            if refused and self._clock.monotonic() - at <= JUST_NOW_S:
                key = refused
            elif not key or lasted_s > AT_ONCE_S or not self._struck(key, code):
                return None
            else:
                self.count += 1
            self._suspect, self._strikes = "", 0
            verb = self._refused[key].verb if key in self._refused else "publish to"
            self._note(verb, key, left_alone=True, costly=True)
        log.error("the broker ends the connection at this", reason=_words(verb, key))
        return key

    def _struck(self, key: str, code: int) -> bool:
        """Whether a message that was not answered is to blame by now."""
        if code == NOT_AUTHORIZED:
            return True
        self._strikes = self._strikes + 1 if key == self._suspect else 1
        self._suspect = key
        # Without a word of the broker's it may be the network: only what the device can do
        # without is given up for it.
        return self._strikes >= STRIKES and not key.startswith(self._own)

    def blamed(self, topic: str, key: str) -> bool:
        """Whether a topic is one that :meth:`cut` blamed."""
        return self._key(topic) == key

    def waits(self) -> list[Wait]:
        """What is refused now, for the reported document."""
        with self._lock:
            return [
                Wait(
                    ErrorInfo(NOT_ALLOWED, _words(known.verb, key), {"topic": key}),
                    known.since,
                    blocks=key.removeprefix(self._own) in UPDATES_NEED,
                )
                for key, known in self._refused.items()
            ]

    def _note(self, verb: Verb, key: str, *, left_alone: bool, costly: bool = False) -> bool:
        news = key not in self._refused
        if news and len(self._refused) >= MAX_TOPICS:
            return False
        known = self._refused.setdefault(key, _Refused(verb, self._clock.time()))
        if left_alone:
            known.until = self._clock.monotonic() + LEFT_ALONE_S
        known.costly = known.costly or costly
        return news

    def _key(self, topic: str) -> str:
        """The topic, without the part that every message has of its own."""
        if topic.startswith(self._applications):
            name = topic[len(self._applications) :].partition("/")[0]
            return f"{self._applications}{name}/#"
        if not topic.startswith(self._own):
            return topic
        kind, slash, _ = topic[len(self._own) :].partition("/")
        return f"{self._own}{kind}{slash}{'+' if slash else ''}"


def _words(verb: Verb, key: str) -> str:
    hint = next((text for prefix, text in _HINTS.items() if key.startswith(prefix)), "")
    if application := _APPLICATION.fullmatch(key):
        hint = f"no application {application[1]} is added on one of its groups (fleet app add)"
    told = f"the broker does not allow this device to {verb} {key}"
    return f"{told}: {hint}" if hint else told
