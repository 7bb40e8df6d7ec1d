"""When maintenance windows are open: the same arithmetic at the controller and on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from contracts.desired import Window

DAY_S: Final = 86400
AHEAD_DAYS: Final = 15
"""Days in which every window opens: one a week may fall into the hour that a zone leaves out."""


def offset_s(window: Window, now: float) -> int:
    """Seconds that the window's zone is east of UTC."""
    offsets = window.offsets
    if not offsets:
        return 0
    past = [one for one in offsets if one[0] <= now]
    return max(past)[1] if past else min(offsets)[1]


def holds(window: Window, now: float) -> bool:
    """Whether `now` (seconds since the epoch) is inside."""
    day, second = divmod(now + offset_s(window, now), DAY_S)
    minute = second // 60
    weekday = (int(day) + 3) % 7  # 1970-01-01 was a Thursday
    if window.start < window.end:
        return weekday in window.days and window.start <= minute < window.end
    return (weekday in window.days and minute >= window.start) or (
        (weekday - 1) % 7 in window.days and minute < window.end
    )


def is_open(windows: Sequence[Window], now: float) -> bool:
    """Whether any window holds; no windows mean always."""
    return not windows or any(holds(window, now) for window in windows)


def next_change(windows: Sequence[Window], now: float) -> float | None:
    """When they next open, or where they are open, close; None: not in :data:`AHEAD_DAYS`."""
    opened = is_open(windows, now)
    for day in range(AHEAD_DAYS):
        begin = now + day * DAY_S
        edges = {edge for window in windows for edge in _edges(window, begin)}
        for edge in sorted(edges):
            if is_open(windows, edge) != opened:
                return edge
    return None


def _edges(window: Window, begin: float) -> Iterator[float]:
    """Moments of the 24 hours after `begin` at which the window may open or close."""
    end = begin + DAY_S
    changes = [float(at) for at, _ in window.offsets if begin < at <= end]
    yield from changes
    for offset in {offset_s(window, moment) for moment in (begin, *changes)}:
        midnight = (begin + offset) // DAY_S * DAY_S - offset
        for minutes in (window.start, window.end, window.start + 1440, window.end + 1440):
            edge = midnight + minutes * 60
            if begin < edge <= end:
                yield edge


def later(windows: Sequence[Window], since: float, seconds: float) -> float:
    """The moment at which they were open for so many seconds after `since`."""
    now, left = since, seconds
    while windows:
        change = next_change(windows, now)
        if is_open(windows, now):
            if change is None or change - now >= left:
                break
            left -= change - now
        elif change is None:
            return now + AHEAD_DAYS * DAY_S  # never open: to be looked at again
        now = change
    return now + left


def fits(windows: Sequence[Window], now: float, seconds: float) -> bool:
    """Whether something that takes so long may begin: it ends before they close.

    Where none of them is so long, it may begin while they are open.
    """
    if not is_open(windows, now):
        return False
    closes = next_change(windows, now) if windows else None
    if closes is None or closes - now >= seconds:
        return True
    return not any(_lasts(window) >= seconds for window in windows)


def shortened(window: Window, seconds: float) -> Window:
    """The part of a window in which what takes so long may begin; all of it where it is shorter."""
    if _lasts(window) <= seconds:
        return window
    end = (window.start * 60 + _lasts(window) - seconds) // 60
    if end <= window.start:
        return window
    return msgspec.structs.replace(window, end=int(end) % 1440)


def _lasts(window: Window) -> int:
    """Seconds from its start to its end."""
    return (window.end - window.start) % 1440 * 60 or DAY_S
