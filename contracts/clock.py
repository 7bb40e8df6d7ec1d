"""Clocks that may be wrong: which times can be right, and how far apart two clocks are."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Final

EARLIEST: Final = 1_767_225_600.0
"""2026-01-01. A clock before this software was made has not been set."""

TOLERANCE_S: Final = 120.0
"""Seconds by which the clocks of a device and its controller may differ."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)  # Python 3.10
_SPANS: Final = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def can_be_right(moment: float, now: float) -> bool:
    """Whether somebody's clock may have shown `moment`, at or before `now`; never for NaN."""
    return EARLIEST <= moment <= now


def span(seconds: float) -> str:
    """A length of time for people, in the largest unit of which there are two."""
    for size, unit in _SPANS:
        if abs(seconds) >= 2 * size:
            return f"{abs(seconds) / size:.0f} {unit}"
    return "a second"


def utc(moment: float) -> str:
    """A moment for people; any number."""
    try:
        return f"{_EPOCH + timedelta(seconds=moment):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError):
        return f"{moment:g} s since 1970"
