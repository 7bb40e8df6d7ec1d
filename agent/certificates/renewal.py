"""Renews the device's certificate while it is valid, in the background."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Final

from agent.certificates.child import CertificateApart
from agent.system.clock import Clock, is_set
from agent.system.log import logger
from contracts.config import TlsConfig
from contracts.errors import ShoalError

log = logger(__name__)

CHECK_S: Final = 3600.0
"""Seconds between two looks at the certificate: a third of a year-long one is left to try."""

RETRY_S: Final = 10.0
"""Seconds before the first attempt after one that failed, and twice as many before each further
one: a device that comes back shortly before the end has no hour to wait for its controller."""


class Renewer:
    """Looks at the certificate every hour and renews it when a third of its life is left.

    Args:
        certificate: the one in use.
        renewed: takes the new TLS settings; connections that are made from then on use them.
        clock: the time. Without a set clock nothing is due: expiry cannot be judged.
        stop: set when the agent stops.
    """

    def __init__(
        self,
        certificate: CertificateApart,
        renewed: Callable[[TlsConfig], None],
        clock: Clock,
        stop: threading.Event,
    ) -> None:
        self._certificate = certificate
        self._renewed = renewed
        self._clock = clock
        self._stop = stop
        self._retry_s = 0.0

    def run(self) -> None:
        """Runs until the agent stops. A failure is logged and tried again."""
        while not self._stop.is_set():
            self.step()
            # Spread out: a fleet that was enrolled at once must not ask at once.
            self._clock.wait(self._stop, self.pause_s * random.uniform(0.5, 1.0))

    @property
    def pause_s(self) -> float:
        """Most seconds until the next look."""
        return min(self._retry_s or CHECK_S, CHECK_S)

    def step(self) -> bool:
        """One look; True when the certificate was renewed."""
        if not is_set(self._clock):
            self._tried()
            return False
        try:
            if not self._certificate.due(self._clock.time()):
                self._retry_s = 0.0
                return False
            self._renewed(self._certificate.renew())
        except (ShoalError, OSError) as error:
            log.warning("certificate not renewed", reason=str(error)[:300])
            self._tried()
            return False
        self._retry_s = 0.0
        return True

    def _tried(self) -> None:
        """Nothing came of it: again soon, and later from one time to the next."""
        self._retry_s = min(2 * self._retry_s or RETRY_S, CHECK_S)
