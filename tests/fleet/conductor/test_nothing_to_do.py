"""What a plan knows before anything begins: nothing to do, and what went wrong before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.errors import ErrorInfo, InputError, RefusedError
from contracts.messages import SlotReport, UpdateEvent
from fleet.rollout.spec import RolloutSpec
from fleet.store import rollouts
from tests.fleet.conductor.test_runner import Small


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    """A fleet with two versions of one bundle."""
    found = Small(tmp_path)
    yield found
    found.store.close()


def spec(version: str, **fields: object) -> RolloutSpec:
    """A rollout of a version to all devices."""
    return RolloutSpec.model_validate({"bundle": "noise", "version": version, **fields})


def test_a_rollout_that_would_move_nothing_is_refused(small: Small) -> None:
    """It is started for late joiners where that is asked for; one device that lacks it suffices."""
    small.add("a", "b")
    small.create("1.0.0")
    small.settle("a", "b")
    assert small.runner.plan(spec("1.0.0")).moving == 0
    with pytest.raises(InputError, match=r"has noise 1\.0\.0 already \(2\)") as refused:
        small.create("1.0.0")
    assert refused.value.code == "no-devices"
    with small.store.read() as connection:
        assert len(rollouts.page(connection, None, 9)[0]) == 1, "none was made"
    late = small.create("1.0.0", allow_empty=True)
    small.settle("a")
    assert small.status(late) == "succeeded"
    small.add("c")
    again = small.create("1.0.0")
    small.settle("a", "b", "c")
    assert small.status(again) == "succeeded"


def test_a_rollout_whose_devices_are_all_held_is_refused(small: Small) -> None:
    """It began and was through in the same moment, "on 0 devices", and served them without waves.

    A late joiner has the version of the rollout before on its way.
    """
    small.add("a")
    first = small.create("1.0.0")
    small.settle("a")
    small.add("late")
    small.runner.tick()
    assert small.device("late").rollout == first
    with pytest.raises(RefusedError, match="joined late") as refused:
        small.create("2.0.0", selector="late")
    assert refused.value.code == "devices-busy"
    assert refused.value.info.detail == {"rollouts": [first]}
    small.settle("a", "late")
    second = small.create("2.0.0", selector="late")
    small.settle("a", "late")
    assert (small.status(second), small.active("late")) == ("succeeded", "2.0.0")


def test_a_device_that_came_with_the_version_is_something_to_do(small: Small) -> None:
    """Nobody asked it to keep it: the rollout does, though nothing moves."""
    small.add("a")
    small.report("a", classify=SlotReport(active=small.refs["1.0.0"]))
    plan = small.runner.plan(spec("1.0.0"))
    assert (plan.moving, plan.given) == (0, 1)
    small.create("1.0.0")
    small.settle("a")
    with pytest.raises(InputError, match="nothing would move"):
        small.create("1.0.0")


def test_a_shadow_is_not_there_because_the_active_version_is(small: Small) -> None:
    """A device that answers with a version has no shadow of it."""
    small.add("a")
    small.create("1.0.0")
    small.settle("a")
    small.create("1.0.0", mode="shadow")


def test_a_plan_says_where_and_why_the_version_ended_before(small: Small) -> None:
    """A person's end, and what devices said; another version's troubles are not its own."""
    small.add("a", "b")
    small.create("1.0.0")
    small.settle("a", "b")
    assert small.runner.plan(spec("2.0.0")).setbacks == []
    waves = [{"count": 1}, {"percent": 100}]
    rollout = small.create("2.0.0", waves=waves, gates={"max_failure_rate": 0})
    small.runner.tick()
    (first,) = (n for n in ("a", "b") if small.device(n).rollout == rollout)
    device = small.device(first)
    why = ErrorInfo("golden-mismatch", "60 of 64 hold", {"passed": 60, "vectors": 64})
    said = UpdateEvent(
        "b", 99, device.desired_revision, "classify", small.refs["2.0.0"], "refused", small.now,
        rollout=rollout, reason=why,
    )  # fmt: skip
    small.hear(first, said)
    small.settle("a", "b")
    assert small.status(rollout) == "stopped"
    (one,) = small.runner.plan(spec("2.0.0")).setbacks
    assert (one.rollout, one.status, one.wave, one.waves) == (rollout, "stopped", 0, 2)
    assert one.ended and one.failed == 1
    assert one.reason is not None and one.reason.code == "gate-failed"
    assert one.why == why
    assert small.runner.plan(spec("1.0.0")).setbacks == []
