"""What the page that starts rollouts says, and what the server refuses whatever the page shows."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from contracts.config import MqttConfig
from contracts.errors import ErrorInfo, InputError, RefusedError
from fleet.conductor.ahead import Ahead
from fleet.controller import Controller
from fleet.dashboard import words
from fleet.dashboard.data import Data
from fleet.dashboard.progress import Progress
from fleet.dashboard.render import render
from fleet.folder import Fleet, FleetConfig
from fleet.rollout.advice import explained, may_fail, span, suggested
from fleet.rollout.plan import Plan, PlannedWave, Setback
from fleet.rollout.spec import Gates, RolloutSpec, parse_waves
from fleet.store import audit, devices
from fleet.store.tokens import Token
from tests.support.bundles import noise_bundle

OPERATOR = Token("t", "olga", "operator", 0.0, None, None)


def spec(**fields: object) -> RolloutSpec:
    """A rollout of the bundle that is published."""
    return RolloutSpec.model_validate({"bundle": "noise", "version": "1.0.0", **fields})


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A fleet with one bundle."""
    folder = tmp_path_factory.mktemp("wizard")
    made = Fleet.init(folder / "fleet", FleetConfig("f", mqtt=MqttConfig(port=1)))
    made.publish(noise_bundle(folder / "a").path)
    return made


@pytest.fixture
def controller(fleet: Fleet) -> Iterator[Controller]:
    """A controller that is not connected."""
    made = Controller(fleet)
    yield made
    made.store.close()


def enrolled(controller: Controller, *names: str) -> None:
    """Devices that never connected."""
    with controller.store.write() as connection:
        for name in names:
            devices.enroll(controller.store, connection, name, "raspberry-pi-5", {}, [], 1.0)


def test_the_server_refuses_what_would_move_no_device(controller: Controller) -> None:
    """Whatever the page's button says; it is in the audit log."""
    with pytest.raises(InputError) as refused:
        Data(controller).create_rollout(spec(selector="device=nobody"), OPERATOR)
    assert refused.value.code == "no-devices"
    controller.attempts.write()
    with controller.store.read() as connection:
        entry = audit.page(connection, None, 1)[0][0]
    assert (entry.action, entry.outcome, entry.actor) == ("rollout.create", "no-devices", "olga")


def test_a_version_that_was_stopped_is_started_only_by_who_knows_of_it(
    controller: Controller,
) -> None:
    """Also of a stop that came after the page was drawn; the entry names what was known."""
    enrolled(controller, "d1", "d2")
    data = Data(controller)
    first = data.create_rollout(spec(), OPERATOR)
    data.command(first, "abort", OPERATOR)
    controller.runner.tick()
    for known in ([], ["r99"]):
        with pytest.raises(RefusedError, match=f"stopped in rollout {first}") as refused:
            data.create_rollout(spec(), OPERATOR, known)
        assert refused.value.code == "stopped-before"
    second = data.create_rollout(spec(), OPERATOR, [first])
    with controller.store.read() as connection:
        entries = audit.page(connection, None, 9)[0]
    made = next(one for one in entries if one.action == "rollout.create" and one.outcome == "done")
    assert made.detail["stopped_before"] == [first]
    data.command(second, "abort", OPERATOR)


@pytest.mark.parametrize("devices", [0, 1, 2, 5, 6, 20, 21, 200, 201, 2000, 2001, 10_000])
def test_waves_that_are_suggested_grow_and_reach_every_device(devices: int) -> None:
    """The first wave of more than one device is never all of them, and never many."""
    advice = suggested(devices)
    made = spec(waves=[wave.model_dump() for wave in parse_waves(advice.waves)])
    targets = [wave.target(devices) for wave in made.waves]
    assert targets[-1] == devices
    assert targets == sorted(set(targets)) or devices == 0
    assert targets[0] <= 1


def test_the_gate_of_failures_is_told_in_devices() -> None:
    """Five percent of three devices is none: one failure stops it."""
    gates = Gates(max_failure_rate=0.05)
    assert may_fail(gates, 3) == "one failure stops it"
    assert may_fail(gates, 40) == "2 of its 40 may fail, one more stops it"
    assert may_fail(Gates(max_failure_rate=1), 3) == "no number of failures stops it"
    assert may_fail(gates, 0) == "adds no device"
    assert [span(s) for s in (1, 60, 90, 7200, 0.5)] == [
        "1 second", "1 minute", "90 seconds", "2 hours", "0.5 seconds",
    ]  # fmt: skip


def plan_of(moving: int, online: int, setbacks: list[Setback]) -> Plan:
    """A plan of one wave."""
    names = [f"d{n}" for n in range(moving)]
    wave = PlannedWave("100%", moving, online, names, False, 60.0)
    return Plan(
        moving + 2, moving, [wave], {"<b>x</b>": "has it already", "y": "revoked"}, setbacks
    )


def test_a_plan_says_what_will_happen_in_plain_words() -> None:
    """Trial, gates that are looked at, devices that are away, and what went wrong before."""
    why = ErrorInfo("golden-mismatch", "0 of 64 hold", {"passed": 0, "vectors": 64})
    reason = ErrorInfo("gate-failed", "wave 1: failure rate is 1, allowed is at most 0.05")
    setback = Setback("r7", "stopped", 0, 2, 0.0, reason, 3, why)
    asked = spec(
        gates={"max_error_rate": 0.05, "max_latency_p95_us": 20_000},
        trial={"seconds": 120},
        waves=[{"percent": 100, "approval": True}],
    )
    plan = plan_of(4, 3, [setback])
    steps = explained(asked, plan)
    text = " ".join(steps)
    assert "tries it for 2 minutes" in text
    assert "at most 5.0% of answers may be errors" in text
    assert "within 20 ms" in text
    assert "1 of these devices are away now" in text
    assert "a person must approve" in text
    page = render(
        "plan.html", plan=plan, bundle="noise 1.0.0", fails=["one failure stops it"],
        left_out=[("has it already", ["<b>x</b>"])], steps=steps,
    )  # fmt: skip
    assert "4 of 6 devices would move" in page
    assert "d0, d1, d2, d3" in page
    assert "was stopped by a gate in wave 1 of 2" in page
    assert "failure rate is 1" in page
    assert "its answers did not match the model&#39;s own test, 64 of 64" in page
    assert "<b>x" not in page
    nothing = render(
        "plan.html", plan=plan_of(0, 0, []), bundle="noise 1.0.0", fails=[""], left_out=[], steps=[]
    )
    assert "No device would move" in nothing and "Wave 1" not in nothing
    some = msgspec.structs.replace(plan, moving=9)
    short = render(
        "plan.html", plan=some, bundle="noise 1.0.0", fails=[""], left_out=[], steps=steps
    )
    assert "5 never get the version" in short and "never get" not in page


def test_a_persons_words_come_before_the_engines() -> None:
    """With the numbers that the device gave; a code that nobody knows keeps its message."""
    refused = {
        "code": "golden-mismatch",
        "message": "0 of 64 golden vectors hold in litert",
        "detail": {"passed": 0, "vectors": 64},
    }
    event = {"state": "refused", "bundle": {"name": "m", "version": "1.0.0"}, "reason": refused}

    class Update:
        received_at = 0.0

    update = Update()
    update.event = event  # type: ignore[attr-defined]
    page = render("updates.html", updates=[update])
    said = page.index("its answers did not match the model&#39;s own test, 64 of 64")
    assert page.index("refused") < said < page.index("golden-mismatch: 0 of 64 golden vectors")
    hostile = {
        "code": "selftest-failed",
        "message": "<b>",
        "detail": {"passed": "x", "vectors": []},
    }
    assert words.cause(hostile) == "its answers did not match the model's own test"
    assert words.cause({"code": "made-up", "message": "the sensor is wet"}) == "the sensor is wet"
    assert words.engine({"code": "made-up", "message": "the sensor is wet"}) == "made-up"
    assert words.cause(None) == "no reason was given"
    assert words.state("undo-failed") == "could not go back"


def test_progress_counts_every_device_also_those_that_it_did_not_reach() -> None:
    """Nothing that waits, is away, was refused or left out is hidden."""
    ahead = Ahead(5, 2, 1, {"r3": 4}, {"revoked": 1})
    found = Progress(
        {0: {"confirmed": 2, "failed": 1}, 1: {"assigned": 1, "updating": 1, "deferred": 2}},
        away=1, causes={"its disk is full": 1}, lost=1, ahead=ahead,
    )  # fmt: skip
    lines = {line.text: (line.count, line.note) for line in found.lines}
    assert lines == {
        "have the version": (2, ""),
        "were told to get it": (2, "1 on their way are not connected now"),
        "are away and get it when they are back": (
            2, "1 of them in the middle of the update, which counts as failed",
        ),
        "failed": (1, "1: its disk is full"),
        "wait for their wave": (5, "2 of them are not connected now"),
        "had the version before": (1, ""),
        "are held by rollout r3": (4, ""),
        "are left out": (1, "revoked"),
    }  # fmt: skip
    assert sum(line.count for line in found.lines) == 7 + 11


def test_the_progress_page_counts_devices_that_wait_for_their_wave(controller: Controller) -> None:
    """Of three devices that never connected one is told, and two are not hidden."""
    enrolled(controller, "d1", "d2", "d3")
    data = Data(controller)
    asked = spec(waves=[{"count": 1}, {"percent": 100}])
    known = [one.rollout for one in data.plan(asked).setbacks]
    name = data.create_rollout(asked, OPERATOR, known)
    controller.runner.tick()
    lines = {line.text: (line.count, line.note) for line in data.progress(name).lines}
    assert lines["wait for their wave"] == (2, "2 of them are not connected now")
    assert lines["were told to get it"] == (1, "1 on their way are not connected now")
    ((member, wait),) = data.waiting(name)
    assert (member.phase, wait.code) == ("assigned", "offline")
    data.command(name, "abort", OPERATOR)
    assert data.progress(name).ahead is None or data.rollout(name)[0].active
