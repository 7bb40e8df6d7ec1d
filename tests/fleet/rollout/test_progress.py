"""A deadline counts from progress; a device that is stuck fails with its own words."""

from __future__ import annotations

import msgspec
import pytest

from contracts.errors import ErrorInfo
from contracts.messages import UpdateEvent, Wait
from fleet.rollout.state import Member
from tests.fleet.rollout.world import FakeFleet, spec_of

FULL = ErrorInfo("disk-full", "the disk is full: the bundle needs 135 MB, 21 MB are free")


def _begun(**spec: object) -> FakeFleet:
    fleet = FakeFleet("a")
    fleet.create(spec_of(waves=[{"percent": 100}], deadline_s=50, **spec))
    fleet.step()
    return fleet


def _downloads(fleet: FakeFleet, done: int, total: int = 12_000_000, rate: float = 0.0) -> None:
    fleet.event("a", "downloading")
    event = fleet.facts["a"].event
    assert event is not None
    fleet.change(
        "a",
        event=msgspec.structs.replace(event, done_bytes=done, total_bytes=total, bytes_per_s=rate),
    )


def _member(fleet: FakeFleet) -> Member:
    return fleet.state().members["a"]


def test_a_slow_link_is_not_a_device_that_is_stuck() -> None:
    """Twelve megabytes at 20 kB/s take ten minutes; the deadline is fifty seconds."""
    fleet = _begun()
    for second in range(0, 600, 5):
        _downloads(fleet, 20_000 * second, rate=20_000.0)
        fleet.step()
        assert fleet.phases() == {"a": "updating"}, second
        fleet.now += 5
    fleet.obey("a")
    fleet.step()
    assert fleet.phases() == {"a": "confirmed"}


def test_without_progress_it_is_stuck_and_says_where() -> None:
    """So many seconds after its last byte, however long it was under way before."""
    fleet = _begun()
    for second in range(0, 300, 5):
        _downloads(fleet, 20_000 * second, rate=20_000.0)
        fleet.step()
        fleet.now += 5
    fleet.now += 40
    fleet.step()
    assert fleet.phases() == {"a": "updating"}
    fleet.now += 25
    fleet.step()
    reason = _member(fleet).reason
    assert reason is not None and reason.code == "deadline"
    assert "no progress within 50 s, last seen updating: downloads 5.9 MB of 12.0 MB" in (
        reason.message
    )
    assert reason.detail["cause"] == "slow-link"


@pytest.mark.parametrize("kind", ["waits", "event"])
def test_a_device_that_waits_fails_with_its_own_words(kind: str) -> None:
    """By its report, or by the event of an agent that does not report it."""
    fleet = _begun()
    if kind == "waits":
        fleet.event("a", "downloading")
        fleet.change("a", waits=[Wait(FULL, fleet.now, "classify")])
    else:
        fleet.event("a", "downloading", FULL)
    fleet.step()
    assert "a waits: the disk is full: the bundle needs 135 MB" in fleet.state().header.waiting
    fleet.now += 51
    fleet.step()
    reason = _member(fleet).reason
    assert reason is not None and reason.detail == {"phase": "updating", "cause": "disk-full"}
    assert "needs 135 MB, 21 MB are free" in reason.message


def test_a_device_that_never_began_says_why_too() -> None:
    """A disk so full that the document cannot be written down."""
    fleet = _begun()
    fleet.change("a", waits=[Wait(FULL, fleet.now)])
    fleet.now += 51
    fleet.step()
    reason = _member(fleet).reason
    assert reason is not None and "last seen assigned: the disk is full" in reason.message


def test_what_another_slot_waits_for_is_no_reason() -> None:
    """A device updates its models one after the other, and each for itself."""
    fleet = _begun()
    fleet.change("a", waits=[Wait(FULL, fleet.now, "generate")])
    fleet.now += 51
    fleet.step()
    reason = _member(fleet).reason
    assert reason is not None
    assert reason.message == "no progress within 50 s, last seen assigned"


@pytest.mark.parametrize("again", ["the same bytes", "fewer bytes", "another reason", "online"])
def test_what_is_no_progress_does_not_move_the_deadline(again: str) -> None:
    """A try that is repeated for ever ends at the deadline all the same."""
    fleet = _begun()
    _downloads(fleet, 5_000_000)
    fleet.step()
    for _ in range(20):
        fleet.now += 4
        match again:
            case "the same bytes":
                _downloads(fleet, 5_000_000)
            case "fewer bytes":
                _downloads(fleet, 1_000_000)
            case "another reason":
                fleet.event("a", "downloading", ErrorInfo("x", f"at {fleet.now}"))
            case _:
                fleet.change("a", since=fleet.now)
        fleet.step()
    assert fleet.phases() == {"a": "failed"}


def test_a_device_that_gets_on_by_a_byte_a_minute_is_waited_for_with_patience() -> None:
    """Not for ever: a wave must end."""
    fleet = _begun(patience_s=600)
    for minute in range(30):
        _downloads(fleet, minute, rate=0.02)
        fleet.step()
        if fleet.phases() == {"a": "failed"}:
            break
        fleet.now += 40
    reason = _member(fleet).reason
    assert reason is not None and "not done after 10 minutes" in reason.message
    assert "0.0 kB/s" in reason.message


def test_every_state_is_progress_and_the_trial_has_its_own_time() -> None:
    """Each may take what the deadline allows."""
    fleet = _begun(trial={"seconds": 100})
    for state in ("downloading", "verified", "fits", "self-tested", "trial"):
        fleet.event("a", state)
        fleet.step()
        fleet.now += 45
        fleet.step()
        assert fleet.phases()["a"] in ("updating", "trial"), state
    fleet.now += 100
    fleet.step()
    assert fleet.phases() == {"a": "trial"}
    fleet.now += 10
    fleet.step()
    assert fleet.phases() == {"a": "failed"}


def test_another_try_begins_its_progress_anew() -> None:
    """It goes on from the bytes that are there, which it says soon."""
    fleet = _begun(attempts=2, retry_s=10)
    _downloads(fleet, 5_000_000)
    fleet.step()
    fleet.now += 51
    fleet.step()
    fleet.now += 11
    fleet.step()
    member = _member(fleet)
    assert (member.attempts, member.phase, member.done_bytes) == (2, "assigned", 0)
    fleet.now += 45
    _downloads(fleet, 5_100_000)
    fleet.step()
    fleet.now += 45
    fleet.step()
    assert fleet.phases() == {"a": "updating"}


def test_many_that_wait_are_counted_by_what_they_wait_for() -> None:
    """One line, whatever they say."""
    fleet = FakeFleet(*"abcde")
    fleet.create(spec_of(waves=[{"percent": 100}]))
    fleet.step()
    for device in "abcd":
        fleet.change(device, waits=[Wait(FULL, 1.0)])
    fleet.change("e", waits=[Wait(ErrorInfo("clock-wrong" * 99, "x" * 9999), 1.0)])
    fleet.step()
    waiting = fleet.state().header.waiting
    assert waiting.startswith("a, b, c and others wait: disk-full (4), clock-wrong")
    assert len(waiting) < 200


def test_a_lost_device_had_its_time_from_its_last_sign() -> None:
    """It went away in mid-download: it is waited for from there."""
    fleet = _begun(gates={"max_failure_rate": 1.0})
    fleet.now += 40
    _downloads(fleet, 1_000_000)
    fleet.step()
    fleet.change("a", online=False, since=fleet.now)
    fleet.now += 45
    fleet.step()
    assert fleet.phases() == {"a": "updating"}
    fleet.now += 10
    fleet.step()
    assert fleet.phases() == {"a": "deferred"} and _member(fleet).lost


def test_an_event_of_another_try_is_no_progress() -> None:
    """What a device says of an older document is of an older document."""
    fleet = _begun()
    event = UpdateEvent(
        "b", 1, 0, "classify", fleet.state().header.target, "downloading", 1.0,
        done_bytes=5, total_bytes=9, reason=FULL,
    )  # fmt: skip
    fleet.change("a", event=event)
    fleet.now += 51
    fleet.step()
    assert fleet.phases() == {"a": "failed"}
