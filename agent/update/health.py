"""The health of a trial: what is seen of its slot, and the rules as a pure function."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from agent.serving.worker import STALL_S, Job, Worker
from agent.telemetry.observed import Observed
from contracts.desired import TrialRules
from contracts.errors import ErrorInfo

LEAST_STALL_S: Final = 5.0
"""Seconds without a sign of life that the shortest trial allows a request."""


class Health(Protocol):
    """Where a trial's observations come from."""

    def begin_trial(self, slot: str) -> None:
        """Starts counting from zero."""

    def trial(self, slot: str) -> Observed:
        """What was seen since."""


class Trials:
    """The counts of a trial, and the request that runs.

    Args:
        counts: of what has ended.
        worker: where requests run.
    """

    def __init__(self, counts: Health, worker: Worker) -> None:
        self._counts = counts
        self._worker = worker
        self._before: Job | None = None

    def begin_trial(self, slot: str) -> None:
        """Starts counting from zero; what runs now runs on the old bundle and does not count."""
        self._before = self._worker.running
        self._counts.begin_trial(slot)

    def trial(self, slot: str) -> Observed:
        """What was seen since."""
        seen = self._counts.trial(slot)
        job = self._worker.running
        # What goes on after the answer is not the slot's bundle but its shadow.
        if job is None or job is self._before or job.slot != slot or job.reply.finished:
            return seen
        return msgspec.structs.replace(seen, silent_s=job.reply.silent_s())


def verdict(rules: TrialRules, seen: Observed) -> ErrorInfo | None:
    """The first rule that is broken, as a reason; None while all hold."""
    if rules.max_rss_bytes is not None and seen.rss_bytes > rules.max_rss_bytes:
        return ErrorInfo(
            "trial-memory",
            f"the agent takes {seen.rss_bytes} bytes; the trial allows {rules.max_rss_bytes}",
        )
    patience = min(STALL_S, max(LEAST_STALL_S, rules.seconds / 2))
    if seen.silent_s > patience:
        return ErrorInfo(
            "trial-hang",
            f"a request has run for {seen.silent_s:.0f} s without a sign of life; "
            f"the trial allows {patience:.0f} s",
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
