"""Rests between rounds of work."""

from __future__ import annotations

import random

from fleet.pace import Pace


def test_what_comes_now_and_then_is_done_soon_and_what_comes_always_is_gathered() -> None:
    """Three devices, and then a thousand, each with one message in a quarter of an hour."""
    pace, chance = Pace(1.0, 10.0, 500), random.Random(1)
    for _ in range(5000):
        assert pace.rest(int(chance.random() < 3 / 900)) < 1.5
    rests = [pace.rest(1) for _ in range(200)]
    assert rests == sorted(rests) and rests[-1] == 10.0
    assert min(rests[:24]) < 2.1, "a short while of work is not made to wait"
    for _ in range(200):
        pace.rest(0)
    assert pace.rest(1) < 1.1


def test_a_backlog_is_worked_off_at_once() -> None:
    """However long the rests were."""
    pace = Pace(1.0, 10.0, 500)
    for _ in range(200):
        pace.rest(3)
    assert pace.rest(500) < 0.1
    assert pace.rest(3) == 10.0
