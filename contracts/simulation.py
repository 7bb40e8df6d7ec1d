"""What ``python -m agent.simulate`` tells of its devices, and ``shoal fleet simulate`` sums up."""

from __future__ import annotations

import msgspec


class Counters(msgspec.Struct):
    """What all devices of a process, or of several, did together."""

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
