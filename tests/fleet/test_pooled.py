"""Pooled figures: what nobody can read out of them, however they ask."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest

from contracts.judged import OTHER, Judged
from fleet.pooled import OTHERS, WRONG, Group, PoolConfig, Release, release

SECRET = b"s" * 16
WEEK = "classify abc 2026-W47"


def judged(right: int = 0, wrong: int = 0, *, given: str = "on", meant: str = "off") -> Judged:
    """Verdicts of one device."""
    found = Judged()
    for _ in range(right):
        found.note(given, None, right=True, sampled=False, confidence=0.95)
    for _ in range(wrong):
        found.note(given, meant, right=False, sampled=False, confidence=0.55)
    return found


def fleet(**sizes: int) -> dict[str, str]:
    """Devices with their sites."""
    return {f"{site}-{n}": site for site, size in sizes.items() for n in range(size)}


def pooled(said: dict[str, Judged], of: dict[str, str], **rules: float) -> Release:
    """A release under rules."""
    return release(said, of, PoolConfig(**rules), SECRET, WEEK)  # type: ignore[arg-type]


def named(found: Release) -> dict[str, Group]:
    """Groups by name."""
    return {one.name: one for one in found.groups}


def test_groups_of_enough_devices_are_told_with_confusion_and_calibration() -> None:
    """What is right and wrong, for what it was taken, and how sure the model was."""
    of = fleet(graz=6, lyon=5)
    said = {device: judged(3, 1 if site == "graz" else 2) for device, site in of.items()}
    found = named(pooled(said, of))
    assert set(found) == {"graz", "lyon"}
    graz = found["graz"]
    assert (graz.devices, graz.right, graz.wrong) == (6, 18, 6)
    assert [(p.given, p.right, p.count) for p in graz.pairs] == [("on", "on", 18), ("on", "off", 6)]
    assert [(t.low, t.right, t.wrong) for t in graz.tenths if t.right + t.wrong] == [
        (0.5, 0, 6), (0.9, 18, 0),
    ]  # fmt: skip
    assert (found["lyon"].right, found["lyon"].wrong) == (15, 10)


@pytest.mark.parametrize("small", [1, 2, 3, 4])
def test_a_site_with_few_devices_is_not_told_directly_nor_by_what_is_left(small: int) -> None:
    """All less the others would be it: the smallest of the others goes with it."""
    of = fleet(graz=9, lyon=6, porto=small)
    said = {device: judged(1, 7 if site == "porto" else 0) for device, site in of.items()}
    found = named(pooled(said, of))
    assert set(found) == {"graz", OTHERS}
    assert found[OTHERS].devices == 6 + small
    # Two small sites hide each other, if together they are enough.
    of = fleet(graz=9, porto=small, rome=5 - small)
    found = named(pooled({device: judged(1) for device in of}, of))
    assert {name: one.devices for name, one in found.items()} == {"graz": 9, OTHERS: 5}


def test_every_sum_and_difference_of_groups_is_of_enough_devices() -> None:
    """Groups do not overlap and none is small, whatever sizes there are: so is what is left."""
    for sizes in itertools.product((0, 1, 3, 4, 5, 8), repeat=3):
        of = fleet(**dict(zip(("a", "b", "c"), sizes, strict=True)))
        said = {device: judged(2, 1) for device in of} | {"nowhere": judged(0, 9)}
        found = pooled(said, of)
        total = sum(one.devices for one in found.groups)
        assert all(one.devices >= 5 for one in found.groups), sizes
        assert total in (0, len(said)), "all are told, or nobody"
        assert (total == 0) == (len(said) < 5)


def test_devices_without_verdicts_do_not_hide_those_with_some() -> None:
    """A hundred silent devices at a site of one that speaks are no crowd."""
    of = fleet(graz=100, lyon=7)
    said = {device: Judged() for device in of} | {"graz-0": judged(0, 5)}
    said |= {device: judged(2) for device in of if device.startswith("lyon")}
    found = named(pooled(said, of))
    assert set(found) == {OTHERS}
    assert found[OTHERS].devices == 8


def test_a_pair_of_labels_that_few_devices_have_is_not_named() -> None:
    """Nor by a device that counts it often; the sums stay true."""
    of = fleet(graz=8)
    said = {device: judged(2, 1) for device in of}
    for number in range(4):
        said[f"graz-{number}"].note("on", "secret", right=False, sampled=False)
        said[f"graz-{number}"].note("rare", None, right=True, sampled=False)
    (graz,) = pooled(said, of).groups
    assert {(p.given, p.right): p.count for p in graz.pairs} == {
        ("on", "on"): 16, ("on", "off"): 8, (OTHER, WRONG): 4, (OTHER, OTHER): 4,
    }  # fmt: skip
    assert (graz.right, graz.wrong) == (20, 12)


def test_no_device_counts_with_more_than_its_cap() -> None:
    """One that floods with lies is one of many; what it says keeps its shares."""
    of = fleet(graz=10)
    said = {device: judged(10) for device in of}
    said["graz-0"] = Judged(
        right=10**6, wrong=3 * 10**6, labels={"on": 10**6}, confusions={"on": {"off": 3 * 10**6}},
        sure_wrong=[0] * 9 + [3 * 10**6],
    )  # fmt: skip
    (graz,) = pooled(said, of, cap=20, least=2).groups
    assert (graz.right, graz.wrong) == (90 + 5, 0 + 15)
    assert sum(t.wrong for t in graz.tenths) == 20
    # The wrong of its own making cannot be made right by giving it the name of what has no room.
    lies = Judged(wrong=5, confusions={OTHER: {OTHER: 5}, "on": {"on": 3}})
    (one,) = pooled(dict.fromkeys(of, lies), of, least=2).groups
    assert (one.right, one.wrong) == (0, 80)


def test_noise_is_the_same_for_the_same_question_and_other_for_another() -> None:
    """So that asking again averages nothing away, and a difference of two is of two noises."""
    of = fleet(graz=50)
    said = {device: judged(6, 2) for device in of}
    once = pooled(said, of, epsilon=1.0)
    assert once == pooled(dict(reversed(said.items())), of, epsilon=1.0)
    exact = pooled(said, of)
    assert once.groups[0].pairs != exact.groups[0].pairs
    assert once.groups[0].devices == 5, "how many there are is not told"
    more = said | {"graz-0": judged(6, 3)}
    other = pooled(more, of, epsilon=1.0)
    moved = {p.given + p.right: p.count for p in other.groups[0].pairs}
    before = {p.given + p.right: p.count for p in once.groups[0].pairs}
    assert moved["onon"] != before["onon"], "the noise of what did not change is another one"
    assert release(said, of, PoolConfig(epsilon=1.0), b"t" * 16, WEEK) != once
    assert release(said, of, PoolConfig(epsilon=1.0), SECRET, "another week") != once


def test_noise_has_the_spread_that_epsilon_states() -> None:
    """Discrete Laplace of scale 2 cap / epsilon: mean 0, and its variance."""
    of = fleet(graz=100)
    said = {device: judged(15) for device in of}
    rules = PoolConfig(epsilon=2.0, cap=20)
    off = [
        release(said, of, rules, SECRET, f"week {n}").groups[0].pairs[0].count - 1500
        for n in range(400)
    ]
    alpha = math.exp(-2.0 / (2 * 20))
    spread = math.sqrt(2 * alpha) / (1 - alpha)
    assert abs(statistics.mean(off)) < 4 * spread / math.sqrt(400)
    assert 0.8 * spread < statistics.stdev(off) < 1.25 * spread


def test_counts_without_labels_are_counted() -> None:
    """A version of an old agent, or labels for which there was no room."""
    of = fleet(graz=5)
    one = Judged(right=3, wrong=1, labels={"on": 1}, confusions={"on": {"off": 1}})
    (graz,) = pooled(dict.fromkeys(of, one), of).groups
    assert (graz.right, graz.wrong, graz.tenths) == (15, 5, [])
