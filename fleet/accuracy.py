"""How often a model is right in the field, by what people say of its answers. Pure.

What is estimated is the accuracy on the answers that people judge. Where those were picked by
chance it is that of all answers; where people judge what annoys them, it is lower than that.

* Intervals are Wilson's, at 95 %, of fewer answers than were judged where devices differ more from
  one another than chance alone makes them (the design effect of a sample in clusters; Kish 1965).
* Verdicts that are wrong themselves are taken out by their stated rates (Rogan and Gladen 1978).
* Differences are Newcombe's of two such intervals (1998, method 10).
* No device weighs more than twice its fair share, or a twentieth, whichever is more; and a verdict
  counts only if it is the same without any one of the devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Final

import msgspec

from contracts.judged import Judged

Z: Final = 1.959964
"""Standard deviations of a 95 % interval."""

_Z_APART: Final = 3.290527
"""Of a 99.9 % interval: a device whose own lies beside that of the rest says something else."""

MIN_JUDGED: Final = 20.0
"""Judged answers below which an estimate is shown to nobody: its interval is 40 points wide."""

LEAST_CAP: Final = 0.05
"""Share of the weight that a device may have in any case."""

_SPREAD_OF: Final = 5
"""Devices from which on their spread is measured; of fewer it would itself be chance."""

_EXTREMES: Final = 3
"""Devices on each side that are left out one by one: those that move the estimate most."""

MAX_NAMED: Final = 20
"""Devices that are named."""


class Tally(msgspec.Struct, frozen=True):
    """What was said of answers, by one device or together; weighted counts are no whole numbers."""

    right: float = 0.0
    wrong: float = 0.0

    @property
    def judged(self) -> float:
        """How many answers."""
        return self.right + self.wrong

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.right + other.right, self.wrong + other.wrong)


def tally(judged: Judged, *, sampled: bool = False) -> Tally:
    """Of counts: of all, or of those that were picked before anybody looked."""
    if sampled:
        return Tally(judged.sampled_right, judged.sampled_wrong)
    return Tally(judged.right, judged.wrong)


class Noise(msgspec.Struct, frozen=True):
    """How often verdicts are wrong themselves.

    Attributes:
        blames: share of right answers that are judged wrong.
        spares: share of wrong answers that are judged right.
    """

    blames: float = 0.0
    spares: float = 0.0

    def corrected(self, said: float) -> float:
        """The accuracy behind the share of answers that are said to be right."""
        return min(max((said - self.spares) / (1 - self.blames - self.spares), 0.0), 1.0)


class Estimate(msgspec.Struct, frozen=True):
    """An accuracy with its 95 % interval.

    Attributes:
        value, low, high: 0 to 1.
        judged: answers behind it, as far as they count.
        devices: that had answers judged.
    """

    value: float
    low: float
    high: float
    judged: float
    devices: int


class Verdict(msgspec.Struct, frozen=True):
    """What a limit says to an estimate.

    Attributes:
        value: the figure; None: too little was judged.
        holds: None: it is not known, and `why` says what is missing.
        judged: answers behind it.
        devices: to blame, worst first, each with its own accuracy.
    """

    value: float | None
    holds: bool | None
    judged: float
    why: str = ""
    devices: list[tuple[str, float]] = []


def wilson(right: float, judged: float, z: float = Z) -> tuple[float, float]:
    """Ends of the score interval of a share (Wilson 1927); of nothing it is all there is."""
    if judged <= 0:
        return 0.0, 1.0
    share, square = right / judged, z * z
    middle = (share + square / (2 * judged)) / (1 + square / judged)
    half = z / (1 + square / judged) * math.sqrt(
        max(share * (1 - share), 0.0) / judged + square / (4 * judged * judged)
    )  # fmt: skip
    return max(0.0, middle - half), min(1.0, middle + half)


def weighted(tallies: Mapping[str, Tally]) -> dict[str, Tally]:
    """The tallies of devices, those of very many answers made smaller: none outweighs the rest."""
    said = {device: one for device, one in tallies.items() if one.judged > 0}
    cap = _cap([one.judged for one in said.values()])
    return {
        device: one if one.judged <= cap else _scaled(one, cap / one.judged)
        for device, one in said.items()
    }


def _scaled(one: Tally, factor: float) -> Tally:
    return Tally(one.right * factor, one.wrong * factor)


def _cap(counts: list[float]) -> float:
    """Answers of one device that count, so that its share of all that count is bounded."""
    if len(counts) < 3:
        return math.inf
    share = max(LEAST_CAP, 2 / len(counts))
    ordered = sorted(counts, reverse=True)
    rest = sum(ordered)
    for capped, next_one in enumerate(ordered):
        if share * capped >= 1:
            break
        cap = share * rest / (1 - share * capped)
        if cap >= next_one:
            return cap
        rest -= next_one
    return ordered[-1]


def estimate(
    tallies: Mapping[str, Tally],
    noise: Noise = Noise(),  # noqa: B008
    z: float = Z,
) -> Estimate | None:
    """The accuracy over all devices; None when nothing was judged.

    Args:
        tallies: by device.
        noise: of the verdicts.
        z: standard deviations of the interval.
    """
    counted = weighted(tallies)
    total = sum(counted.values(), Tally())
    if total.judged <= 0:
        return None
    share = total.right / total.judged
    alike = total.judged / _spread(counted, share, total.judged)
    low, high = wilson(share * alike, alike, z)
    return Estimate(
        noise.corrected(share),
        noise.corrected(low),
        noise.corrected(high),
        total.judged,
        len(counted),
    )


def _spread(counted: Mapping[str, Tally], share: float, judged: float) -> float:
    """By how much devices differ more than chance makes them: variance over a binomial's."""
    chance = share * (1 - share) / judged
    if len(counted) < _SPREAD_OF or chance <= 0:
        return 1.0
    squares = sum((one.right - share * one.judged) ** 2 for one in counted.values())
    found = squares / judged**2 * len(counted) / (len(counted) - 1)
    return max(1.0, found / chance)


def apart(tallies: Mapping[str, Tally]) -> list[tuple[str, float, float]]:
    """Devices whose users say something else than all others: id, own accuracy, answers."""
    counted = weighted(tallies)
    total = sum(counted.values(), Tally())
    found = []
    for device, one in tallies.items():
        rest = total + _scaled(counted.get(device, Tally()), -1)
        if one.judged < MIN_JUDGED or rest.judged < MIN_JUDGED:
            continue
        low, high = wilson(one.right, one.judged, _Z_APART)
        others = wilson(rest.right, rest.judged, _Z_APART)
        if high < others[0] or low > others[1]:
            found.append((device, one.right / one.judged, one.judged))
    return sorted(found, key=lambda row: (-row[2], row[0]))[:MAX_NAMED]


# Limits. --------------------------------------------------------------------------------------


def z_of(parts: int) -> float:
    """Standard deviations that hold in `parts` intervals together as 95 % does in one.

    Bonferroni's: of twenty sites one would else fail by chance.
    """
    return NormalDist().inv_cdf(1 - 0.025 / parts) if parts > 1 else Z


def at_least(
    tallies: Mapping[str, Tally],
    limit: float,
    need: int,
    devices: int,
    noise: Noise,
    z: float = Z,
) -> Verdict:
    """Whether an accuracy is at least `limit`.

    It is not, when the whole interval is below; it is, when the estimate is not below. Between the
    two nobody knows yet.

    Args:
        tallies: by device.
        limit: 0 to 1.
        need: answers that have to be judged.
        devices: that have to have judged answers; with 1, one may decide alone.
        noise: of the verdicts.
        z: standard deviations of the interval.
    """

    def holds(of: Mapping[str, Tally]) -> bool | None:
        found = estimate(of, noise, z)
        if found is None or found.high < limit:
            return None if found is None else False
        return True if found.value >= limit else None

    def told(of: Mapping[str, Tally]) -> str:
        found = estimate(of, noise, z)
        assert found is not None
        return f"with 95 % certainty it is between {found.low:.3g} and {found.high:.3g}"

    def blamed() -> list[tuple[str, float]]:
        return _worst(tallies, lambda own: noise.corrected(own) < limit)

    found = estimate(tallies, noise)
    return _verdict(
        tallies, found, found.value if found else None, need, devices, holds, told, blamed
    )


def regressed(
    before: Mapping[str, Tally],
    after: Mapping[str, Tally],
    limit: float,
    need: int,
    devices: int,
    noise: Noise,
    z: float = Z,
) -> Verdict:
    """Whether a version is worse than the one before by at most `limit`.

    It is not, when the whole interval of the difference is above; it is, when the difference is
    not above. Arguments as of :func:`at_least`; the version before needs as many answers.
    """
    old = estimate(before, noise)
    if old is None or old.judged < need:
        judged = 0 if old is None else int(old.judged)
        return Verdict(
            None, None, judged, f"of the version before {judged} of {need} answers are judged"
        )

    def less(of: Mapping[str, Tally]) -> tuple[float, float, float] | None:
        gone = tallies_without(before, of)
        one, other = estimate(gone, noise, z), estimate(of, noise, z)
        if one is None or other is None:
            return None
        worse = one.value - other.value
        low = worse - math.hypot(one.value - one.low, other.high - other.value)
        high = worse + math.hypot(one.high - one.value, other.value - other.low)
        return worse, low, high

    def tallies_without(
        old_ones: Mapping[str, Tally], of: Mapping[str, Tally]
    ) -> Mapping[str, Tally]:
        left_out = after.keys() - of.keys()
        return {device: one for device, one in old_ones.items() if device not in left_out}

    def holds(of: Mapping[str, Tally]) -> bool | None:
        found = less(of)
        if found is None or found[1] > limit:
            return None if found is None else False
        return True if found[0] <= limit else None

    def told(of: Mapping[str, Tally]) -> str:
        found = less(of)
        assert found is not None
        return f"with 95 % certainty it is between {found[1]:.3g} and {found[2]:.3g}"

    def blamed() -> list[tuple[str, float]]:
        return _worst(after, lambda own: noise.corrected(own) < old.value - limit)

    found, worse = estimate(after, noise), less(after)
    return _verdict(after, found, worse[0] if worse else None, need, devices, holds, told, blamed)


def _verdict(
    tallies: Mapping[str, Tally],
    found: Estimate | None,
    value: float | None,
    need: int,
    devices: int,
    holds: Callable[[Mapping[str, Tally]], bool | None],
    told: Callable[[Mapping[str, Tally]], str],
    blamed: Callable[[], list[tuple[str, float]]],
) -> Verdict:
    judged = 0.0 if found is None else found.judged
    if found is None or value is None or judged < need:
        return Verdict(None, None, judged, f"{int(judged)} of {need} answers are judged")
    if found.devices < devices:
        few = f"{found.devices} of {devices} devices had answers judged"
        return Verdict(None, None, judged, few)
    verdict = holds(tallies)
    for device in _extremes(tallies) if devices > 1 else ():
        rest = {name: one for name, one in tallies.items() if name != device}
        if holds(rest) is not verdict:
            own = tallies[device]
            why = f"it hangs on {device} alone"
            if verdict is None:
                why = f"{told(tallies)}, and {why}"
            return Verdict(value, None, judged, why, [(device, own.right / own.judged)])
    if verdict is None:
        return Verdict(value, None, judged, told(tallies))
    return Verdict(value, verdict, judged, devices=[] if verdict else blamed())


def _extremes(tallies: Mapping[str, Tally]) -> list[str]:
    """Devices that move the share most, up and down; of few, all."""
    counted = weighted(tallies)
    total = sum(counted.values(), Tally())
    share = total.right / total.judged
    pull = sorted(counted, key=lambda d: (counted[d].right - share * counted[d].judged, d))
    return pull if len(pull) <= 2 * _EXTREMES else pull[:_EXTREMES] + pull[-_EXTREMES:]


def _worst(tallies: Mapping[str, Tally], bad: Callable[[float], bool]) -> list[tuple[str, float]]:
    """Devices below the limit by themselves, those with the most wrong answers first."""
    said = [(d, one) for d, one in tallies.items() if one.judged > 0]
    own = [(d, one) for d, one in said if bad(one.right / one.judged)] or said
    own.sort(key=lambda item: (-item[1].wrong, item[0]))
    return [(device, one.right / one.judged) for device, one in own[:MAX_NAMED]]
