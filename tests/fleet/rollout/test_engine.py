"""The rollout engine, by example: waves, gates, failures, returns, and what it tells people.

Over 400 lines: one engine, an example for each rule, in the order of the rules.
"""

from __future__ import annotations

import pytest

from contracts.errors import RefusedError
from contracts.histogram import Histogram
from contracts.manifest import Baseline
from fleet.figures import Figures
from fleet.rollout import commands
from fleet.rollout.facts import SetDesired
from tests.fleet.rollout.world import NEW, NEWER, OLD, FakeFleet, spec_of

TEN = [f"d{index}" for index in range(10)]


def _figures(requests: int, **fields: object) -> Figures:
    return Figures(samples=1, requests=requests, **fields)  # type: ignore[arg-type]


def _latency(value: float, times: int) -> Histogram:
    histogram = Histogram("log8")
    histogram.add(value, times)
    return histogram


def test_waves_take_the_share_that_they_name_and_no_more() -> None:
    """1, 30 %, 100 % of ten devices: one, three, ten."""
    fleet = FakeFleet(*TEN)
    fleet.create(spec_of(waves=[{"count": 1}, {"percent": 30}, {"percent": 100}]))
    fleet.step()
    assert len(fleet.state().members) == 1
    fleet.obey(next(iter(fleet.state().members)))
    fleet.step()
    assert fleet.state().header.bake_until == fleet.now + 10
    fleet.now += 9
    fleet.step()
    assert len(fleet.state().members) == 1, "still baking"
    fleet.now += 2
    fleet.step()
    fleet.step()
    assert len(fleet.state().members) == 3
    fleet.settle()
    assert fleet.state().header.status == "succeeded"
    assert all(fact.active == NEW for fact in fleet.facts.values())
    assert all(fact.holder is None for fact in fleet.facts.values())


def test_a_canary_that_refuses_stops_the_rollout_and_nobody_else_gets_the_version() -> None:
    """The reason names the figure and the device; the device is told to keep what it had."""
    fleet = FakeFleet(*TEN)
    fleet.create(spec_of(waves=[{"count": 1}, {"percent": 100}]))
    fleet.step()
    (canary,) = fleet.state().members
    fleet.refuse(canary)
    fleet.settle(steps=5)
    header = fleet.state().header
    assert header.status == "stopped"
    assert header.reason is not None and header.reason.code == "gate-failed"
    assert header.reason.detail["gate"] == "max_failure_rate"
    assert header.reason.detail["devices"] == [canary]
    assert canary in header.reason.message
    assert fleet.facts[canary].desired is not None
    assert fleet.facts[canary].desired.bundle == OLD
    assert fleet.phases() == {canary: "failed"}
    assert all(f.active == OLD for f in fleet.facts.values())


def test_failures_within_the_limit_are_reported_and_given_back() -> None:
    """One of ten may fail: the others succeed, and the failed one is asked for its old version."""
    fleet = FakeFleet(*TEN)
    fleet.create(spec_of(waves=[{"percent": 100}], gates={"max_failure_rate": 0.1}))
    fleet.step()
    fleet.refuse("d3")
    fleet.settle(steps=6)
    assert fleet.state().header.status == "succeeded"
    assert fleet.phases()["d3"] == "failed"
    assert fleet.facts["d3"].desired is not None and fleet.facts["d3"].desired.bundle == OLD
    assert [n.detail["device"] for n in fleet.notes if n.kind == "device-failed"] == ["d3"]


def test_a_failed_device_is_tried_again_before_it_counts() -> None:
    """With two attempts the first failure opens no gate."""
    fleet = FakeFleet("a")
    fleet.create(spec_of(waves=[{"percent": 100}], attempts=2, retry_s=30))
    fleet.step()
    fleet.refuse("a")
    fleet.step()
    assert fleet.state().header.status == "running"
    fleet.now += 31
    fleet.step()
    assert fleet.state().members["a"].attempts == 2
    fleet.settle(steps=5)
    assert fleet.state().header.status == "succeeded"


def test_a_silent_device_fails_at_its_deadline_when_it_is_online() -> None:
    """The reason says that it was the deadline."""
    fleet = FakeFleet("a")
    fleet.create(spec_of(waves=[{"percent": 100}]))
    fleet.step()
    fleet.now += 101
    fleet.step()
    reason = fleet.state().members["a"].reason
    assert reason is not None and reason.code == "deadline"


def test_a_device_that_is_away_for_days_is_deferred_and_updates_when_it_returns() -> None:
    """No wave waits for it; it joins after the end."""
    fleet = FakeFleet("a", "b")
    fleet.change("b", online=False)
    fleet.create(spec_of(waves=[{"percent": 100}]))
    for _ in range(6):
        fleet.step()
        fleet.obey("a")
        fleet.now += 11
    assert fleet.phases() == {"a": "confirmed", "b": "deferred"}
    assert fleet.state().header.status == "succeeded"
    fleet.now += 3 * 24 * 3600
    fleet.change("b", online=True, since=fleet.now)
    fleet.step()
    fleet.obey("b")
    fleet.step()
    assert fleet.phases()["b"] == "confirmed"


def test_a_canary_that_goes_away_is_replaced() -> None:
    """A wave whose devices are all away proves nothing; without a sign of the update, no harm."""
    fleet = FakeFleet("a", "b", "c")
    fleet.create(spec_of(waves=[{"count": 1}, {"percent": 100}]))
    fleet.step()
    (canary,) = fleet.state().members
    fleet.change(canary, online=False, since=fleet.now)
    fleet.now += 21
    fleet.step()
    assert len(fleet.state().members) == 2
    fleet.settle()
    assert fleet.state().header.status == "succeeded"
    assert fleet.state().header.readings[0].value == 0.0


def _dies(fleet: FakeFleet, *, spare: int = 0, sign: str = "trial", steps: int = 100) -> set[str]:
    """Every device but the first few goes dark for ever once it is told; returns the dead."""
    dead: set[str] = set()
    spared: set[str] = set()
    for _ in range(steps):
        fleet.step()
        for device, fact in list(fleet.facts.items()):
            asked = fact.desired is not None and fact.desired.bundle == NEW
            if not (fact.online and asked and fact.reached < fact.revision):
                continue
            if len(spared) < spare or device in spared:
                spared.add(device)
                fleet.obey(device)
                continue
            if sign:
                fleet.event(device, sign)
            fleet.change(device, online=False, since=fleet.now)
            dead.add(device)
        fleet.now += 11
    return dead


HUNDRED = [f"d{index}" for index in range(100)]


@pytest.mark.parametrize("sign", ["downloading", "trial"])
def test_a_version_that_kills_devices_stops_at_the_canary(sign: str) -> None:
    """The canary goes dark in the middle of the update: it is not replaced, it has failed."""
    fleet = FakeFleet(*HUNDRED)
    fleet.create(spec_of())
    dead = _dies(fleet, sign=sign)
    assert len(dead) == 1
    header = fleet.state().header
    assert header.status == "stopped"
    assert header.reason is not None
    assert header.reason.detail["devices"] == [*dead]
    assert header.reason.detail["lost"] == 1
    assert "middle of the update" in header.reason.message


def test_a_version_that_kills_all_but_the_canary_stops_in_the_second_wave() -> None:
    """What the canary proved does not carry the others."""
    fleet = FakeFleet(*HUNDRED)
    fleet.create(spec_of())
    dead = _dies(fleet, spare=1)
    assert len(dead) == 9
    assert fleet.state().header.status == "stopped"
    assert len([n for n in fleet.notes if n.kind == "wave-passed"]) == 1


@pytest.mark.parametrize("limit", [0.05, 1.0])
def test_devices_that_go_dark_without_a_word_are_not_replaced_for_ever(limit: float) -> None:
    """Not even when every failure is allowed: the wave waits for one of them."""
    fleet = FakeFleet(*HUNDRED)
    fleet.create(spec_of(gates={"max_failure_rate": limit}))
    assert len(_dies(fleet, sign="")) == 4
    assert fleet.state().header.status == "running"
    assert "away" in fleet.state().header.waiting


def test_a_wave_does_not_pass_without_devices_of_its_own() -> None:
    """All nine of the second wave go dark without a word: nobody else gets the version."""
    fleet = FakeFleet(*HUNDRED)
    fleet.create(spec_of())
    assert len(_dies(fleet, spare=1, sign="")) == 9
    assert fleet.state().header.wave == 1
    assert fleet.state().header.status == "running"


def test_a_device_that_comes_back_in_time_and_confirms_has_not_failed() -> None:
    """Its wave waits for it until its deadline, and says so."""
    fleet = FakeFleet("a", "b")
    fleet.create(spec_of(waves=[{"percent": 100}]))
    fleet.step()
    fleet.event("b", "downloading")
    fleet.change("b", online=False, since=fleet.now)
    for _ in range(6):
        fleet.step()
        fleet.obey("a")
        fleet.now += 11
    assert fleet.phases() == {"a": "confirmed", "b": "updating"}
    assert "b went away" in fleet.state().header.waiting
    fleet.change("b", online=True, since=fleet.now)
    fleet.settle(steps=4)
    assert fleet.state().header.status == "succeeded"
    assert fleet.phases()["b"] == "confirmed"


def test_a_lost_device_counts_until_it_confirms() -> None:
    """The gate allows one lost; being back is not enough, confirming is."""
    fleet = FakeFleet("a", "b", "c")
    fleet.create(spec_of(waves=[{"percent": 100}], bake_s=1000, gates={"max_failure_rate": 0.4}))
    fleet.step()
    fleet.event("b", "trial")
    fleet.step()
    fleet.change("b", online=False, since=fleet.now)
    fleet.obey("a")
    fleet.obey("c")
    fleet.now += 131
    fleet.step()
    assert fleet.phases()["b"] == "deferred"
    reading = fleet.state().header.readings[0]
    assert (reading.value, reading.lost, reading.devices) == (1 / 3, 1, [("b", 1.0)])
    before = fleet.state()
    fleet.now += 11
    fleet.step()
    assert fleet.state().members == before.members, "a device that stays away changes nothing"
    fleet.change("b", online=True, since=fleet.now)
    fleet.step()
    assert fleet.phases()["b"] == "trial"
    assert fleet.state().header.readings[0].lost == 1
    fleet.obey("b")
    fleet.step()
    assert fleet.state().header.readings[0].value == 0.0
    assert fleet.state().members["b"].reason is None


def test_late_joiners_get_the_version_in_the_last_wave_and_after_success() -> None:
    """The selector is looked at again and again."""
    fleet = FakeFleet("a")
    fleet.create(spec_of(waves=[{"percent": 100}]))
    fleet.step()
    fleet.add("b")
    fleet.step()
    assert set(fleet.state().members) == {"a", "b"}
    fleet.settle(steps=4)
    assert fleet.state().header.status == "succeeded"
    fleet.add("c")
    fleet.settle(steps=3)
    assert fleet.facts["c"].active == NEW
    assert fleet.facts["c"].holder is None


@pytest.mark.parametrize(
    ("reached", "asked"),
    [(12, 13), (10, 11), (9, 11), (10_010, 10_011), (10_011, 11), (2**53, 11)],
)
def test_a_device_that_is_ahead_of_a_restored_database_is_asked_for_what_is_new_to_it(
    reached: int, asked: int
) -> None:
    """Within reason: a device that claims any number does not use its revisions up."""
    fleet = FakeFleet("a")
    fleet.change("a", revision=10, reached=reached)
    fleet.create(spec_of(waves=[{"percent": 100}]))
    actions = fleet.step()
    assert [a.revision for a in actions if isinstance(a, SetDesired)] == [asked]


def test_a_rollout_after_a_restore_succeeds() -> None:
    """Devices ignore revisions that are not newer than what they reached."""
    fleet = FakeFleet("a")
    fleet.change("a", revision=10, reached=12)
    fleet.create(spec_of(waves=[{"percent": 100}]))
    for _ in range(12):
        fleet.step()
        if fleet.facts["a"].revision > 12:
            fleet.obey("a")
        fleet.now += 11
    assert fleet.state().header.status == "succeeded"


def test_a_late_joiner_that_goes_away_is_free_for_the_next_rollout() -> None:
    """It still gets the version when it is back, unless another took it meanwhile."""
    fleet = FakeFleet("a")
    fleet.create(spec_of(waves=[{"percent": 100}]))
    fleet.settle(steps=4)
    fleet.add("late")
    fleet.step()
    assert fleet.facts["late"].holder == "r1"
    fleet.change("late", online=False, since=fleet.now)
    fleet.now += 21
    fleet.step()
    assert fleet.phases()["late"] == "deferred"
    assert fleet.facts["late"].holder is None
    fleet.change("late", online=True, since=fleet.now)
    fleet.settle(steps=3)
    assert fleet.phases()["late"] == "confirmed"


def test_an_older_rollout_leaves_devices_that_a_newer_one_took() -> None:
    """After a newer rollout, the older one serves no late joiner of its devices."""
    fleet = FakeFleet("a")
    fleet.create(spec_of(waves=[{"percent": 100}]))
    fleet.settle(steps=4)
    second = fleet.create(spec_of(waves=[{"percent": 100}], version="3.0.0"), NEWER)
    fleet.settle(second, steps=4)
    assert fleet.facts["a"].active == NEWER
    revision = fleet.facts["a"].revision
    fleet.settle("r1", steps=4)
    assert fleet.facts["a"].revision == revision


def test_an_abort_gives_every_device_its_previous_version_back() -> None:
    """Also those that are still on their way, and those that are away, once they return."""
    fleet = FakeFleet(*TEN)
    name = fleet.create(spec_of(waves=[{"percent": 100}]))
    fleet.step()
    for device in TEN[:4]:
        fleet.obey(device)
    fleet.change("d9", online=False, since=fleet.now)
    spec, state = fleet.rollouts[name]
    after, actions = commands.abort(spec, state, fleet.seen_by(name), fleet.now, "ann")
    fleet.store(name, after, actions)
    for _ in range(3):
        for device in TEN[:9]:
            fleet.obey(device)
        fleet.step()
        fleet.now += 11
    assert fleet.state().header.status == "aborted"
    assert fleet.phases() == dict.fromkeys(TEN[:9], "undone") | {"d9": "undoing"}
    assert all(fact.active == OLD for fact in fleet.facts.values())
    fleet.change("d9", online=True)
    fleet.obey("d9")
    fleet.step()
    assert fleet.phases()["d9"] == "undone"


def test_an_abort_gives_a_device_that_is_away_its_previous_version_and_lets_it_go() -> None:
    """Nobody waits for it: the rollout ends at once, holds it no longer, and says who is away."""
    fleet = FakeFleet("d0")
    fleet.create(spec_of(waves=[{"count": 1}, {"percent": 60}, {"percent": 100}], bake_s=0))
    fleet.step()
    fleet.change("d0", online=False, since=fleet.now)
    fleet.abort()
    assert fleet.state().header.status == "aborted"
    assert fleet.phases() == {"d0": "undoing"}
    assert fleet.facts["d0"].desired is not None and fleet.facts["d0"].desired.bundle == OLD
    assert fleet.facts["d0"].holder is None
    assert fleet.notes[-1].detail["away"] == ["d0"]


@pytest.mark.parametrize("rollback", [True, False])
@pytest.mark.parametrize(
    ("attempts", "seen_before"),
    [(1, False), (2, False), (2, True)],
    ids=["just now", "just now, with a try left", "and waits for its next try"],
)
def test_an_abort_takes_the_version_back_from_a_device_that_refused_it(
    attempts: int, seen_before: bool, rollback: bool
) -> None:
    """At once: an ended rollout that nobody follows is not stepped again."""
    fleet = FakeFleet("d0")
    fleet.create(
        spec_of(waves=[{"percent": 100}], attempts=attempts, follow_s=0, rollback=rollback)
    )
    fleet.step()
    fleet.refuse("d0")
    if seen_before:
        fleet.step()
        assert fleet.phases() == {"d0": "failed"}
    fleet.abort()
    assert fleet.state().header.status == "aborted"
    assert fleet.phases() == {"d0": "failed"}
    assert fleet.facts["d0"].desired is not None and fleet.facts["d0"].desired.bundle == OLD
    assert fleet.facts["d0"].holder is None
    assert [n.detail["device"] for n in fleet.notes if n.kind == "device-failed"] == ["d0"]
    revision = fleet.facts["d0"].revision
    fleet.settle(steps=3)
    assert fleet.facts["d0"].revision == revision, "it is told once"


def test_a_stop_takes_the_version_back_from_a_device_that_waits_for_its_next_try() -> None:
    """The gate is broken by another device; the waiting one gets no further try."""
    fleet = FakeFleet("a", "b")
    fleet.create(
        spec_of(waves=[{"percent": 100}], attempts=2, retry_s=50, follow_s=0,
                gates={"max_failure_rate": 0.4})
    )  # fmt: skip
    fleet.step()
    fleet.refuse("a")
    fleet.step()
    fleet.now += 51
    fleet.refuse("b")
    fleet.step()
    assert fleet.state().members["a"].attempts == 2
    fleet.refuse("a")
    fleet.step()
    assert fleet.state().header.status == "rolling-back"
    fleet.step()
    assert fleet.state().header.status == "stopped"
    assert fleet.phases() == {"a": "failed", "b": "failed"}
    for name in ("a", "b"):
        fact = fleet.facts[name]
        assert fact.desired is not None and fact.desired.bundle == OLD
        assert fact.holder is None


def test_without_rollback_an_abort_leaves_devices_as_they_are() -> None:
    """`rollback: false` only stops."""
    fleet = FakeFleet("a", "b")
    name = fleet.create(spec_of(waves=[{"count": 1}, {"percent": 100}], rollback=False))
    fleet.step()
    (first,) = fleet.state().members
    fleet.obey(first)
    spec, state = fleet.rollouts[name]
    after, actions = commands.abort(spec, state, fleet.seen_by(name), fleet.now, "ann")
    assert not [a for a in actions if isinstance(a, SetDesired)]
    assert after.header.status == "aborted"


def test_pause_and_resume_and_approval_hold_devices_back() -> None:
    """While paused or waiting for a person, nobody gets the version."""
    fleet = FakeFleet("a", "b")
    name = fleet.create(spec_of(waves=[{"count": 1}, {"percent": 100, "approval": True}], bake_s=0))
    fleet.settle(steps=4)
    assert fleet.state().header.status == "awaiting-approval"
    assert len(fleet.state().members) == 1
    spec, state = fleet.rollouts[name]
    with pytest.raises(RefusedError):
        commands.resume(state)
    fleet.rollouts[name] = spec, commands.pause(state, "ann")
    fleet.settle(steps=3)
    assert len(fleet.state().members) == 1
    fleet.rollouts[name] = spec, commands.resume(fleet.state())
    fleet.settle(steps=2)
    assert fleet.state().header.status == "awaiting-approval"
    fleet.rollouts[name] = spec, commands.approve(fleet.state())
    fleet.settle(steps=4)
    assert fleet.state().header.status == "succeeded"


def test_outside_its_windows_a_rollout_touches_nobody() -> None:
    """The state says what it waits for."""
    fleet = FakeFleet("a")
    # The fleet's clock is at 00:16 on a Thursday, UTC.
    fleet.create(
        spec_of(waves=[{"percent": 100}], windows=[{"start": "02:00", "end": "04:00"}], bake_s=0)
    )
    fleet.step()
    assert fleet.state().members == {}
    assert "window" in fleet.state().header.waiting
    fleet.now = 2.5 * 3600
    fleet.settle(steps=3)
    assert fleet.state().header.status == "succeeded"


def test_no_more_devices_are_under_way_than_allowed() -> None:
    """`max_in_flight` bounds a wave."""
    fleet = FakeFleet(*TEN)
    fleet.create(spec_of(waves=[{"percent": 100}], max_in_flight=3))
    fleet.step()
    assert len(fleet.state().members) == 3
    fleet.settle()
    assert fleet.state().header.status == "succeeded"


@pytest.mark.parametrize(
    ("gate", "limit", "bad"),
    [
        ("max_latency_p95_us", 1000, {"latency_us": _latency(5000, 100)}),
        ("max_error_rate", 0.1, {"errors": 50}),
        ("max_unknown_rate", 0.1, {"unknown": 50}),
        ("max_label_drift", 0.2, {"labels": {"on": 100}}),
        ("max_rss_bytes", 1000, {"peaks": {"rss_bytes": 2000.0}}),
        ("max_confidence_drift", 0.2, {"confidence": Histogram("unit20", {"3": 100})}),
        (
            "max_shadow_disagreement",
            0.1,
            {"shadow_requests": 100, "shadow_disagreements": 40},
        ),
    ],
)
def test_a_model_that_got_worse_is_stopped_in_the_canary_wave(
    gate: str, limit: float, bad: dict[str, object]
) -> None:
    """It installs well, but a figure is over its limit: stop, say which, roll back."""
    fleet = FakeFleet(*TEN)
    fleet.baseline = Baseline({"on": 0.5, "off": 0.5}, Histogram("unit20", {"19": 1000}))
    fleet.create(spec_of(waves=[{"count": 1}, {"percent": 100}], gates={gate: limit}))
    fleet.step()
    (canary,) = fleet.state().members
    fleet.obey(canary)
    fleet.figures[canary] = _figures(100, **bad)
    fleet.settle(steps=5)
    header = fleet.state().header
    assert header.status == "stopped"
    assert header.reason is not None
    assert header.reason.detail["gate"] == gate
    assert header.reason.detail["devices"] == [canary]
    assert header.reason.detail["value"] > limit
    assert fleet.facts[canary].active == OLD
    assert len(fleet.state().members) == 1


def test_a_good_model_passes_all_gates() -> None:
    """The same gates hold for figures within their limits."""
    fleet = FakeFleet(*TEN)
    fleet.baseline = Baseline({"on": 0.5, "off": 0.5}, Histogram("unit20", {"19": 1000}))
    fleet.create(
        spec_of(
            waves=[{"count": 1}, {"percent": 100}],
            gates={
                "max_latency_p95_us": 1000,
                "max_label_drift": 0.1,
                "max_confidence_drift": 0.1,
                "max_error_rate": 0.01,
            },
        )
    )
    for device in TEN:
        fleet.figures[device] = _figures(
            100,
            latency_us=_latency(500, 100),
            labels={"on": 48, "off": 52},
            confidence=Histogram("unit20", {"19": 100}),
        )
    fleet.settle()
    assert fleet.state().header.status == "succeeded"


def test_a_gate_without_evidence_waits_and_then_asks_a_person() -> None:
    """No traffic is no proof: after the time for evidence the rollout pauses."""
    fleet = FakeFleet("a", "b")
    fleet.create(
        spec_of(
            waves=[{"count": 1}, {"percent": 100}],
            gates={"max_latency_p95_us": 1000, "evidence_s": 50},
        )
    )
    for _ in range(4):
        fleet.step()
        fleet.obey(next(iter(fleet.state().members)))
        fleet.now += 11
    assert fleet.state().header.status == "running"
    assert "evidence" in fleet.state().header.waiting
    fleet.now += 60
    fleet.step()
    assert fleet.state().header.status == "paused"
    assert len(fleet.state().members) == 1


def test_a_revoked_device_is_removed_and_holds_nothing_up() -> None:
    """It counts neither as success nor as failure."""
    fleet = FakeFleet("a", "b")
    fleet.create(spec_of(waves=[{"percent": 100}]))
    fleet.step()
    fleet.change("b", revoked=True, eligible=False, online=False)
    fleet.settle(steps=5)
    assert fleet.state().header.status == "succeeded"
    assert fleet.phases()["b"] == "removed"


def test_a_bad_figure_of_an_early_wave_stops_a_later_one() -> None:
    """A wave's gates must hold until the rollout ends."""
    fleet = FakeFleet(*TEN)
    fleet.create(
        spec_of(
            waves=[{"count": 1}, {"percent": 50}, {"percent": 100}],
            gates={"max_error_rate": 0.1, "no_evidence": "pass"},
        )
    )
    fleet.step()
    (canary,) = fleet.state().members
    for _ in range(4):
        fleet.obey(canary)
        fleet.step()
        fleet.now += 11
    assert fleet.state().header.wave == 1
    fleet.figures[canary] = _figures(100, errors=60)
    fleet.step()
    reason = fleet.state().header.reason
    assert reason is not None and reason.detail["wave"] == 0


def test_a_first_model_that_is_aborted_is_taken_away() -> None:
    """A device that had nothing before is asked for nothing again."""
    fleet = FakeFleet("a")
    fleet.change("a", active=None)
    name = fleet.create(spec_of(waves=[{"percent": 100}]))
    fleet.step()
    fleet.obey("a")
    spec, state = fleet.rollouts[name]
    after, actions = commands.abort(spec, state, fleet.seen_by(name), fleet.now, "ann")
    fleet.store(name, after, actions)
    assert fleet.facts["a"].desired is None
    fleet.obey("a")
    fleet.step()
    assert fleet.state().header.status == "aborted"
    assert fleet.phases() == {"a": "undone"}


@pytest.mark.parametrize("empties", [True, False])
def test_a_first_model_that_fails_a_gate_is_undone_when_the_device_says_that_it_is_gone(
    *, empties: bool
) -> None:
    """A device that keeps it, as older agents do, is waited for and named at the end."""
    fleet = FakeFleet("a")
    fleet.change("a", active=None)
    gates = {"max_error_rate": 0.05, "min_requests": 10}
    fleet.create(spec_of(waves=[{"percent": 100}], gates=gates))
    fleet.step()
    fleet.obey("a")
    fleet.step()
    fleet.figures["a"] = _figures(100, errors=90)
    fleet.step()
    assert fleet.facts["a"].desired is None
    if not empties:
        fleet.change("a", reached=fleet.facts["a"].revision)
        fleet.step()
        assert fleet.phases() == {"a": "undoing"}
        fleet.now += 200
        fleet.step()
        assert fleet.notes[-1].detail["silent"] == ["a"]
        assert fleet.phases() == {"a": "undoing"}
    fleet.obey("a")
    fleet.change("a", active=None)
    fleet.step()
    assert fleet.state().header.status == "stopped"
    assert fleet.phases() == {"a": "undone"}
