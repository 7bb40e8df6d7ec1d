"""Accuracy in the field, as people are shown it: estimates by version, label and group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import sqlalchemy as sa

from contracts.judged import Judged
from contracts.messages import BundleRef
from fleet import accuracy
from fleet.accuracy import Estimate, Noise, Tally, tally
from fleet.store import bundles, field

WEEK_S: Final = 7 * 24 * 3600.0

MAX_LINES: Final = 100
"""Labels, confusions and groups that are listed, those with the most wrong answers first."""


class Version(msgspec.Struct, frozen=True):
    """What is known of one version in one slot.

    Attributes:
        slot, bundle: which; sha256 of the manifest.
        ref: its name; None: it is not published here.
        judged: counts, without labels.
        all, sampled: estimates from all feedback, and from answers that were picked before anybody
            looked; None: nothing was judged.
        apart: devices whose users say something else than all others: id, accuracy, answers.
    """

    slot: str
    bundle: str
    ref: BundleRef | None
    judged: Judged
    all: Estimate | None
    sampled: Estimate | None
    apart: list[tuple[str, float, float]]


class Line(msgspec.Struct, frozen=True):
    """An estimate of a part: answers with one label, or of devices with one value of a label."""

    name: str
    right: int
    wrong: int
    estimate: Estimate


def enough(estimate: Estimate | None) -> bool:
    """Whether an estimate says something."""
    return estimate is not None and estimate.judged >= accuracy.MIN_JUDGED


NONE: Final = Noise()
"""Nobody said how often verdicts are wrong: they are taken as they are."""


def versions(
    connection: sa.Connection,
    since: float,
    devices: sa.ColumnElement[bool] | None = None,
    noise: Noise = NONE,
) -> list[Version]:
    """All versions of which something was judged, by slot and name; the newest version first.

    `noise`: how often verdicts are wrong themselves; it is taken out of the estimates.
    """
    names = bundles.names(connection)
    found = [
        version_of(slot, bundle, names.get(bundle), by_device, noise)
        for (slot, bundle), by_device in field.by_version(connection, since, devices).items()
    ]
    found.sort(key=lambda one: _numbers(one.ref), reverse=True)
    found.sort(key=lambda one: (one.slot, one.ref.name if one.ref else "~"))
    return found


def _numbers(ref: BundleRef | None) -> tuple[int, ...]:
    return tuple(map(int, ref.version.split("."))) if ref else ()


def version_of(
    slot: str,
    bundle: str,
    ref: BundleRef | None,
    by_device: Mapping[str, Judged],
    noise: Noise = NONE,
) -> Version:
    """What is known of a version from the counts of its devices."""
    total = Judged()
    for one in by_device.values():
        total.merge(one, 2**53)
    said = {device: tally(one) for device, one in by_device.items()}
    picked = {device: tally(one, sampled=True) for device, one in by_device.items()}
    return Version(
        slot,
        bundle,
        ref,
        total,
        accuracy.estimate(said, noise),
        accuracy.estimate(picked, noise),
        accuracy.apart(said),
    )


def by_label(judged: Judged, noise: Noise = NONE) -> list[Line]:
    """How often each label that was given is right."""
    wrong = {label: sum(meant.values()) for label, meant in judged.confusions.items()}
    found = []
    for label in judged.labels.keys() | wrong.keys():
        one = Tally(judged.labels.get(label, 0), wrong.get(label, 0))
        line = _line(label, {"": one}, noise)
        if line is not None:
            found.append(line)
    return _worst_first(found)


def confusions(judged: Judged) -> list[tuple[str, str, int]]:
    """Which label was given for which, the most frequent first."""
    found = [
        (given, meant, count)
        for given, of in judged.confusions.items()
        for meant, count in of.items()
    ]
    return sorted(found, key=lambda row: (-row[2], row[0], row[1]))[:MAX_LINES]


def by_group(
    connection: sa.Connection,
    slot: str,
    bundle: str,
    since: float,
    key: str,
    noise: Noise = NONE,
) -> list[Line]:
    """How often a version is right on the devices of each value of a label."""
    said = {
        device: tally(one)
        for device, one in field.by_device(connection, slot, [bundle], since).items()
    }
    found = []
    for value, devices in field.values(connection, key).items():
        of = {device: said[device] for device in devices if device in said}
        line = _line(value, of, noise)
        if line is not None:
            found.append(line)
    return _worst_first(found)


def _line(name: str, said: Mapping[str, Tally], noise: Noise) -> Line | None:
    total = sum(said.values(), Tally())
    found = accuracy.estimate(said, noise)
    return None if found is None else Line(name, int(total.right), int(total.wrong), found)


def _worst_first(found: Sequence[Line]) -> list[Line]:
    return sorted(found, key=lambda one: (-one.wrong, one.name))[:MAX_LINES]
