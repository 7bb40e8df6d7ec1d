"""A tested update holds until its maintenance window is open, by the controller's time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.system.controller_clock import ControllerClock
from agent.system.filesystem import Disk
from agent.update.hold import CLOSED, UNKNOWN, Holding
from contracts.bundle import Bundle
from contracts.desired import Desired, DesiredBundle, TrialRules, Window
from contracts.errors import UnavailableError
from contracts.messages import Wait
from tests.support.controller import TINY, TINY_NEXT
from tests.support.engine import FakeClock, MemoryRepository, Rig, copy_state
from tests.support.faulty_disk import FaultyDisk, PowerCut

OLD = Bundle.open(TINY).ref
NEW = Bundle.open(TINY_NEXT).ref
MIDNIGHT = 1_800_057_600.0  # a Saturday in UTC
DAYS = list(range(7))
NIGHT = Window(2 * 60, 4 * 60, DAYS)
TRIAL = TrialRules(seconds=60)


class Settable(FakeClock):
    """A clock that can be set: `moved` seconds, which its ticks do not see."""

    moved = 0.0

    def time(self) -> float:
        """Seconds since the epoch."""
        return self.now + self.moved


class Device:
    """A device that runs the old bundle, its clock, and the controller's.

    Args:
        folder: of its state.
        ahead: seconds that its clock is ahead of the controller's.
        disk: that it runs on.
    """

    def __init__(self, folder: Path, ahead: float = 0.0, disk: Disk | None = None) -> None:
        self.folder = folder
        self.root = folder / "state"
        self.root.mkdir(exist_ok=True)
        self.repository = MemoryRepository(TINY, TINY_NEXT)
        self.clock = Settable(MIDNIGHT + ahead)
        self.ahead = ahead
        self.reachable = True
        self.asked = 0
        self.said: list[list[Wait]] = []
        self.start(disk)

    def start(self, disk: Disk | None = None) -> None:
        """Starts the agent: what it knew of the time is gone."""
        self.heard = ControllerClock(self.clock)
        self.rig = Rig(
            disk or Disk(),
            self.root,
            self.repository,
            clock=self.clock,
            holding=Holding(self.heard.now, self._ask),
            changed=lambda: self.said.append(self.rig.engine.waits()),
        )
        self.rig.engine.recover()

    def _ask(self) -> None:
        self.asked += 1
        if not self.reachable:
            raise UnavailableError("repository-unreachable", "nobody is there")
        self.heard.heard(self.now, self.clock.now)

    @property
    def now(self) -> float:
        """By the controller's clock."""
        return self.clock.now - self.ahead

    def want(self, revision: int, *windows: Window, ref: Any = NEW, trial: Any = TRIAL) -> None:
        """What the controller asks for."""
        wish = DesiredBundle(ref, trial=trial, windows=list(windows))
        self.rig.engine.offer(Desired(revision, {"classify": wish} if ref else {}))

    def until(self, moment: float) -> None:
        """Works until a moment of the controller's clock, seconds after midnight."""
        end = MIDNIGHT + moment
        while self.now < end:
            pause = self.rig.engine.step()
            if pause is None or self.now + pause >= end:
                self.clock.now += end - self.now
                return
            self.clock.now += pause

    @property
    def state(self) -> str:
        """Of the update."""
        update = self.rig.engine.journal.update
        return update.state if update else ""

    @property
    def reason(self) -> str:
        """For which it waits."""
        return ", ".join(wait.reason.code for wait in self.rig.engine.waits())


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """At midnight, on the old bundle, with a right clock."""
    return running(tmp_path)


def running(folder: Path, ahead: float = 0.0) -> Device:
    """At midnight, on the old bundle."""
    device = Device(folder, ahead)
    device.want(1, ref=OLD, trial=TrialRules(seconds=0))
    device.rig.settle()
    device.clock.now = MIDNIGHT + ahead
    device.rig.events.clear()
    device.said.clear()
    assert device.rig.active() == OLD
    return device


def test_it_downloads_and_tests_at_once_and_activates_in_the_window(device: Device) -> None:
    """The old bundle serves until then; the reason is told once, in event and report."""
    device.want(2, NIGHT)
    device.until(2 * 3600 - 1)
    assert device.state == "held" and device.rig.active() == OLD
    assert [e.state for e in device.rig.events] == [
        "downloading", "verified", "fits", "self-tested", "self-tested",
    ]  # fmt: skip
    told = device.rig.events[-1]
    assert told.reason is not None and told.reason.code == CLOSED
    assert "2027-01-16 02:00 UTC" in told.reason.message
    (wait,) = device.said[-1]
    assert (wait.reason.code, wait.slot, wait.blocks) == (CLOSED, "classify", True)
    assert sum(bool(said) for said in device.said) == 1, "told once, not at every look"
    device.until(2 * 3600 + 1)
    assert device.state == "trial" and device.rig.active() == NEW
    assert device.said[-1] == []
    device.until(2 * 3600 + 120)
    assert device.rig.events[-1].state == "committed"
    assert all(e.reason is None for e in device.rig.events[5:])


def test_a_held_update_writes_nothing_while_it_waits(device: Device) -> None:
    """A week of waiting wears no flash."""
    disk = FaultyDisk(device.root)
    device.rig.close()
    device.start(disk)
    device.want(2, Window(120, 240, [4]))  # Friday
    device.until(3600)
    writes = len(disk.operations)
    device.until(5 * 86400)
    assert device.state == "held" and disk.operations[writes:] == []


def test_an_activation_begins_so_early_that_its_trial_ends_in_the_window(device: Device) -> None:
    """A minute of trial does not begin in the last minute, but in the next window."""
    device.clock.now = MIDNIGHT + 4 * 3600 - 59
    device.want(2, NIGHT)
    device.until(86400)
    assert device.state == "held" and "2027-01-17 02:00" in device.rig.events[-1].reason.message
    device.until(86400 + 2 * 3600 + 61)
    assert device.state == "committed"


def test_at_the_last_moment_at_which_the_trial_still_fits_it_begins(device: Device) -> None:
    """A minute before the end, with a minute of trial."""
    device.clock.now = MIDNIGHT + 4 * 3600 - 60
    device.want(2, NIGHT)
    device.until(4 * 3600 + 1)
    assert device.rig.active() == NEW


def test_a_trial_that_is_longer_than_the_window_begins_in_it_and_may_end(device: Device) -> None:
    """Else it could never begin; what began is not broken off."""
    device.want(2, NIGHT, trial=TrialRules(seconds=5 * 3600))
    device.until(2 * 3600 + 1)
    assert device.state == "trial"
    device.until(6 * 3600)
    assert device.state == "trial" and device.reason == ""
    device.until(7 * 3600 + 2)
    assert device.state == "committed"


def test_a_rollback_waits_for_no_window(device: Device) -> None:
    """A trial that fails after the window has closed is rolled back at once."""
    device.want(2, NIGHT, trial=TrialRules(seconds=5 * 3600, min_requests=1))
    device.until(5 * 3600)
    assert device.state == "trial"
    for _ in range(20):
        device.rig.recorder.failed("classify", "model-failed")
    device.until(5 * 3600 + 2)
    assert device.state == "rolled-back" and device.rig.active() == OLD


def test_what_is_no_longer_wanted_is_refused_while_it_holds(device: Device) -> None:
    """Without a rollback: it never served. What is wanted without a window comes at once."""
    device.want(2, NIGHT)
    device.until(60)
    assert device.state == "held"
    device.want(3, ref=OLD)
    device.until(61)
    assert [e.state for e in device.rig.events][-1] == "refused"
    assert device.rig.active() == OLD and device.reason == ""


def test_a_slot_is_emptied_at_once(device: Device) -> None:
    """Also while an update of it holds."""
    device.want(2, NIGHT)
    device.until(60)
    device.want(3, ref=None)
    device.until(62)
    assert device.rig.active() is None


def test_a_document_without_the_window_lets_the_update_go_on(device: Device) -> None:
    """What was downloaded is not fetched again."""
    device.want(2, NIGHT)
    device.until(60)
    sent = device.repository.sent
    device.want(3)
    device.until(61)
    assert device.state == "trial" and device.repository.sent == sent


@pytest.mark.parametrize("ahead", [-MIDNIGHT, -7200.0, 7200.0])
def test_a_wrong_clock_does_not_open_a_window(tmp_path: Path, ahead: float) -> None:
    """1970, and two hours to each side: the controller's time counts."""
    device = running(tmp_path, ahead)
    device.want(2, NIGHT)
    device.until(2 * 3600 - 1)
    assert device.state == "held" and device.rig.active() == OLD
    device.until(2 * 3600 + 2)
    assert device.state == "trial"


def test_a_device_that_was_never_told_the_time_holds_and_says_so(device: Device) -> None:
    """Its own clock may stand where it stood at the last shutdown."""
    device.reachable = False
    device.want(2, NIGHT)
    device.until(3 * 3600)
    assert device.state == "held" and device.reason == UNKNOWN
    assert "nobody is there" in device.rig.events[-1].reason.message
    device.reachable = True
    device.until(3 * 3600 + 61)
    assert device.rig.active() == NEW


def test_a_device_that_loses_contact_activates_in_the_window(device: Device) -> None:
    """It was told the time since its start; the windows recur without the controller."""
    device.want(2, Window(120, 240, [4]))  # Friday
    device.until(60)
    device.reachable = False
    device.until(6 * 86400 + 2 * 3600 - 1)
    assert device.state == "held"
    device.until(6 * 86400 + 2 * 3600 + 1)
    assert device.state == "trial" and device.asked == 1


def test_a_clock_that_is_set_while_it_holds_is_asked_for_again(device: Device) -> None:
    """What was known of it is not any more."""
    device.want(2, NIGHT)
    device.until(60)
    device.clock.moved = 2.5 * 3600  # by it, the window is open
    device.until(3600)
    assert device.state == "held" and device.asked == 2


def test_power_cut_while_it_holds_holds_on_after_the_start(device: Device) -> None:
    """However often, and no restart counts against the bundle."""
    device.want(2, NIGHT)
    device.until(60)
    sent = device.repository.sent
    for _ in range(2 * TRIAL.max_restarts):
        device.rig.close()
        device.start()
        device.until(device.now - MIDNIGHT + 10)
        assert device.state == "held" and device.reason == CLOSED
        assert device.rig.active() == OLD and device.rig.answer().bundle == OLD
    device.until(2 * 3600 + 61)
    assert device.state == "committed" and device.repository.sent == sent


@pytest.mark.parametrize("fault", ["killed", "power-cut", "torn"])
def test_a_crash_at_any_operation_activates_nothing_outside_the_window(
    device: Device, tmp_path: Path, fault: Any
) -> None:
    """Also one in the middle of the activation, after which the window has closed."""
    device.want(2, NIGHT)
    device.until(2 * 3600 - 30)
    assert device.state == "held"
    device.rig.close()
    holding = copy_state(device.root, tmp_path / "holding")

    def update(disk: FaultyDisk) -> None:
        device.clock.now = MIDNIGHT + 2 * 3600 - 30
        device.start(disk)
        try:
            device.until(2 * 3600 + 70)
        finally:
            device.rig.close()

    disk = FaultyDisk(copy_state(holding, device.root))
    update(disk)
    states = []
    for at, name in enumerate(disk.operations):
        with pytest.raises(PowerCut):
            update(FaultyDisk(copy_state(holding, device.root), at, fault))
        device.clock.now = MIDNIGHT + 5 * 3600  # the window has closed
        device.start()
        device.until(5 * 3600 + 120)
        where = f"{fault} at operation {at} ({name}): {device.state}"
        states.append(device.state)
        serves = OLD if device.state == "held" else NEW
        assert device.state in ("held", "committed"), where
        assert device.rig.active() == device.rig.answer().bundle == serves, where
        device.until(86400 + 2 * 3600 + 70)
        assert device.state == "committed" and device.rig.active() == NEW, where
        device.rig.close()
    assert states == sorted(states, reverse=True), "held up to the activation, then its trial ends"
    assert states.count("held") > 3 and "committed" in states
