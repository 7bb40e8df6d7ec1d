"""What a simulated device needs of the world: time, timers, a connection, the repository."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Protocol

import msgspec

from contracts.errors import ErrorInfo
from contracts.manifest import Manifest
from contracts.messages import BundleRef


class Timer(Protocol):
    """Something that will be called."""

    def cancel(self) -> None:
        """It will not be called."""


class Fetch(msgspec.Struct, frozen=True):
    """A download that a script waits for. `full`: every file; else the manifest alone."""

    ref: BundleRef
    full: bool


class Fetched(msgspec.Struct, frozen=True):
    """How a download ended. `manifest` None and no error: it was not asked to download."""

    manifest: Manifest | None = None
    total_bytes: int = 0
    error: ErrorInfo | None = None


class Host(Protocol):
    """One simulated device's world. All calls return at once."""

    def time(self) -> float:
        """Seconds since the Unix epoch."""

    def monotonic(self) -> float:
        """Seconds that only grow."""

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Calls `call` in `seconds`."""

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        done: Callable[[int], None] | None = None,
    ) -> None:
        """Publishes at QoS 1; while the connection is away, after it is back.

        Args:
            topic: where to.
            payload: what.
            retain: the broker keeps it.
            done: told the reason code of the broker's acknowledgement.
        """

    def fetch(self, wanted: Fetch, done: Callable[[Fetched], None]) -> None:
        """Downloads, checks every digest, and calls `done`, once."""


Script = Generator[float | Fetch, Fetched | None, None]
"""What a device does over time: it yields seconds to wait, or a download to wait for."""


class Running:
    """A script that runs on a host until it ends or is stopped."""

    __slots__ = ("_host", "_script", "_timer")

    def __init__(self, host: Host, script: Script) -> None:
        self._host = host
        self._script: Script | None = script
        self._timer: Timer | None = None
        self._go(None)

    def stop(self) -> None:
        """Stops it where it is."""
        script, self._script = self._script, None
        if self._timer is not None:
            self._timer.cancel()
        if script is not None:
            script.close()

    def _go(self, value: Fetched | None) -> None:
        if self._script is None:
            return
        try:
            wanted = self._script.send(value)
        except StopIteration:
            self._script = None
            return
        if isinstance(wanted, Fetch):
            self._host.fetch(wanted, self._go)
        else:
            self._timer = self._host.later(wanted, lambda: self._go(None))
