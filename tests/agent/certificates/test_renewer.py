"""When a device looks at its certificate again."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from agent.certificates.renewal import CHECK_S, RETRY_S, Renewer
from contracts.config import TlsConfig
from contracts.errors import UnavailableError


class Certificate:
    """One that is due, and a controller that is away for some time."""

    def __init__(self, away: int) -> None:
        self.away = away
        self.is_due = True

    def due(self, _now: float) -> bool:
        """Whether it is time."""
        return self.is_due

    def renew(self) -> TlsConfig:
        """The next one, once the controller is there."""
        if self.away:
            self.away -= 1
            raise UnavailableError("unreachable", "the controller cannot be reached")
        self.is_due = False
        return TlsConfig("ca", "certificate", "key")


class Clock:
    """A clock that moves by what is waited."""

    def __init__(self, now: float = 1.8e9) -> None:
        self.now = now
        self.waited: list[float] = []

    def time(self) -> float:
        """Seconds since the epoch."""
        return self.now

    def monotonic(self) -> float:
        """The same."""
        return self.now

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """Waits without waiting, ten times; the clock is set then at the latest."""
        self.waited.append(seconds)
        self.now = max(self.now, 1.8e9) + seconds
        if len(self.waited) == 10:
            stop.set()
        return stop.is_set()


def run(certificate: Any, clock: Any) -> tuple[list[TlsConfig], list[float]]:
    """What was renewed in ten looks, and the pauses between them."""
    renewed: list[TlsConfig] = []
    Renewer(certificate, renewed.append, clock, threading.Event()).run()
    return renewed, clock.waited


def test_a_renewal_that_failed_is_tried_again_soon() -> None:
    """A device that comes back minutes before the end, with its controller in a restart."""
    renewed, waited = run(Certificate(away=3), Clock())
    assert len(renewed) == 1
    assert sum(waited[:3]) <= 7 * RETRY_S
    assert waited[3] >= CHECK_S / 2, "and then it is quiet"


def test_a_controller_that_stays_away_is_asked_less_and_less() -> None:
    """Never less often than a certificate is looked at."""
    renewed, waited = run(Certificate(away=99), Clock())
    assert not renewed
    assert waited[0] <= RETRY_S < CHECK_S / 4 <= waited[-1] <= CHECK_S


@pytest.mark.parametrize("at", [0.0, 1000.0])
def test_a_clock_that_is_not_set_yet_costs_no_hour(at: float) -> None:
    """A board without a battery learns the time seconds after its start."""
    renewed, waited = run(Certificate(away=0), Clock(at))
    assert len(renewed) == 1
    assert waited[0] <= RETRY_S
