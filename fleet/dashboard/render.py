"""Templates: HTML from data, with everything escaped that is not a template's own."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

import jinja2

from fleet.dashboard import words
from fleet.dashboard.site import PREFIX


def ago(moment: float | None) -> str:
    """How long ago a moment was, for people."""
    if moment is None:
        return "never"
    seconds = time.time() - moment
    if seconds < 0:
        return f"in {duration(-seconds)}" if seconds < -1 else "now"
    return "now" if seconds < 2 else f"{duration(seconds)} ago"


def duration(seconds: float) -> str:
    """A duration in its largest sensible unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def clock(moment: float | None) -> str:
    """A moment as date and time, UTC."""
    if moment is None:
        return ""
    try:
        return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return "unknown time"


def size(count: float | None) -> str:
    """Bytes for people."""
    if count is None:
        return ""
    for step, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count:.0f} B"


def number(value: Any) -> str:
    """A figure for people: at most four significant digits, thousands grouped."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def percent(value: float | None) -> str:
    """A ratio as a percentage."""
    return "–" if value is None else f"{value * 100:.1f} %"


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("fleet.dashboard"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.globals["prefix"] = PREFIX
_ENVIRONMENT.filters.update(
    ago=ago, duration=duration, clock=clock, size=size, number=number, percent=percent,
    cause=words.cause, engine=words.engine, state=words.state,
)  # fmt: skip


def render(template: str, **values: Any) -> str:
    """A template's HTML; every value is escaped."""
    return _ENVIRONMENT.get_template(template).render(values)
