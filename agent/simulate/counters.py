"""What all devices of a process did together."""

from __future__ import annotations

import msgspec


class Counters(msgspec.Struct):
    """Counts; see ``fleet.simulate.launcher.Totals``."""

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
