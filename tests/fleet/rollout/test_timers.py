"""When the engine looks again: never later than something happens, and not all the time."""

from __future__ import annotations

import random

import pytest

from fleet.rollout.engine import step
from fleet.rollout.state import ENDED
from fleet.rollout.timers import FIGURES_MAX_S, FIGURES_S, next_look
from tests.fleet.rollout.world import FakeFleet, spec_of

NAMES = [f"d{index}" for index in range(6)]


def _rest(fleet: FakeFleet) -> None:
    """Steps until nothing changes."""
    for _ in range(30):
        before = fleet.state()
        if not fleet.step() and fleet.state() == before:
            return
    raise AssertionError("the engine never rests")


def _happen(fleet: FakeFleet, rng: random.Random) -> None:
    name = rng.choice(NAMES)
    fact = fleet.facts[name]
    what = rng.choice(["obey", "obey", "trial", "downloading", "refuse", "away", "back"])
    if what == "back" and not fact.online:
        fleet.change(name, online=True, since=fleet.now)
    elif what == "away" and fact.online:
        fleet.change(name, online=False, since=fleet.now)
    elif not fact.online or fact.desired is None or fact.reached >= fact.revision:
        return
    elif what in ("trial", "downloading"):
        fleet.event(name, what)
    elif what == "refuse":
        fleet.refuse(name)
    else:
        fleet.obey(name)


@pytest.mark.parametrize("seed", range(12))
def test_nothing_happens_before_the_moment_and_something_may_at_it(seed: int) -> None:
    """Whatever devices do: between two looks a step would have changed nothing."""
    rng = random.Random(seed)
    fleet = FakeFleet(*NAMES)
    fleet.now = 1_000_000_000.0 + rng.random() * 86400
    fleet.create(spec_of(
        waves=[{"count": 1}, {"percent": 50}, {"percent": 100}], bake_s=rng.choice([0, 30]),
        attempts=2, retry_s=15, gates={"max_failure_rate": rng.choice([0.3, 1.0])},
        deadline_s=100, patience_s=400, max_in_flight=rng.choice([None, 1]),
        windows=rng.choice([[], [{"start": "06:00", "end": "09:00"}]]),
    ))  # fmt: skip
    moved = 0
    for _ in range(200):
        _happen(fleet, rng)
        _rest(fleet)
        spec, state = fleet.rollouts["r1"]
        facts = fleet.seen_by("r1")
        moment = next_look(spec, state, facts, fleet.now)
        until = fleet.now + 200_000 if moment is None else moment
        assert until > fleet.now
        for _ in range(6):
            now = rng.uniform(fleet.now, until - 0.01)
            if now > fleet.now:
                after, actions = step(spec, state, facts, now)
                assert not actions and after == state, (now - fleet.now, until - fleet.now)
        if moment is not None and rng.random() < 0.7:
            fleet.now = moment
            after, actions = step(spec, state, facts, moment)
            moved += bool(actions) or after != state
        else:
            fleet.now += rng.uniform(0, 5)
        if fleet.state().header.status in ENDED:
            break
    assert moved > 0


def test_figures_are_read_less_often_the_longer_nothing_moves() -> None:
    """At first at once, later every few minutes: there is more to read, and it says less."""
    fleet = FakeFleet(*NAMES)
    gates = {"max_error_rate": 0.1, "evidence_s": 10 * 86400}
    fleet.create(spec_of(waves=[{"percent": 100}], gates=gates))
    fleet.settle(steps=3)
    spans = []
    for _ in range(40):
        _rest(fleet)
        spec, state = fleet.rollouts["r1"]
        moment = next_look(spec, state, fleet.seen_by("r1"), fleet.now)
        assert moment is not None
        spans.append(moment - fleet.now)
        fleet.now += 3600
    assert spans[0] <= FIGURES_S + 0.01
    assert spans[-1] == pytest.approx(FIGURES_MAX_S, abs=0.01)


def test_a_rollout_that_waits_for_a_person_has_no_moment() -> None:
    """Nobody looks at it until the person speaks."""
    fleet = FakeFleet(*NAMES)
    fleet.create(spec_of(waves=[{"count": 1, "approval": True}, {"percent": 100}]))
    _rest(fleet)
    spec, state = fleet.rollouts["r1"]
    assert state.header.status == "awaiting-approval"
    assert next_look(spec, state, fleet.seen_by("r1"), fleet.now) is None
