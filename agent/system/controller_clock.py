"""The controller's clock as this device hears it, and how far the device's own is off.

A message may have waited anywhere, so a time alone says little. One that comes in answer to what
was sent just now is of the moment between the two: what was asked of a repository (a ``Date``
over HTTP, a property of a block over MQTT), what was acknowledged. It names a clock that is wrong
and decides nothing: who could forge it could not make an expired signature good.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from agent.system.clock import EARLIEST, Clock, is_set
from agent.system.log import logger
from contracts.clock import TOLERANCE_S, span, utc
from contracts.errors import ErrorInfo
from contracts.messages import Wait

log = logger(__name__)

WRONG: Final = "clock-wrong"
"""The code of a reason that is this device's clock."""

_NOT_YET: Final = 9
_NO_MORE: Final = 10
"""OpenSSL's codes of a certificate out of its time (``X509_V_ERR_CERT_NOT_YET_VALID``)."""

MAX_TIME_S: Final = 1e11
"""Seconds since the epoch beyond which no clock is believed: the year 5138."""

MAX_ANSWER_S: Final = 300.0
"""Seconds after which an answer says too little of the time."""


class ControllerClock:
    """What was heard. Any thread may tell and ask.

    Args:
        clock: this device's.
        changed: told when the clock has become wrong or right, or was set.
    """

    def __init__(self, clock: Clock, changed: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._changed = changed
        self._lock = threading.Lock()
        self._offset: float | None = None
        self._ahead = self._difference()
        self._told = ""
        self._since = clock.monotonic()

    def _difference(self) -> float:
        """The wall clock less the monotonic one: it changes when the clock is set."""
        return self._clock.time() - self._clock.monotonic()

    def heard(self, at: float, sent: float) -> None:
        """The controller's time came.

        Args:
            at: seconds since the epoch; any number.
            sent: when that was sent which it answers, by this device's monotonic clock.
        """
        now = self._clock.time()
        took = self._clock.monotonic() - sent
        if not 0 <= at <= MAX_TIME_S or not 0 <= took <= MAX_ANSWER_S:
            return
        with self._lock:
            # It was read somewhere between sending and now: the least difference that explains it.
            latest, earliest = now - at, now - at - took
            self._offset = earliest if earliest > 0 else min(latest, 0.0)
            self._ahead = self._difference()
        self.look()

    @property
    def offset_s(self) -> float | None:
        """Seconds that this device's clock is ahead; None: not known, or it was set since."""
        with self._lock:
            return self._offset

    def now(self) -> float | None:
        """The controller's time; None: it was not heard since the start, or the clock was set."""
        self.look()
        offset = self.offset_s
        return None if offset is None else self._clock.time() - offset

    def look(self) -> None:
        """Notices that the clock was set, and says what has changed; to be called now and then."""
        with self._lock:
            moved = self._difference() - self._ahead
            if abs(moved) > TOLERANCE_S:
                # Or the device slept: what was known of its clock is not any more.
                self._offset = None
                self._ahead += moved
            else:
                moved = 0.0
            kind = self._kind(self._offset)
            news, self._told = kind != self._told, kind
            if news:
                self._since = self._clock.monotonic()
        if moved:
            log.warning("the clock moved", seconds=round(moved), time=utc(self._clock.time()))
        fault = self.fault()
        if news and fault is not None:
            log.error("the clock is wrong", reason=fault.message, **fault.detail)
        elif news:
            log.info("the clock is not known to be wrong", time=utc(self._clock.time()))
        if moved or news:
            self._changed()

    def _kind(self, offset: float | None) -> str:
        """How the clock is wrong; empty: it is not known to be."""
        if not is_set(self._clock):
            return "not set"
        if offset is None or abs(offset) <= TOLERANCE_S:
            return ""
        return "ahead of" if offset > 0 else "behind"

    def wait(self) -> Wait | None:
        """The fault as a reason that is reported; what has to wait for it says so itself."""
        fault = self.fault()
        if fault is None:
            return None
        lasts = self._clock.monotonic() - self._since
        return Wait(fault, self._clock.time() - lasts, blocks=False)

    def fault(self) -> ErrorInfo | None:
        """Why this device's clock is wrong; None: it is not known to be."""
        now, offset = self._clock.time(), self.offset_s
        kind = self._kind(offset)
        if not kind:
            return None
        here, there = utc(now), "" if offset is None else f", the controller {utc(now - offset)}"
        message = f"this device's clock is not set: it says {here}{there}: set it"
        if offset is not None and kind != "not set":
            message = (
                f"this device's clock is {span(offset)} {kind} the controller's: "
                f"it says {here}{there}: set it"
            )
        return ErrorInfo(WRONG, message, {} if offset is None else {"offset_s": round(offset)})


def certificate_time(error: BaseException | None, now: float) -> str:
    """What a certificate that is not valid now says of this device's clock, in words.

    Args:
        error: of a connection.
        now: by this device's clock.

    Returns:
        Nothing where the time is not at fault.
    """
    code = getattr(error, "verify_code", 0)
    if code not in (_NOT_YET, _NO_MORE):
        return ""
    if code == _NOT_YET:
        problem, cause = "is not valid yet", "this device's clock is behind"
    else:
        problem, cause = "has expired", "this device's clock is ahead, or it was not renewed"
    if now < EARLIEST:
        cause = "this device's clock is not set"
    return f"{cause}: the server's certificate {problem} at {utc(now)}, the time of this device"
