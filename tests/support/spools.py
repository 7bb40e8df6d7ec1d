"""Spools and reporters that tests step by hand."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from agent.system.clock import SystemClock
from agent.telemetry.recorder import Recorder
from agent.telemetry.reporter import Reporter
from agent.telemetry.spool import Spool
from contracts import codec
from contracts.messages import (
    Acknowledged,
    Telemetry,
)
from tests.support.full_disk import full_disk


def spool(path: Path, **limits_: Any) -> Spool:
    """A spool with room."""
    path.mkdir(exist_ok=True)
    options: dict[str, Any] = {"max_bytes": 1 << 20, "max_age_s": 1e6, "time": lambda: 1000.0}
    return Spool(path / "spool.db", **(options | limits_))


def filled(path: Path, **limits_: Any) -> Spool:
    """A spool that was opened on a full disk."""
    with full_disk() as said:
        one = spool(path, **limits_)
    assert one.in_memory
    assert "spool kept in memory" in said.getvalue()
    return one


class Wire:
    """A broker that acknowledges when told."""

    def __init__(self) -> None:
        self.sent: list[Telemetry] = []
        self.waiting: list[Any] = []
        self.most = 0

    def publish(self, topic: str, payload: bytes, done: Any) -> None:
        """Takes a message."""
        self.sent.append(codec.decode(payload, Telemetry, what="telemetry"))
        self.waiting.append(done)
        self.most = max(self.most, len(self.waiting))

    def acknowledge(self) -> None:
        """All that came."""
        waiting, self.waiting = self.waiting, []
        for done in waiting:
            done(0)


TOPIC_OF: dict[Acknowledged, str] = {"telemetry": "t", "update": "u", "result": "r"}


def reporter(
    one: Spool, wire: Wire, boot: str, *, online: bool = False, **options: Any
) -> Reporter:
    """A reporter that is stepped by hand."""
    defaults: dict[str, Any] = {"clock": SystemClock(), "stop": threading.Event()}
    made = Reporter(
        one,
        Recorder(lambda: 0),
        lambda: {"x": 1.0},
        wire.publish,
        topics=TOPIC_OF,
        boot=boot,
        every_s=1.0,
        **(defaults | options),
    )
    if online:
        made.link_changed(True)
    return made
