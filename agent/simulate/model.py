"""The fake runtime: answers and figures drawn from a scenario and a bundle's baseline."""

from __future__ import annotations

import math
import random

from agent.simulate.scenario import Behaviour, Traffic
from contracts.histogram import Histogram
from contracts.manifest import Baseline
from contracts.messages import BundleRef, Sample, Scored

FALLBACK_LABELS = {"yes": 0.5, "no": 0.5}
"""Of a bundle whose manifest was not read."""

_SPREAD = 0.25
_EXACT_DRAWS = 200


class FakeModel:
    """One bundle on one device.

    Args:
        ref: the bundle.
        behaviour: how it does.
        baseline: of its manifest; None: not read.
        slowness: factor on all times.
    """

    __slots__ = ("_confidences", "_labels", "_weights", "behaviour", "ref", "slowness")

    def __init__(
        self, ref: BundleRef, behaviour: Behaviour, baseline: Baseline | None, slowness: float
    ) -> None:
        self.ref = ref
        self.behaviour = behaviour
        self.slowness = slowness
        shares = behaviour.labels or (baseline.labels if baseline else FALLBACK_LABELS)
        self._labels = tuple(shares)
        self._weights = tuple(shares.values())
        if not any(self._weights):
            self._weights = (1.0,) * len(self._weights)
        self._confidences = _confidences(behaviour, baseline)

    @property
    def latency_us(self) -> float:
        """Median time of one inference."""
        return self.behaviour.latency_us * self.slowness

    def p95_us(self) -> float:
        """The 95th percentile of the time of one inference, of the distribution drawn from."""
        return self.latency_us * math.exp(1.645 * _SPREAD)

    def confidence(self, chance: random.Random) -> float:
        """A confidence of one answer."""
        values, weights = self._confidences
        return chance.choices(values, weights=weights)[0]

    def classify(self, text: str, top_k: int) -> list[Scored]:
        """Labels for a text, best first: the same for the same text and bundle."""
        chance = random.Random(f"{self.ref.name}/{self.ref.version}/{text}")
        best = chance.choices(self._labels, weights=self._weights)[0]
        confidence = self.confidence(chance)
        others = [label for label in self._labels if label != best]
        chance.shuffle(others)
        rest = 1.0 - confidence
        scored = [Scored(best, round(confidence, 4))]
        for label in others[: top_k - 1]:
            rest /= 2
            scored.append(Scored(label, round(min(rest, confidence), 4)))
        return scored

    def sample(
        self, slot: str, at: float, window_s: float, requests: int, chance: random.Random
    ) -> Sample:
        """The telemetry of one window with `requests` requests."""
        errors = _binomial(requests, self.behaviour.error_rate, chance)
        answered = requests - errors
        latency, confidence = Histogram("log8"), Histogram("unit20")
        for value, times in _spread(answered, chance):
            latency.add(self.latency_us * math.exp(_SPREAD * value), times)
        for _ in range(min(answered, _EXACT_DRAWS)):
            confidence.add(self.confidence(chance))
        return Sample(
            at=at,
            window_s=window_s,
            slot=slot,
            bundle=self.ref,
            requests=requests,
            errors=errors,
            unknown=_binomial(answered, self.behaviour.unknown_rate, chance),
            latency_us=latency,
            confidence=confidence,
            labels=self._draw_labels(answered, chance),
        )

    def _draw_labels(self, count: int, chance: random.Random) -> dict[str, int]:
        found: dict[str, int] = {}
        if count > _EXACT_DRAWS:
            whole = sum(self._weights)
            shares = zip(self._labels, self._weights, strict=True)
            return {n: k for n, w in shares if (k := round(count * w / whole))}
        for label in chance.choices(self._labels, weights=self._weights, k=count):
            found[label] = found.get(label, 0) + 1
        return found


def _confidences(
    behaviour: Behaviour, baseline: Baseline | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Values and weights that confidences are drawn from."""
    if behaviour.confidence is None and baseline is not None and baseline.confidence.count:
        counts = baseline.confidence.counts
        return tuple((int(k) + 0.5) / 20 for k in counts), tuple(float(c) for c in counts.values())
    mean = 0.9 if behaviour.confidence is None else behaviour.confidence
    return tuple(min(max(mean + step / 50, 0.0), 1.0) for step in range(-3, 4)), (1.0,) * 7


def _binomial(count: int, share: float, chance: random.Random) -> int:
    if not share or not count:
        return 0
    if count > _EXACT_DRAWS:
        return min(count, max(0, round(chance.gauss(count * share, math.sqrt(count * share)))))
    return sum(chance.random() < share for _ in range(count))


def _spread(count: int, chance: random.Random) -> list[tuple[float, int]]:
    """`count` draws of a standard normal, many of them as a few groups."""
    groups = min(count, 16)
    if not groups:
        return []
    each, extra = divmod(count, groups)
    return [(chance.gauss(0, 1), each + (i < extra)) for i in range(groups)]


def requests_in(traffic: Traffic, window_s: float, chance: random.Random) -> int:
    """How many local requests a device had in a window."""
    mean = traffic.requests_per_s * window_s
    if mean > 50:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    # Knuth: exact, and cheap for small means.
    limit, count, product = math.exp(-mean), 0, chance.random()
    while product > limit:
        count += 1
        product *= chance.random()
    return count
