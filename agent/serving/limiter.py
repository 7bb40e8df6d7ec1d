"""A token bucket for each requester, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MAX_REQUESTERS: Final = 1024
"""Requesters that are remembered; the one that asked longest ago is forgotten first."""

BURST_S: Final = 2.0
"""Seconds of the rate that may be used at once."""


class RateLimiter:
    """Allows each requester `rate_per_s` requests a second with a burst of two seconds' worth.

    Args:
        rate_per_s: 0 allows everything.
    """

    def __init__(self, rate_per_s: float) -> None:
        self._rate = rate_per_s
        self._burst = max(1.0, rate_per_s * BURST_S)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, requester: str, now: float) -> bool:
        """Whether one more request of `requester` is within its rate at monotonic time `now`."""
        if self._rate <= 0:
            return True
        tokens, last = self._buckets.pop(requester, (self._burst, now))
        tokens = min(self._burst, tokens + (now - last) * self._rate)
        allowed = tokens >= 1
        self._buckets[requester] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > MAX_REQUESTERS:
            self._buckets.popitem(last=False)
        return allowed
