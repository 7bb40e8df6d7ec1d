"""Maintenance windows: when a rollout may touch devices."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
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

    def holds(self, now: float) -> bool:
        """Whether `now` (seconds since the epoch) is inside."""
        local = dt.datetime.fromtimestamp(now, ZoneInfo(self.timezone))
        clock = local.strftime("%H:%M")
        today = _DAYS[local.weekday()]
        yesterday = _DAYS[(local.weekday() - 1) % 7]
        if self.start < self.end:
            return today in self.days and self.start <= clock < self.end
        return (today in self.days and clock >= self.start) or (
            yesterday in self.days and clock < self.end
        )

    def next_start(self, now: float) -> float:
        """The next moment at which it begins, after `now`."""
        zone = ZoneInfo(self.timezone)
        today = dt.datetime.fromtimestamp(now, zone).date()
        at = dt.time.fromisoformat(self.start)
        starts = (
            dt.datetime.combine(today + dt.timedelta(days), at, zone)
            for days in range(9)
            if _DAYS[(today + dt.timedelta(days)).weekday()] in self.days
        )
        return next(s for start in starts if (s := start.timestamp()) > now)


def next_open(windows: Sequence[Window], now: float) -> float:
    """When to look whether a window has opened: the next start, in an hour at the latest.

    Where clocks are put forward over a start, the window opens before it.
    """
    return min(now + 3600.0, *(window.next_start(now) for window in windows))


def is_open(windows: Sequence[Window], now: float) -> bool:
    """Whether any window holds; no windows mean always."""
    return not windows or any(window.holds(now) for window in windows)
