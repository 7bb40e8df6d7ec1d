"""Signs of life of an agent: the watchdog, and the file that ``shoal-agent status`` reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from agent.reporting import Parts, Reporting
from agent.serving.models import Models
from agent.serving.worker import STALL_S, Worker
from agent.system import statusfile, systemd
from agent.system.log import logger
from contracts import progress
from contracts.config import MqttConfig

log = logger(__name__)

STATUS_S: Final = 1.0
"""Seconds that a change waits for others before the status file is written."""

EVERY_S: Final = 5.0
"""Seconds between two looks at whether it still says what is true."""

SPOOL_S: Final = 60.0
"""Seconds between two writes of it when nothing but the number of waiting messages changes, by
more than a few."""

FEW: Final = 8
"""Messages that are always on their way."""

KEEP_S: Final = 600.0
"""Seconds between two writes of it when nothing changes: each wears the card."""


class Living(Parts, Protocol):
    """The agent, as far as its life is watched."""

    @property
    def worker(self) -> Worker:
        """Where requests run."""

    @property
    def models(self) -> Models:
        """What serves."""


class Vitals:
    """Feeds the watchdog, and writes the status file. For one thread but :meth:`soon`.

    Args:
        parts: of the agent.
        reporting: what it says of itself.
        mqtt: the broker.
        folder: the state folder.
        started: seconds since the epoch at which the agent started.
        threads_live: whether every thread that must run does.
        stopped: whether the agent has stopped.
    """

    def __init__(
        self,
        parts: Living,
        reporting: Reporting,
        *,
        mqtt: MqttConfig,
        folder: Path,
        started: float,
        threads_live: Callable[[], bool],
        stopped: Callable[[], bool],
    ) -> None:
        self._parts = parts
        self._reporting = reporting
        self._mqtt = mqtt
        self._file = folder / "status.json"
        self._started = started
        self._threads_live = threads_live
        self._stopped = stopped
        self._due = 0.0
        self._written: tuple[float, statusfile.LocalStatus] | None = None
        self._refused = False
        self._watchdog_s = systemd.watchdog_s()
        self._fed = 0.0
        self.ready = False

    def soon(self) -> None:
        """What the device has has changed: the file says so in a moment."""
        self._due = min(self._due, self._parts.clock.monotonic() + STATUS_S)

    def healthy(self) -> bool:
        """Whether every thread that must run does, and the request that runs gets on."""
        return (
            self._parts.worker.alive
            and self._parts.link.alive
            and self._parts.worker.silent_s() <= STALL_S
            and self._threads_live()
        )

    def beat(self) -> None:
        """Called every second or so."""
        now = self._parts.clock.monotonic()
        if self.ready and self._watchdog_s is not None and now - self._fed >= self._watchdog_s / 3:
            self._fed = now
            if self.healthy():
                systemd.notify("WATCHDOG=1")
            else:
                silent = round(self._parts.worker.silent_s(), 1)
                log.error(
                    "not healthy: the watchdog is not fed",
                    worker_silent_s=silent,
                    network=self._parts.link.alive,
                )
        if now >= self._due:
            self._due = now + EVERY_S
            self.write()

    def write(self) -> None:
        """Writes the status file."""
        parts = self._parts
        try:
            status = statusfile.LocalStatus(
                pid=os.getpid(),
                at=parts.clock.time(),
                started=self._started,
                connected=parts.link.connected.is_set(),
                broker=self._mqtt.where,
                waits_for=self._waits_for(),
                queue=parts.worker.depth,
                spool=parts.spool.depth,
                connections=parts.link.connections,
                reported=self._reporting.lately() or self._reporting.document(),
                takeovers=parts.link.takeovers,
            )
            now = parts.clock.monotonic()
            if self._is_news(status, now):
                statusfile.write(self._file, status)
                self._written = now, status
            self._refused = False
        except OSError as error:
            if not self._refused:  # it is tried every few seconds
                log.warning("status not written", reason=str(error))
            self._refused = True

    def _is_news(self, status: statusfile.LocalStatus, now: float) -> bool:
        """Whether the file says something else than the one that is there, or is old."""
        if self._written is None:
            return True
        at, before = self._written
        change, old = msgspec.structs.replace, before.reported
        reported = change(
            status.reported,
            at=old.at,
            free_bytes=old.free_bytes,
            memory_bytes=old.memory_bytes,
            clock_offset_s=old.clock_offset_s,
        )
        if change(status, at=before.at, spool=before.spool, reported=reported) != before:
            return True
        few = abs(status.spool - before.spool) <= FEW
        return now - at >= (KEEP_S if few else SPOOL_S)

    def _waits_for(self) -> str:
        parts = self._parts
        if self._stopped():
            return "nothing: it has stopped"
        if parts.link.farewell and parts.link.connected.is_set():
            return parts.link.farewell
        if not parts.link.connected.is_set():
            return parts.link.last_error or "the first connection to the broker"
        update, event = parts.engine.journal.update, parts.engine.journal.last_event
        found = self._reporting.waits()
        waits = "; ".join(wait.reason.message for wait in found)
        if update is not None and not update.final:
            how = "; ".join(wait.reason.message for wait in found if wait.blocks) or (
                progress.download(event) if event else ""
            )
            return f"update to {update.bundle}: {update.state}" + (f" ({how})" if how else "")
        if waits:
            return waits
        if not parts.models.slots:
            return "a first bundle from the controller"
        return "requests"
