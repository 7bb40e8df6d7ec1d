"""Figures of a model on a device: counters and histograms that add up exactly."""

from __future__ import annotations

import math

import msgspec

from contracts.histogram import Histogram
from contracts.messages import Sample

MAX_LABELS = 4096


class Figures(msgspec.Struct, omit_defaults=True):
    """Sums over any set of samples; adding is exact and in any order the same.

    Attributes:
        samples: how many telemetry samples.
        window_s: how much time they cover.
        requests, errors, busy, unknown, tokens, shadow_requests, shadow_disagreements: counts.
        latency_us, confidence: histograms.
        labels: answers by label.
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
    gauges: dict[str, tuple[float, float]] = {}
    peaks: dict[str, float] = {}

    def add_sample(self, sample: Sample, at: float) -> None:
        """Adds one telemetry sample whose window ended at `at`."""
        self.samples += 1
        if math.isfinite(sample.window_s):
            self.window_s += max(sample.window_s, 0.0)
        self._add_counts(sample)
        self._add_labels(sample.labels)
        for name, value in sample.gauges.items():
            if math.isfinite(value):
                self._gauge(name, at, value, value)

    def merge(self, other: Figures) -> None:
        """Adds other figures."""
        self.samples += other.samples
        self.window_s += other.window_s
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
        self.latency_us = _merged(self.latency_us, other.latency_us)
        self.confidence = _merged(self.confidence, other.confidence)

    def _add_labels(self, labels: dict[str, int]) -> None:
        for label, count in labels.items():
            if label in self.labels or len(self.labels) < MAX_LABELS:
                self.labels[label] = self.labels.get(label, 0) + count

    def _gauge(self, name: str, at: float, value: float, peak: float) -> None:
        if name not in self.gauges and len(self.gauges) >= 256:
            return
        if name not in self.gauges or at >= self.gauges[name][0]:
            self.gauges[name] = (at, value)
        self.peaks[name] = max(self.peaks.get(name, peak), peak)


def _merged(mine: Histogram | None, other: Histogram | None) -> Histogram | None:
    if other is None:
        return mine
    if mine is None:
        mine = Histogram(other.scale)
    if mine.scale == other.scale:
        mine.merge(other)
    return mine
