"""Counts of one window of time for each bundle of each slot, and of a trial.

What a bundle did counts under that bundle: who judges a version reads its figures alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import psutil

from agent.telemetry.observed import Observed
from contracts.histogram import Histogram
from contracts.judged import Judged
from contracts.manifest import Baseline
from contracts.messages import BundleRef, Sample

DEVICE: Final = "device"
"""Where what belongs to no slot counts."""

MIN_DRIFT_ANSWERS = 20
"""Answers in a window below which drift would be noise."""


def drift(labels: dict[str, int], baseline: Baseline | None) -> float | None:
    """Total variation distance of a window's labels from the manifest's baseline, 0 to 1.

    Where a text has several labels both add up to more than the texts: of both the shares of all
    labels that were given are compared. None without a baseline, or with too few answers.
    """
    total = sum(labels.values())
    mass = sum(baseline.labels.values()) if baseline is not None else 0.0
    if baseline is None or total < MIN_DRIFT_ANSWERS or not mass:
        return None
    names = set(labels) | set(baseline.labels)
    return 0.5 * sum(
        abs(labels.get(n, 0) / total - baseline.labels.get(n, 0.0) / mass) for n in names
    )


class _Trial(msgspec.Struct):
    requests: int = 0
    errors: int = 0
    latency_us: Histogram = msgspec.field(default_factory=lambda: Histogram("log8"))


class Totals(msgspec.Struct):
    """Counts since the agent started, for the Prometheus endpoint."""

    requests: int = 0
    errors: int = 0
    busy: int = 0
    unknown: int = 0
    tokens: int = 0
    latency_us: Histogram = msgspec.field(default_factory=lambda: Histogram("log8"))
    labels: dict[str, int] = {}


def resident_bytes() -> int:
    """Resident bytes of this process."""
    return int(psutil.Process().memory_info().rss)


class Recorder:
    """Takes what serving did; gives samples. Safe from any thread.

    Args:
        rss: resident bytes of the agent now.
        serving: the bundle that serves a slot; None when it has none.
    """

    def __init__(
        self,
        rss: Callable[[], int] = resident_bytes,
        serving: Callable[[str], BundleRef | None] = lambda slot: None,
    ) -> None:
        self._rss = rss
        self._serving = serving
        self._lock = threading.Lock()
        self._windows: dict[tuple[str, BundleRef | None], Sample] = {}
        self._trials: dict[str, _Trial] = {}
        self.totals: dict[str, Totals] = {}
        self._baselines: dict[BundleRef, Baseline | None] = {}

    def _window(self, slot: str, bundle: BundleRef | None) -> Sample:
        window = self._windows.get((slot, bundle))
        if window is None:
            window = self._windows[slot, bundle] = Sample(0.0, 0.0, slot, bundle)
        return window

    def answered(
        self,
        slot: str,
        bundle: BundleRef,
        latency_us: float,
        *,
        label: str | None = None,
        also: Sequence[str] = (),
        confidence: float | None = None,
        unknown: bool = False,
        tokens: int = 0,
        baseline: Baseline | None = None,
        times: int = 1,
    ) -> None:
        """Counts an answer, or `times` answers that were all the same.

        `also`: further labels of the same answer.
        """
        with self._lock:
            window = self._window(slot, bundle)
            totals = self.totals.setdefault(slot, Totals())
            if window.latency_us is None:
                window.latency_us = Histogram("log8")
            for counted in (window, totals):
                counted.requests += times
                counted.unknown += unknown * times
                counted.tokens += tokens * times
                for name in () if label is None else (label, *also):
                    counted.labels[name] = counted.labels.get(name, 0) + times
            window.latency_us.add(latency_us, times)
            totals.latency_us.add(latency_us, times)
            if confidence is not None:
                if window.confidence is None:
                    window.confidence = Histogram("unit20")
                window.confidence.add(confidence, times)
            self._baselines = {bundle: baseline, **dict(list(self._baselines.items())[-15:])}
            trial = self._trials.get(slot)
            if trial is not None:
                trial.requests += times
                trial.latency_us.add(latency_us, times)

    def failed(self, slot: str, code: str, *, times: int = 1) -> None:
        """Counts requests that were not answered: errors, or ``busy``.

        They count under the bundle that serves: it may be one that answers nothing at all.
        A requester may ask for any slot: only one that is installed, or that has answered and
        is gone, has figures of its own. The others are the device's.
        """
        bundle = self._serving(slot)
        with self._lock:
            if bundle is None and slot not in self.totals and slot not in self._trials:
                slot = DEVICE
            window = self._window(slot, bundle)
            totals = self.totals.setdefault(slot, Totals())
            for counted in (window, totals):
                if code == "busy":
                    counted.busy += times
                else:
                    counted.requests += times
                    counted.errors += times
            trial = self._trials.get(slot)
            if trial is not None and code != "busy":
                trial.requests += times
                trial.errors += times

    def shadowed(self, slot: str, bundle: BundleRef, *, disagrees: bool, times: int = 1) -> None:
        """Counts answers of a shadow model beside the active one, under the shadow's bundle."""
        with self._lock:
            window = self._window(slot, bundle)
            window.shadow_requests += times
            window.shadow_disagreements += disagrees * times

    def judged(
        self,
        slot: str,
        bundle: BundleRef,
        given: str | frozenset[str],
        meant: str | frozenset[str] | None,
        *,
        right: bool,
        sampled: bool,
        confidence: float | None = None,
    ) -> None:
        """Counts what somebody said of an answer; see :meth:`contracts.judged.Judged.note`."""
        with self._lock:
            window = self._window(slot, bundle)
            window.judged = window.judged or Judged()
            window.judged.note(given, meant, right=right, sampled=sampled, confidence=confidence)

    def feedback_refused(self, code: str) -> None:
        """Counts feedback that did not count: the device's, as no bundle is to blame."""
        with self._lock:
            window = self._window(DEVICE, None)
            window.judged = window.judged or Judged()
            window.judged.refuse(code)

    def begin_trial(self, slot: str) -> None:
        """Starts counting a trial from zero."""
        with self._lock:
            self._trials[slot] = _Trial()

    def trial(self, slot: str) -> Observed:
        """What was seen since the trial began."""
        with self._lock:
            trial = self._trials.get(slot) or _Trial()
            copy = Histogram("log8", dict(trial.latency_us.counts), trial.latency_us.total)
            return Observed(trial.requests, trial.errors, copy, self._rss())

    @property
    def counted(self) -> bool:
        """Whether anything was counted in the window of now."""
        return bool(self._windows)

    def take(self, at: float, window_s: float) -> list[Sample]:
        """The samples of the window that ends now; the next window begins.

        Args:
            at: seconds since the epoch.
            window_s: how long the window was.
        """
        with self._lock:
            windows, self._windows = self._windows, {}
            baselines = dict(self._baselines)
        for window in windows.values():
            window.at = at
            window.window_s = window_s
            if window.bundle is not None:
                window.drift = drift(window.labels, baselines.get(window.bundle))
        return list(windows.values())
