"""The health rules of a trial, as a pure function."""

from __future__ import annotations

import msgspec

from contracts.errors import ErrorInfo
from contracts.histogram import Histogram
from contracts.messages import TrialRules


class Observed(msgspec.Struct, frozen=True):
    """What was seen of a slot since its trial began.

    Attributes:
        requests, errors: counts; requests include those that failed.
        latency_us: of the answers.
        rss_bytes: resident memory now.
    """

    requests: int
    errors: int
    latency_us: Histogram
    rss_bytes: int


def verdict(rules: TrialRules, seen: Observed) -> ErrorInfo | None:
    """The first rule that is broken, as a reason; None while all hold."""
    if rules.max_rss_bytes is not None and seen.rss_bytes > rules.max_rss_bytes:
        return ErrorInfo(
            "trial-memory",
            f"the agent takes {seen.rss_bytes} bytes; the trial allows {rules.max_rss_bytes}",
        )
    if seen.requests < max(1, rules.min_requests):
        return None
    rate = seen.errors / seen.requests
    if rate > rules.max_error_rate:
        return ErrorInfo(
            "trial-errors",
            f"{seen.errors} of {seen.requests} requests failed ({rate:.0%}); "
            f"the trial allows {rules.max_error_rate:.0%}",
        )
    p95 = seen.latency_us.quantile(0.95)
    if rules.max_latency_p95_us is not None and p95 is not None and p95 > rules.max_latency_p95_us:
        return ErrorInfo(
            "trial-latency",
            f"p95 of the inference is {p95:.0f} us over {seen.latency_us.count} answers; "
            f"the trial allows {rules.max_latency_p95_us:.0f} us",
        )
    return None
