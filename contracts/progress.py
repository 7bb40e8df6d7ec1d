"""How far a download is, in words."""

from __future__ import annotations

from typing import Final

from contracts.clock import span
from contracts.messages import UpdateEvent

_MOST_S: Final = 366 * 24 * 3600.0


def megabytes(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e6:,.1f} MB" if count < 99.5e6 else f"{count / 1e6:,.0f} MB"


def left_s(event: UpdateEvent) -> float | None:
    """Seconds that the rest of a download takes at its measured rate; None: nobody knows."""
    left = event.total_bytes - event.done_bytes
    if event.state != "downloading" or event.bytes_per_s <= 0 or left <= 0:
        return None
    return min(_MOST_S, left / event.bytes_per_s)


def download(event: UpdateEvent) -> str:
    """How far a download is: bytes, rate, time left; empty when it is none, or not known."""
    if event.state != "downloading" or not event.total_bytes:
        return ""
    text = f"{megabytes(event.done_bytes)} of {megabytes(event.total_bytes)}"
    if event.bytes_per_s > 0:
        text += f" at {event.bytes_per_s / 1e3:,.1f} kB/s"
    left = left_s(event)
    return text if left is None else f"{text}, about {span(left)} left"
