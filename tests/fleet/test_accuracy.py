"""The estimate of field accuracy: against the truth of simulated fleets, and against liars."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fleet.accuracy import (
    Estimate,
    Noise,
    Tally,
    apart,
    at_least,
    estimate,
    regressed,
    weighted,
    wilson,
)

SEEDS = 100
DEVICES = 1000
ASKED = 0.02
NOISE = Noise(blames=0.1, spares=0.1)


def fleet(seed: int, accuracy: float = 0.9) -> tuple[float, dict[str, Tally]]:
    """A fleet whose text has shifted: the accuracy of all answers, and what people say of 2 %.

    Devices differ in how much they answer and in what they hear; one site of eight hears a slice
    that the model does badly. One verdict in ten is wrong.
    """
    chance = np.random.default_rng(seed)
    answers = np.maximum(chance.lognormal(math.log(400), 0.5, DEVICES), 1).astype(int)
    own = chance.beta(accuracy * 30, (1 - accuracy) * 30, DEVICES)
    own[: DEVICES // 8] *= chance.uniform(0.5, 0.8)
    right = chance.binomial(answers, own)
    judged_right = chance.binomial(right, ASKED)
    judged_wrong = chance.binomial(answers - right, ASKED)
    spared = chance.binomial(judged_wrong, NOISE.spares)
    blamed = chance.binomial(judged_right, NOISE.blames)
    said_right = judged_right - blamed + spared
    said_wrong = judged_wrong - spared + blamed
    tallies = {
        f"d{n:04}": Tally(int(a), int(b))
        for n, (a, b) in enumerate(zip(said_right, said_wrong, strict=True))
    }
    return float(right.sum() / answers.sum()), tallies


def test_the_truth_is_in_the_interval_and_within_two_points_in_95_of_100_fleets() -> None:
    """2 % of answers judged, one verdict in ten wrong, a site that degrades."""
    good = inside = 0
    naive = 0
    for seed in range(SEEDS):
        truth, tallies = fleet(seed)
        found = estimate(tallies, NOISE)
        assert found is not None
        inside += found.low <= truth <= found.high
        good += found.low <= truth <= found.high and abs(found.value - truth) <= 0.02
        plain = estimate(tallies)
        assert plain is not None
        naive += plain.low <= truth <= plain.high
        assert found.high - found.low < 0.05, "and the interval says something"
    assert good >= 95, (good, inside)
    assert naive == 0, "with one wrong verdict in ten, what is said is not what is true"


def test_one_device_that_floods_with_lies_hardly_moves_the_estimate() -> None:
    """It claims more than all others together, and has a twentieth of the weight."""
    for seed in range(5):
        truth, tallies = fleet(seed)
        tallies["liar"] = Tally(0, 1e6)
        found = estimate(tallies, NOISE)
        assert found is not None
        assert abs(found.value - truth) < 0.09
        named = [name for name, _, _ in apart(tallies)]
        assert named[0] == "liar"
        assert len(named) < DEVICES / 100, "and few whose text the model does badly"


def test_intervals_are_wilsons() -> None:
    """Figures of the literature (Newcombe 1998, table I), and the ends of what can be."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(20, 20)
    assert high == 1.0
    assert low == pytest.approx(0.8389, abs=1e-4)


def test_nothing_judged_is_no_estimate_and_little_judged_says_how_little() -> None:
    """The interval of three answers is nearly all there is."""
    assert estimate({}) is None
    assert estimate({"a": Tally()}) is None
    found = estimate({"a": Tally(2, 1)})
    assert found is not None
    assert found.judged == 3
    assert found.high - found.low > 0.6


def test_no_device_has_more_than_its_share_of_the_weight() -> None:
    """Twice the fair share, or a twentieth; two devices cannot be told apart and stay as they are.

    Shares stay as each device's own: what is made smaller is right and wrong alike.
    """
    for devices in (3, 4, 10, 40, 1000):
        tallies = {f"d{n}": Tally(n + 1, 1) for n in range(devices)} | {"x": Tally(1e9, 1e9)}
        found = weighted(tallies)
        total = sum(one.judged for one in found.values())
        most = max(one.judged for one in found.values()) / total
        assert most <= max(0.05, 2 / (devices + 1)) + 1e-9, devices
        assert found["x"].right == pytest.approx(found["x"].wrong)
        assert found["d0"] == tallies["d0"]
    two = {"a": Tally(5, 5), "b": Tally(1, 0)}
    assert weighted(two) == two


def test_devices_that_differ_make_the_interval_wider() -> None:
    """Ten homes of two kinds say less than the same verdicts of one kind."""
    alike = {f"d{n}": Tally(80, 20) for n in range(10)}
    unlike = {f"d{n}": Tally(100, 0) if n % 2 else Tally(60, 40) for n in range(10)}
    one, other = estimate(alike), estimate(unlike)
    assert isinstance(one, Estimate)
    assert isinstance(other, Estimate)
    assert one.value == other.value
    assert other.high - other.low > 2 * (one.high - one.low)


def test_a_limit_holds_fails_or_is_not_known_yet() -> None:
    """By the interval; with words for what is missing."""

    def asked(right: float, wrong: float, count: int = 5) -> tuple[bool | None, str]:
        tallies = {f"d{n}": Tally(right, wrong) for n in range(count)}
        found = at_least(tallies, 0.9, need=50, devices=3, noise=Noise())
        return found.holds, found.why

    assert asked(40, 2) == (True, "")
    assert asked(30, 12) == (False, "")
    holds, why = asked(17, 3)
    assert holds is None
    assert "between 0.767 and 0.907" in why
    assert asked(4, 4) == (None, "40 of 50 answers are judged")
    assert asked(100, 50, count=2) == (None, "2 of 3 devices had answers judged")


def test_a_verdict_that_hangs_on_one_device_is_none_and_the_device_is_named() -> None:
    """One that lies can neither stop a good version nor carry a bad one; with leave it may."""
    good = {f"d{n}": Tally(19, 1) for n in range(6)}
    lies = at_least(good | {"liar": Tally(0, 5000)}, 0.85, 50, 3, Noise())
    assert lies.holds is None
    assert lies.why.endswith("it hangs on liar alone")
    assert lies.devices == [("liar", 0.0)]
    bad = {f"d{n}": Tally(16, 4) for n in range(6)}
    carried = at_least(bad | {"liar": Tally(5000, 0)}, 0.85, 50, 3, Noise())
    assert carried.holds is None
    assert carried.devices == [("liar", 1.0)]
    alone = at_least({"canary": Tally(10, 90)}, 0.85, 50, 1, Noise())
    assert alone.holds is False
    assert alone.devices == [("canary", 0.1)]
    # With the liar beside them, what is plain stays plain.
    awful = {f"d{n}": Tally(8, 12) for n in range(12)}
    assert at_least(awful | {"liar": Tally(5000, 0)}, 0.85, 50, 3, Noise()).holds is False
    assert at_least(good, 0.85, 50, 3, Noise()).holds is True


def test_devices_are_blamed_by_how_many_answers_they_had_wrong() -> None:
    """Those that are fine by themselves are not."""
    tallies = {f"d{n}": Tally(10, 10) for n in range(4)} | {"worst": Tally(10, 20)}
    tallies["fine"] = Tally(20, 0)
    found = at_least(tallies, 0.9, 50, 3, Noise())
    assert found.holds is False
    assert [name for name, _ in found.devices] == ["worst", "d0", "d1", "d2", "d3"]


def test_a_version_is_held_against_the_one_before() -> None:
    """By the interval of the difference; without evidence of the old one nothing is known."""
    old = {f"d{n}": Tally(90, 10) for n in range(10)}

    def asked(right: float, before: dict[str, Tally] = old, limit: float = 0.05) -> bool | None:
        new = {f"d{n}": Tally(right, 100 - right) for n in range(10)}
        return regressed(before, new, limit, 50, 3, Noise()).holds

    assert asked(91) is True
    assert asked(86) is True
    assert asked(84) is None, "six points, or four: nobody knows"
    assert asked(70) is False
    assert asked(70, {"d0": Tally(9, 1)}) is None
    assert asked(70, {}) is None
    found = regressed({}, {"d0": Tally(50, 50)}, 0.05, 50, 3, Noise())
    assert found.why == "of the version before 0 of 50 answers are judged"
    blamed = regressed(old, {f"d{n}": Tally(70, 30) for n in range(10)}, 0.05, 50, 3, Noise())
    assert blamed.value == pytest.approx(0.2)
    assert len(blamed.devices) == 10


def test_a_lie_in_a_comparison_is_left_out_on_both_sides() -> None:
    """A device that says that all was right and now all is wrong does not stop a version."""
    old = {f"d{n}": Tally(45, 5) for n in range(5)} | {"liar": Tally(5000, 0)}
    new = {f"d{n}": Tally(45, 5) for n in range(5)} | {"liar": Tally(0, 5000)}
    found = regressed(old, new, 0.02, 50, 3, Noise())
    assert found.holds is None
    assert found.why.endswith("it hangs on liar alone")


def test_noise_is_taken_out_of_the_ends_too() -> None:
    """Everything said to be right, and less than the noise alone would give, stay in 0 to 1."""
    all_right = estimate({f"d{n}": Tally(100, 0) for n in range(3)}, NOISE)
    assert all_right is not None
    assert (all_right.value, all_right.high) == (1.0, 1.0)
    none_right = estimate({f"d{n}": Tally(1, 99) for n in range(3)}, NOISE)
    assert none_right is not None
    assert (none_right.value, none_right.low) == (0.0, 0.0)
    half = estimate({f"d{n}": Tally(50, 50) for n in range(3)}, NOISE)
    assert half is not None
    assert half.value == pytest.approx(0.5)
