"""Whether accuracy in the field is what the controller says it is: many fleets, the truth known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from _field_fleet import NOW, Controller, Device, Model, People, busy, drawer, judge

from fleet import field
from fleet.accuracy import Estimate, Noise

NEAR: Final = 0.02
"""How far from the truth an estimate may be."""

CASES: Final[dict[str, People]] = {
    # Right and wrong answers are judged as often.
    "unbiased": People(judge=0.02),
    # People rather say that something is wrong; besides, one answer in a hundred is asked about.
    "biased": People(judge=0.02, bias=4.0, sampled=0.01),
}


class Found(msgspec.Struct):
    """Of all fleets of a case: estimates that hold, that are wrong, their widths.

    Attributes:
        near: the truth is in the interval, and the estimate within two points of it.
        inside: the truth is in the interval.
        off: estimate less truth.
        width: of the interval.
    """

    near: int = 0
    inside: int = 0
    off: list[float] = []
    width: list[float] = []

    def add(self, estimate: Estimate | None, truth: float) -> None:
        """One fleet more."""
        assert estimate is not None
        inside = estimate.low <= truth <= estimate.high
        self.inside += inside
        self.near += inside and abs(estimate.value - truth) <= NEAR
        self.off.append(estimate.value - truth)
        self.width.append(estimate.high - estimate.low)


def run(
    folder: Path,
    model: Model,
    weights: Callable[[str], npt.NDArray[np.float64]],
    sites: Sequence[str],
    people: People,
    *,
    fleets: int,
    devices: int,
    answers: float,
) -> dict[str, Found]:
    """Fleets of which people judge answers: by what the figure is made of, what it is worth.

    Each fleet is a version of its own in one database, as the controller asks for one version.

    Returns:
        ``all``: from all feedback, noise taken out. ``sampled``: from what was picked by chance.
        ``plain``: from all feedback as it was said.
    """
    controller = Controller(folder)
    fleet = [Device(f"d{n:04}", sites[n % len(sites)]) for n in range(devices)]
    controller.enroll(fleet)
    draw = drawer(weights)
    noise = Noise(people.noise, people.noise)
    found = {"all": Found(), "sampled": Found(), "plain": Found()}
    for seed in range(fleets):
        chance = np.random.default_rng(seed)
        version = model.renamed(f"1.{seed}.0")
        counts = busy(devices, answers, chance)
        right = 0
        for device, count in zip(fleet, counts, strict=True):
            right += judge(device, version, draw(device.site, count, chance), people, chance)
        truth = right / int(counts.sum())
        at = NOW + 3600 * seed + 1800
        controller.hear(fleet, at)
        with controller.store.read() as connection:
            (true,) = field.versions(connection, at, noise=noise)
            (said,) = field.versions(connection, at)
        found["all"].add(true.all, truth)
        found["plain"].add(said.all, truth)
        if true.sampled is not None:
            found["sampled"].add(true.sampled, truth)
    controller.close()
    return found
