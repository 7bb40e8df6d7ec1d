"""What a simulated device has, and what all of them did."""

from __future__ import annotations

import msgspec

from agent.simulate.model import FakeModel
from contracts.messages import SlotReport


class Counters(msgspec.Struct):
    """What all devices of a process did together."""

    online: int = 0
    connects: int = 0
    published: int = 0
    published_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
    downloaded_bytes: int = 0
    committed: int = 0
    rolled_back: int = 0
    refused: int = 0
    answers: int = 0


class Slot(msgspec.Struct):
    """What one slot runs."""

    active: FakeModel | None = None
    previous: FakeModel | None = None
    shadow: FakeModel | None = None
    trial: bool = False

    def report(self) -> SlotReport:
        """As in the reported document."""
        return SlotReport(
            active=self.active.ref if self.active else None,
            previous=self.previous.ref if self.previous else None,
            shadow=self.shadow.ref if self.shadow else None,
            trial=self.trial,
        )
