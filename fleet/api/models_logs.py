"""Documents of devices' logs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from contracts import limits
from contracts.answers import Logged
from contracts.requests import LogLevel
from fleet.api.models import Answer, Given, Name
from fleet.logtail import MAX_FOLLOW_S


class LogsAsked(Given):
    """Which lines of a device's log. `after` and `boot` are `last` and `boot` of a page before."""

    lines: Annotated[int, Field(ge=1, le=limits.MAX_LOG_LINES)] = 100
    level: LogLevel = Field("info", description="the least")
    after: Annotated[int, Field(ge=0, le=limits.MAX_WHOLE)] | None = None
    boot: Name | None = None
    follow_s: Annotated[float, Field(ge=0, le=MAX_FOLLOW_S)] = Field(
        0.0, description="seconds for which pages follow as lines come; 0: one page"
    )


class LogLineModel(Answer):
    """A line, as the device redacted it; `at` by the device's clock."""

    seq: int
    at: float
    level: LogLevel
    event: str
    module: str
    facts: dict[str, str]


class LogPage(Answer):
    """Lines, the oldest first. `missed`: lines before them that the device keeps no more."""

    boot: str
    lines: list[LogLineModel]
    last: int
    missed: int


def page(found: Logged) -> LogPage:
    """A page of the API, of one of the wire."""
    lines = [
        LogLineModel(
            seq=one.seq,
            at=one.at,
            level=one.level,
            event=one.event,
            module=one.module,
            facts=one.facts,
        )
        for one in found.lines
    ]
    return LogPage(boot=found.boot, lines=lines, last=found.last, missed=found.missed)
