"""Figures of a model on a device: counters and histograms that add up exactly.

Sums stop at a limit instead of leaving what JSON or the database can hold: one device's
nonsense must not make a row that nobody can read again.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
import structlog

from contracts import codec
from contracts.histogram import Histogram
from contracts.judged import Judged
from contracts.messages import Sample

_LOG: Final = structlog.get_logger("figures")

MAX_LABELS: Final = 4096
MAX_GAUGES: Final = 256
MAX_GAUGE_CHARS: Final = 64
"""Characters of a gauge's name."""

MAX_SUM: Final = 2**53
"""Where sums of counts stop: exact as a JSON number in every language."""

MAX_TOTAL: Final = 1e18
"""Where sums of measured values stop, in both directions."""

_COUNTS: Final = (
    "requests", "errors", "busy", "unknown", "tokens", "shadow_requests", "shadow_disagreements",
)  # fmt: skip


class Figures(msgspec.Struct, omit_defaults=True):
    """Sums over any set of samples; adding is exact, up to the limits, and in any order the same.

    Attributes:
        samples: how many telemetry samples.
        window_s: how much time they cover.
        requests, errors, busy, unknown, tokens, shadow_requests, shadow_disagreements: counts.
        latency_us, confidence: histograms.
        labels: answers by label.
        judged: what people said of answers; None: nothing.
        gauges: the newest value of each gauge, with the time it is of.
        peaks: the largest value of each gauge.
    """

    samples: int = 0
    window_s: float = 0.0
    requests: int = 0
    errors: int = 0
    busy: int = 0
    unknown: int = 0
    tokens: int = 0
    shadow_requests: int = 0
    shadow_disagreements: int = 0
    latency_us: Histogram | None = None
    confidence: Histogram | None = None
    labels: dict[str, int] = {}
    judged: Judged | None = None
    gauges: dict[str, tuple[float, float]] = {}
    peaks: dict[str, float] = {}

    def add_sample(self, sample: Sample, at: float) -> None:
        """Adds one telemetry sample whose window ended at `at`."""
        self.samples += 1
        if math.isfinite(sample.window_s):
            self.window_s = _within(self.window_s + max(sample.window_s, 0.0))
        self._add_counts(sample)
        self._add_labels(sample.labels)
        for name, value in sample.gauges.items():
            if math.isfinite(value):
                self._gauge(name, at, value, value)

    def merge(self, other: Figures) -> None:
        """Adds other figures."""
        self.samples += other.samples
        self.window_s = _within(self.window_s + other.window_s)
        self._add_counts(other)
        self._add_labels(other.labels)
        for name, (at, value) in other.gauges.items():
            self._gauge(name, at, value, other.peaks.get(name, value))

    def _add_counts(self, other: Sample | Figures) -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.busy += other.busy
        self.unknown += other.unknown
        self.tokens += other.tokens
        self.shadow_requests += other.shadow_requests
        self.shadow_disagreements += other.shadow_disagreements
        # One look at all of them: a call for each would be a fifth of all adding.
        if (
            max(
                self.requests, self.errors, self.busy, self.unknown, self.tokens,
                self.shadow_requests, self.shadow_disagreements,
            ) > MAX_SUM
        ):  # fmt: skip
            for name in _COUNTS:
                setattr(self, name, min(getattr(self, name), MAX_SUM))
        self.latency_us = _merged(self.latency_us, other.latency_us)
        self.confidence = _merged(self.confidence, other.confidence)
        if other.judged is not None:
            self.judged = self.judged or Judged()
            self.judged.merge(other.judged, MAX_SUM)

    def _add_labels(self, labels: dict[str, int]) -> None:
        for label, count in labels.items():
            if label in self.labels or len(self.labels) < MAX_LABELS:
                self.labels[label] = min(self.labels.get(label, 0) + count, MAX_SUM)

    def _gauge(self, name: str, at: float, value: float, peak: float) -> None:
        if name not in self.gauges and (
            len(self.gauges) >= MAX_GAUGES or len(name) > MAX_GAUGE_CHARS
        ):
            return
        if name not in self.gauges or at >= self.gauges[name][0]:
            self.gauges[name] = (at, value)
        self.peaks[name] = max(self.peaks.get(name, peak), peak)


def _merged(mine: Histogram | None, other: Histogram | None) -> Histogram | None:
    if other is None:
        return mine
    if mine is None:  # the most usual case by far: what is copied need not be added up
        mine = Histogram(other.scale, other.counts.copy(), _within(other.total))
    elif mine.scale == other.scale:
        mine.merge(other)
        mine.total = _within(mine.total)
        if mine.counts and max(mine.counts.values()) > MAX_SUM:
            mine.counts = {key: min(count, MAX_SUM) for key, count in mine.counts.items()}
    return mine


def _within(total: float) -> float:
    if -MAX_TOTAL <= total <= MAX_TOTAL:
        return total
    return 0.0 if math.isnan(total) else max(-MAX_TOTAL, min(total, MAX_TOTAL))


def read(text: str) -> Figures:
    """Stored figures, also those that an earlier version of Shoal let grow past what it can read.

    A sum that had become infinite was stored as null: it counts as 0. What cannot be read at
    all is no figures; that is logged.
    """
    try:
        found = codec.decoder(Figures).decode(text)
    except msgspec.DecodeError:
        found = _mended(text)
    if any(len(name) > MAX_GAUGE_CHARS for name in found.gauges):
        for known in (found.gauges, found.peaks):
            for name in [name for name in known if len(name) > MAX_GAUGE_CHARS]:
                del known[name]
    return found


def _mended(text: str) -> Figures:
    try:
        return codec.convert(_without_nulls(msgspec.json.decode(text)), Figures)
    except (msgspec.DecodeError, RecursionError) as error:
        _LOG.error("stored figures cannot be read: they count as none", reason=str(error)[:300])
        return Figures()


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value
