"""What a device says of itself: the reported document, why it waits, and events of updates.

No thread, no disk, no socket: an agent says it over its link and its spool, a simulated device
over its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from agent.link import Link
from agent.serving.lessons import Lessons
from agent.system.clock import Clock, is_set
from agent.system.controller_clock import ControllerClock
from agent.system.log import logger
from agent.telemetry.held import Spooling
from agent.telemetry.news import News
from agent.update.engine import Engine
from contracts import codec, limits
from contracts.errors import ErrorInfo, ShoalError
from contracts.messages import (
    FINAL_UPDATE_STATES,
    Acceleration,
    BundleRef,
    Reported,
    SlotReport,
    UpdateEvent,
    Wait,
)
from contracts.topics import Topics

log = logger(__name__)

LATELY_S: Final = 2.0
"""Seconds for which a document that was sent says what the device has."""


class Parts(Protocol):
    """The device, as far as it is reported. Its parts may be made after this."""

    @property
    def clock(self) -> Clock:
        """The time."""

    @property
    def engine(self) -> Engine:
        """Its updates."""

    @property
    def link(self) -> Link:
        """Its connection."""

    @property
    def spool(self) -> Spooling:
        """What waits to be sent."""

    @property
    def lessons(self) -> Lessons:
        """What it was taught."""

    @property
    def accelerated(self) -> Callable[[BundleRef | None], Acceleration | None]:
        """What came of an accelerator with a bundle; None: none was tried."""

    @property
    def controller_clock(self) -> ControllerClock:
        """The controller's time."""

    def wake_reporter(self) -> None:
        """There is something in the spool."""

    def stir(self) -> None:
        """Something begins: what is measured from now on is of interest."""

    def told(self) -> None:
        """What the device has or does has changed, and was told if there is a connection."""

    def update_ended(self, event: UpdateEvent) -> None:
        """An update has ended, well or not."""


class Facts(msgspec.Struct, frozen=True):
    """What stays the same while a device runs; fields as in ``Reported``."""

    device: str
    boot: str
    agent_version: str
    board: str
    runtime: str
    labels: dict[str, str]
    groups: list[str]
    platform: dict[str, str] = {}


class Reporting:
    """Tells what a device has. Safe from any thread.

    Args:
        parts: of the device.
        facts: of the device.
        topics: of the fleet.
        room: free bytes of memory and disk.
    """

    def __init__(
        self, parts: Parts, facts: Facts, topics: Topics, room: Callable[[], tuple[int, int]]
    ) -> None:
        self._parts = parts
        self._facts = facts
        self._topics = topics
        self._room = room
        self._news = News()
        self._last: Reported | None = None

    def document(self) -> Reported:
        """The reported document of now."""
        parts, facts = self._parts, self._facts
        journal = parts.engine.journal
        memory, disk = self._room()
        return Reported(
            device=facts.device,
            boot=facts.boot,
            agent_version=facts.agent_version,
            board=facts.board,
            runtime=facts.runtime,
            at=parts.clock.time(),
            labels=facts.labels,
            groups=facts.groups,
            slots=self._slots(),
            desired_revision=journal.reached,
            desired_fence=journal.desired.fence if journal.desired else 0,
            last_update=journal.last_event,
            free_bytes=disk,
            memory_bytes=memory,
            clock="synced" if is_set(parts.clock) else "unsynced",
            platform=facts.platform,
            waits=self.waits(),
            clock_offset_s=parts.controller_clock.offset_s,
        )

    def _slots(self) -> dict[str, SlotReport]:
        """What every slot has, what it was taught, and what came of an accelerator."""
        found = self._parts.engine.slots()
        for slot, report in found.items():
            taught = self._parts.lessons.of(slot)
            acceleration = self._parts.accelerated(report.active)
            if taught or acceleration is not None:
                found[slot] = msgspec.structs.replace(
                    report, taught=taught, acceleration=acceleration
                )
        return found

    def lately(self) -> Reported | None:
        """The document that was sent a moment ago; there is none later."""
        last, self._last = self._last, None
        return last if last and self._parts.clock.time() - last.at < LATELY_S else None

    def waits(self) -> list[Wait]:
        """What keeps the device from getting on, or what it does without."""
        parts = self._parts
        waits = parts.engine.waits()
        clock = parts.controller_clock.wait()
        if clock is not None and all(wait.reason.code != clock.reason.code for wait in waits):
            waits.append(clock)
        waits += parts.link.refusals.waits()
        lasts = parts.spool.in_memory_s
        if lasts is not None:
            words = (
                f"the spool's disk takes nothing: {parts.spool.depth} messages wait in memory, "
                "lost if the power fails: make room on the device"
            )
            reason = ErrorInfo("telemetry-in-memory", words)
            waits.append(Wait(reason, parts.clock.time() - lasts, blocks=False))
        return waits[: limits.MAX_WAITS]

    def changed(self) -> None:
        """Publishes the reported document; when offline, the next connection does."""
        link = self._parts.link
        if not link.connected.is_set():
            return
        topic = self._topics.of_device(self._facts.device, "reported")
        try:
            self._last = self.document()
            link.publish(topic, codec.encode(self._last), retain=True)
        except (ShoalError, OSError) as error:
            log.warning("reported not sent", reason=str(error))
        self._parts.told()

    def emit(self, event: UpdateEvent) -> None:
        """Spools an event: what is new in precious messages, and the rest as telemetry.

        Progress and the same failure again are not kept while there is no connection: the
        reported document of the next one has the last event. The one that a start tells again
        may be in the spool already.
        """
        new = self._news.is_new(event)
        again = event.boot != self._facts.boot
        if new and not again:
            self._parts.stir()
        if new or self._parts.link.connected.is_set():
            self._parts.spool.put(
                self._topics.of_device(self._facts.device, "update"),
                codec.encode(event),
                boot=event.boot,
                seq=event.seq,
                precious=new and not again,
            )
            self._parts.wake_reporter()
        if event.state in FINAL_UPDATE_STATES:
            self._parts.update_ended(event)
