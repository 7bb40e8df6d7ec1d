"""Maintenance windows: when a rollout may give devices a version, and they may activate it."""

from __future__ import annotations

import datetime as dt
import functools
import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator

from contracts import limits
from contracts import windows as arithmetic
from contracts.desired import Window as WireWindow

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SINCE_S: Final = 30 * 86400
_AHEAD_S: Final = 2 * 366 * 86400 + _SINCE_S
"""Seconds for which a device is told the changes of a zone; then the last offset stays."""

_Clock = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$", examples=["22:00"])]


class Window(BaseModel):
    """A daily span of time. An end before the start is on the next day.

    `days` are the days on which it starts; `timezone` is a name of the IANA database.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: _Clock
    end: _Clock
    days: Annotated[tuple[Day, ...], Field(min_length=1, max_length=7)] = _DAYS
    timezone: Annotated[str, Field(max_length=64)] = "UTC"

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        # A name is looked up as a file of the zone database: nothing else may pass.
        try:
            if not re.fullmatch(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}", value):
                raise ValueError
            ZoneInfo(value)
        except (ValueError, OSError, KeyError):
            raise ValueError(f"unknown time zone {value!r}") from None
        return value

    def on_wire(self, now: float) -> WireWindow:
        """As a device reads it: with the zone's changes of two years from `now` on."""
        offsets = _offsets(self.timezone, int(now // _SINCE_S))
        return WireWindow(
            _minute(self.start),
            _minute(self.end),
            sorted({_DAYS.index(day) for day in self.days}),
            [] if offsets == ((0, 0),) else list(offsets),
        )


def _minute(clock: str) -> int:
    """Minutes after midnight."""
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)


@functools.lru_cache(maxsize=1024)
def _offsets(timezone: str, since: int) -> tuple[tuple[int, int], ...]:
    """The offset at a moment, and its changes after that: from when on, seconds east of UTC.

    Args:
        timezone: a name of the IANA database.
        since: the moment, in units of :data:`_SINCE_S`; whoever asks does so within the unit.
    """
    zone = ZoneInfo(timezone)
    begin = since * _SINCE_S
    last = _offset(zone, begin)
    found = [(0, last)]
    for day in range(begin, begin + _AHEAD_S, 86400):
        if _offset(zone, day + 86400) == last:
            continue
        low, high = day, day + 86400
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _offset(zone, middle) == last else (low, middle)
        last = _offset(zone, high)
        found.append((high, last))
    return tuple(found[: limits.MAX_ZONE_CHANGES])


def _offset(zone: ZoneInfo, moment: int) -> int:
    found = dt.datetime.fromtimestamp(moment, zone).utcoffset()
    assert found is not None
    return int(found.total_seconds())


def on_wire(windows: Sequence[Window], now: float) -> list[WireWindow]:
    """Windows as devices read them."""
    return [window.on_wire(now) for window in windows]


def is_open(windows: Sequence[Window], now: float) -> bool:
    """Whether any window holds; no windows mean always."""
    return arithmetic.is_open(on_wire(windows, now), now)


def next_open(windows: Sequence[Window], now: float) -> float:
    """When closed windows open; in an hour where that is not in the next two weeks."""
    return arithmetic.next_change(on_wire(windows, now), now) or now + 3600.0


def later(windows: Sequence[Window], since: float, seconds: float, tail: float) -> float:
    """When devices have had so many seconds to begin what takes `tail` seconds inside windows.

    Args:
        windows: of a rollout; without any it is `since` and `seconds`.
        since: seconds since the epoch.
        seconds: of open windows, without what is too late in each.
        tail: of the activation and its trial.
    """
    return _later(tuple(windows), since, seconds, tail) if windows else since + seconds


@functools.lru_cache(maxsize=4096)
def _later(windows: tuple[Window, ...], since: float, seconds: float, tail: float) -> float:
    usable = [arithmetic.shortened(window, tail) for window in on_wire(windows, since)]
    return arithmetic.later(usable, since, seconds)
