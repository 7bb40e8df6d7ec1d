"""Confusion and calibration by groups of devices, so that no few devices can be read out. Pure.

What is released is made of four bounds:

* A device counts with at most `cap` of its verdicts: one that lies, or floods, is one of many.
* A group has at least `least` devices. Smaller ones are told together as ``(others)``; if those are
  too few, the smallest of the other groups go with them, so that what is told of all, less what is
  told of the rest, is never that of few.
* A pair of labels has at least `least` devices of its group; what has fewer is told as
  ``(other)``.
* With `epsilon` each count has noise (the discrete Laplace distribution; Ghosh et al. 2009). It
  follows from a secret of the fleet and from all that is released: the same question has the same
  answer, and another one other noise.

Groups are one fixed partition, and a release is of one whole week, made once (:mod:`fleet.pools`):
two that overlap are never to be had.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Annotated, Final, TypeVar

import msgspec

from contracts import codec
from contracts.judged import OTHER, TENTHS, Judged

OTHERS: Final = "(others)"
"""In the place of a group: devices of groups that are too small, or of none."""

WRONG: Final = "(wrong)"
"""In the place of the right label: wrong answers of pairs that few devices have."""

Cell = tuple[str, str]
"""The label that was given, and the right one."""


_K = TypeVar("_K", Cell, tuple[int, bool])


class PoolConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Pooled figures.

    Attributes:
        by: the label of devices, as operators give it, whose values are the groups.
        least: devices below which nothing is told of a group, or of a pair of labels.
        cap: verdicts of a device that count in a week.
        epsilon: of the noise that each count of a week has, smaller: more of it; 0: none. It is
            that of one device in one week of one version. A device that is away from a week, or
            there, changes which groups are told, by `least` and not by `epsilon`.
    """

    by: Annotated[str, msgspec.Meta(min_length=1, max_length=80)] = "site"
    least: Annotated[int, msgspec.Meta(ge=2, le=10_000)] = 5
    cap: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 20
    epsilon: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0


class Pair(msgspec.Struct, frozen=True):
    """How often `given` was answered where `right` is right; the same: it is right."""

    given: str
    right: str
    count: int

    @property
    def wrong(self) -> bool:
        """Whether it is a confusion."""
        return self.given != self.right


class Tenth(msgspec.Struct, frozen=True):
    """Verdicts on answers of which the model was sure from `low` to a tenth more."""

    low: float
    right: int
    wrong: int


class Group(msgspec.Struct, frozen=True):
    """What is told of a group.

    Attributes:
        name: a value of the label; ``(others)``.
        devices: with verdicts; with noise it is not told, and `least`.
        right, wrong: verdicts that count.
        pairs: confusion, the most frequent first; those of few devices under ``(other)``.
        tenths: calibration, the least sure first; empty where devices do not tell it.
    """

    name: str
    devices: int
    right: int
    wrong: int
    pairs: list[Pair]
    tenths: list[Tenth]


class Release(msgspec.Struct, frozen=True):
    """What is told of one version in one week. `groups` is empty where all devices are too few."""

    rules: PoolConfig
    groups: list[Group]


class _Counts(msgspec.Struct, frozen=True):
    """Verdicts of one device that count."""

    pairs: dict[Cell, int]
    tenths: dict[tuple[int, bool], int]


def release(
    said: Mapping[str, Judged], of: Mapping[str, str], rules: PoolConfig, secret: bytes, what: str
) -> Release:
    """Pools the verdicts of a week.

    Args:
        said: by device.
        of: the group of each device that has one.
        rules: the bounds.
        secret: of the fleet; noise follows from it.
        what: names the release: version and week.
    """
    counted = {device: _counted(one, rules.cap) for device, one in said.items()}
    counted = {device: one for device, one in counted.items() if one.pairs}
    members: dict[str, list[str]] = defaultdict(list)
    for device in sorted(counted):
        name = of.get(device, OTHERS)
        members[name].append(device)
    told = _large_enough(members, rules.least)
    pooled = {
        name: _pooled([counted[device] for device in devices], rules.least)
        for name, devices in told.items()
    }
    noise = _Noise(rules, secret, what, pooled)
    return Release(
        rules,
        [
            _group(name, len(told[name]), pooled[name], rules, noise)
            for name in sorted(told, key=lambda name: (name == OTHERS, name))
        ],
    )


def _counted(judged: Judged, cap: int) -> _Counts:
    """A device's verdicts, at most `cap` of them, each kind by its share."""
    pairs: Counter[Cell] = Counter()
    for label, count in judged.labels.items():
        pairs[label, label] += count
    for given, meant in judged.confusions.items():
        for label, count in meant.items():
            pairs[(given, label) if label != given else (OTHER, WRONG)] += count
    # What a device counted without labels: of old roll-ups.
    rest = judged.right - sum(judged.labels.values())
    pairs[OTHER, OTHER] += max(0, rest)
    tenths = {
        (place, right): count
        for right, counts in ((True, judged.sure_right), (False, judged.sure_wrong))
        for place, count in enumerate(counts)
        if count
    }
    return _Counts(_clipped(dict(pairs), cap), _clipped(tenths, cap))


def _clipped(counts: dict[_K, int], cap: int) -> dict[_K, int]:
    """At most `cap` in all, in whole numbers, by the largest remainder."""
    total = sum(counts.values())
    if total <= cap:
        return {key: count for key, count in counts.items() if count > 0}
    shares = {key: count * cap / total for key, count in counts.items()}
    found = {key: int(share) for key, share in shares.items()}
    left = cap - sum(found.values())
    for key in sorted(shares, key=lambda key: (found[key] - shares[key], repr(key)))[:left]:
        found[key] += 1
    return {key: count for key, count in found.items() if count > 0}


def _large_enough(members: Mapping[str, list[str]], least: int) -> dict[str, list[str]]:
    """Groups of at least `least` devices; the others together, and with them what they need."""
    told = {
        name: list(devices)
        for name, devices in members.items()
        if name != OTHERS and len(devices) >= least
    }
    others = [device for name, devices in members.items() if name not in told for device in devices]
    while others and len(others) < least and told:
        smallest = min(told, key=lambda name: (len(told[name]), name))
        others += told.pop(smallest)
    if len(others) >= least:
        told[OTHERS] = others
    return told


def _pooled(counted: list[_Counts], least: int) -> _Counts:
    """Sums; pairs of labels that too few devices have go under ``(other)``."""
    having: Counter[Cell] = Counter(cell for one in counted for cell in one.pairs)
    pairs: Counter[Cell] = Counter()
    tenths: Counter[tuple[int, bool]] = Counter()
    for one in counted:
        for cell, count in one.pairs.items():
            right = cell[0] == cell[1]
            shown = having[cell] >= least
            pairs[cell if shown else (OTHER, OTHER if right else WRONG)] += count
        tenths.update(one.tenths)
    return _Counts(dict(pairs), dict(tenths))


class _Noise:
    """Noise of one release, by the place of a count in it.

    Pairs and tenths are of the same verdicts, of which a device has `cap`: each gets a half of
    epsilon.
    """

    def __init__(
        self, rules: PoolConfig, secret: bytes, what: str, pooled: Mapping[str, _Counts]
    ) -> None:
        self._alpha = math.exp(-rules.epsilon / (2 * rules.cap)) if rules.epsilon else 0.0
        inside = {
            name: [sorted(one.pairs.items()), sorted(one.tenths.items())]
            for name, one in sorted(pooled.items())
        }
        said = codec.encode([what, rules, inside])
        self._key = hmac.digest(secret, said, hashlib.sha256)

    def added(self, count: int, *place: object) -> int:
        """A count with its noise."""
        if not self._alpha:
            return count
        seed = hmac.digest(self._key, repr(place).encode(), hashlib.sha256)
        chance = random.Random(seed)
        return count + self._geometric(chance) - self._geometric(chance)

    def _geometric(self, chance: random.Random) -> int:
        """How many times in a row a throw of probability alpha succeeds."""
        return math.floor(math.log(1.0 - chance.random()) / math.log(self._alpha))


def _group(name: str, devices: int, one: _Counts, rules: PoolConfig, noise: _Noise) -> Group:
    pairs = {cell: noise.added(count, name, cell) for cell, count in sorted(one.pairs.items())}
    right = sum(count for (given, meant), count in pairs.items() if given == meant)
    wrong = sum(count for (given, meant), count in pairs.items() if given != meant)
    shown = [Pair(given, meant, count) for (given, meant), count in pairs.items() if count > 0]
    shown.sort(key=lambda pair: (-pair.count, pair.given, pair.right))
    tenths = [
        Tenth(
            place / TENTHS,
            max(0, noise.added(one.tenths.get((place, True), 0), name, place, "right")),
            max(0, noise.added(one.tenths.get((place, False), 0), name, place, "wrong")),
        )
        for place in range(TENTHS)
    ]
    return Group(
        name,
        rules.least if rules.epsilon else devices,
        max(0, right),
        max(0, wrong),
        shown,
        tenths if one.tenths else [],
    )
