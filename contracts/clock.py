"""Clocks that may be wrong: which times can be right, and how far apart two clocks are."""

from __future__ import annotations

from typing import Final

EARLIEST: Final = 1_767_225_600.0
"""2026-01-01. A clock before this software was made has not been set."""


def can_be_right(moment: float, now: float) -> bool:
    """Whether somebody's clock may have shown `moment`, at or before `now`; never for NaN."""
    return EARLIEST <= moment <= now
