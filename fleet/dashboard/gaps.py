"""What a chart shows between two points: nothing happened, or the device was away. Pure.

A device that is idle tells it now and then (``docs/protocol.md``): the sample that ends such a
time says how long it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from fleet.store.telemetry import Point

Row = tuple[int, ...]
"""Counts of one span of time."""

MINUTE: Final = 60
DEVICE: Final = "device"
"""The slot of samples of the whole device."""


def covered(points: Sequence[Point]) -> dict[int, float]:
    """By the start of a span, since when the device was there: the windows of its samples say it.

    A span too late at most, as they may have ended anywhere within their span.
    """
    since: dict[int, float] = {}
    for point in points:
        windows = point.figures.window_s if point.slot == DEVICE else 0.0
        began = min(point.start, point.start + point.resolution - windows)
        since[point.start] = min(since.get(point.start, began), began)
    return since


def was_away(last: int, since: float, step: int) -> bool:
    """Whether a device was away between a span of time and the next that it told of.

    Args:
        last: start of the span.
        since: as :func:`covered` says of the next one.
        step: seconds of a span.
    """
    return since > last + 2 * step


def filled(
    rows: Mapping[int, Row], since: Mapping[int, float], step: int, until: float | None
) -> list[tuple[int, Row | None]]:
    """Rows in the order of time, with what stands between them: zeros, or None: it was away.

    Args:
        rows: counts by the start of their span.
        since: as :func:`covered` says.
        step: seconds of a span.
        until: the moment up to which the device is there though it has told nothing; None: it is
            away.
    """
    found: list[tuple[int, Row | None]] = []
    last: int | None = None
    for start in sorted(rows):
        if last is not None and start - last > step:
            away = was_away(last, since.get(start, start), step)
            found += _between(last + step, start - step, None if away else _none(rows[start]))
        found.append((start, rows[start]))
        last = start
    if until is not None and last is not None and until - last > 2 * step:
        found += _between(last + step, int(until), _none(rows[last]))
    return found


def _none(row: Row) -> Row:
    return (0,) * len(row)


def _between(first: int, last: int, row: Row | None) -> list[tuple[int, Row | None]]:
    """A straight line from one moment to another, or one gap."""
    if row is None or last <= first:
        return [(first, row)]
    return [(first, row), (last, row)]
