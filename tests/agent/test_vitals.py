"""The status file is written when it says something new, and seldom otherwise."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from agent.system import statusfile
from agent.vitals import EVERY_S, FEW, KEEP_S, SPOOL_S, Vitals
from contracts.config import MqttConfig
from contracts.messages import Reported


class Device:
    """An agent as far as its status tells of it, with a clock that is moved."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.file = folder / "status.json"
        self.said = Reported("kitchen", "b0", "1.0.0", "raspberry-pi-5", "litert", 0.0)
        connected = threading.Event()
        connected.set()
        clock = SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now)
        self.parts: Any = SimpleNamespace(
            clock=clock,
            link=SimpleNamespace(
                connected=connected, connections=1, takeovers=0, farewell="", last_error=""
            ),
            worker=SimpleNamespace(depth=0),
            spool=SimpleNamespace(depth=0),
            models=SimpleNamespace(slots=["classify"]),
            engine=SimpleNamespace(journal=SimpleNamespace(update=None, last_event=None)),
        )
        reporting: Any = SimpleNamespace(
            lately=lambda: None, document=lambda: self.said, waits=list
        )
        self.vitals = Vitals(
            self.parts, reporting, mqtt=MqttConfig(), folder=folder, started=0.0,
            threads_live=lambda: True, stopped=lambda: False,
        )  # fmt: skip

    def writes(self, seconds: float) -> int:
        """How often the file is written in a span of time; what is measured changes with it."""
        count, before = 0, self.written()
        for _ in range(round(seconds / EVERY_S)):
            self.now += EVERY_S
            self.said = msgspec.structs.replace(
                self.said, at=self.now, free_bytes=int(self.now), memory_bytes=int(self.now),
                clock_offset_s=self.now % 7,
            )  # fmt: skip
            self.vitals.beat()
            count, before = count + (self.written() != before), self.written()
        return count

    def written(self) -> float:
        """When the file was written."""
        return statusfile.read(self.file).at if self.file.exists() else 0.0


def test_an_idle_device_writes_its_status_every_ten_minutes(tmp_path: Path) -> None:
    """Each write wears the card; messages that come and go are no news."""
    device = Device(tmp_path)
    assert device.writes(EVERY_S) == 1
    device.parts.spool.depth = FEW
    assert device.writes(KEEP_S - EVERY_S) == 0
    assert device.writes(EVERY_S) == 1
    assert device.writes(10 * KEEP_S) == 10


def test_what_changes_is_written_at_once(tmp_path: Path) -> None:
    """The connection, a report, what it waits for; a queue that grows within a minute."""
    device = Device(tmp_path)
    device.writes(EVERY_S)
    device.parts.link.connected.clear()
    device.parts.link.last_error = "the broker is away"
    assert device.writes(EVERY_S) == 1
    found = statusfile.read(device.file)
    assert (found.connected, found.waits_for) == (False, "the broker is away")
    device.said = msgspec.structs.replace(device.said, desired_revision=3)
    assert device.writes(EVERY_S) == 1
    device.parts.worker.depth = 1
    assert device.writes(EVERY_S) == 1
    device.parts.spool.depth = FEW + 1
    assert device.writes(SPOOL_S) == 1
    assert statusfile.read(device.file).spool == FEW + 1
