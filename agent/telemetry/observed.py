"""What was seen of a slot in a trial: the figures that the rules of health judge."""

from __future__ import annotations

import msgspec

from contracts.histogram import Histogram


class Observed(msgspec.Struct, frozen=True):
    """What was seen of a slot since its trial began.

    Attributes:
        requests, errors: counts; requests include those that failed.
        latency_us: of the answers.
        rss_bytes: resident memory now.
        silent_s: seconds since the last sign of life of the request that runs; it is in no
            count before it ends.
    """

    requests: int
    errors: int
    latency_us: Histogram
    rss_bytes: int
    silent_s: float = 0.0
