"""What keeps an update from getting on is told, waited out, and forgotten when it passes."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from agent.system.clock import EARLIEST
from agent.system.filesystem import Disk
from agent.update.machine import MAX_LOCAL_FAILURES
from agent.update.waiting import AGAIN_S, Waiting
from contracts import progress
from contracts.bundle import Bundle
from contracts.desired import TrialRules
from contracts.errors import ErrorInfo, RefusedError, UnavailableError
from contracts.messages import BundleRef, Wait
from tests.support.controller import TINY
from tests.support.engine import FakeClock, MemoryRepository, Rig

REF = Bundle.open(TINY).ref


class Filling(Disk):
    """A disk that has no room while it is `full`, from the first piece on where it `fills`."""

    full = False
    fills = False

    def _refuse(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def write(self, path: Path, data: bytes) -> None:
        """As the disk."""
        self._refuse()
        super().write(path, data)

    def append(self, path: Path, data: bytes) -> None:
        """As the disk."""
        self.full = self.full or self.fills
        self._refuse()
        super().append(path, data)

    def make_folder(self, path: Path) -> None:
        """As the disk."""
        if not path.exists():
            self._refuse()
        super().make_folder(path)

    def symlink(self, target: str, path: Path) -> None:
        """As the disk."""
        self._refuse()
        super().symlink(target, path)


class Told:
    """A device whose reports are remembered."""

    def __init__(self, folder: Path, repository: Any, **options: Any) -> None:
        self.said: list[list[Wait]] = []
        self.disk = Filling()
        root = folder / "state"
        root.mkdir(exist_ok=True)
        self.rig = Rig(self.disk, root, repository, changed=self._changed, **options)
        self.rig.engine.recover()

    def _changed(self) -> None:
        self.said.append(self.rig.engine.waits())

    def steps(self, count: int) -> None:
        """Steps, with the pauses between them."""
        for _ in range(count):
            self.rig.clock.now += self.rig.engine.step() or 0

    def until(self, state: str) -> None:
        """Steps until the update is in a state."""
        for _ in range(50):
            update = self.rig.engine.journal.update
            if (update.state if update else "") == state:
                return
            self.steps(1)
        raise AssertionError(f"never {state}")


@pytest.fixture
def repository() -> MemoryRepository:
    """The tiny bundle."""
    return MemoryRepository(TINY)


@pytest.mark.parametrize(
    "state", ["", "downloading", "verified", "fits", "self-tested", "trial", "committed"]
)
def test_a_disk_that_fills_in_any_state_is_waited_out(
    tmp_path: Path, repository: MemoryRepository, state: str
) -> None:
    """However long, and the reason is told, also when not even the journal can be written."""
    device = Told(tmp_path, repository)
    device.rig.want(REF, 1, trial=TrialRules(seconds=1.0))
    if state == "downloading":
        device.disk.fills = True
    elif state:
        device.until(state)
    device.disk.full = not device.disk.fills
    device.said.clear()
    device.steps(3 * MAX_LOCAL_FAILURES)
    (wait,) = device.rig.engine.waits()
    assert wait.reason.code == "disk-full" and "full" in wait.reason.message
    assert wait.slot == ("classify" if state not in ("", "committed") else "")
    assert [wait.reason.code for wait in device.said[-1]] == ["disk-full"]
    device.disk.full = device.disk.fills = False
    device.rig.settle()
    assert device.rig.active() == REF
    assert device.rig.engine.waits() == [] and device.said[-1] == []
    assert device.rig.events[-1].state == "committed"


class Signing(MemoryRepository):
    """A repository whose signatures are refused while `refusal` says so."""

    refusal: RefusedError | UnavailableError | None = None

    def newest(self, ref: BundleRef) -> bytes:
        """As the repository."""
        if self.refusal is not None:
            raise self.refusal
        return super().newest(ref)


@pytest.mark.parametrize("code", ["freeze", "expired"])
def test_signatures_past_their_time_are_waited_for(tmp_path: Path, code: str) -> None:
    """The fleet signs again, and the device goes on by itself, without a new document."""
    repository = Signing(TINY)
    repository.refusal = RefusedError(code, "timestamp.json expired: must be signed anew")
    device = Told(tmp_path, repository)
    device.rig.want(REF, 1)
    device.steps(3 * MAX_LOCAL_FAILURES)
    event = device.rig.events[-1]
    assert event.state == "downloading"
    assert event.reason is not None and event.reason.code == code
    assert [wait.reason.code for wait in device.said[-1]] == [code]
    repository.refusal = None
    device.rig.settle()
    assert device.rig.active() == REF


def test_an_expiry_by_a_wrong_clock_is_the_clocks_fault(tmp_path: Path) -> None:
    """The reason names the clock, and the update goes on when it is right."""
    repository = Signing(TINY)
    repository.refusal = RefusedError("freeze", "timestamp.json expired")
    fault = [ErrorInfo("clock-wrong", "this device's clock is 30 days ahead", {"offset_s": 1})]
    device = Told(tmp_path, repository, clock_fault=lambda: fault[0] if fault else None)
    device.rig.want(REF, 1)
    device.steps(2 * MAX_LOCAL_FAILURES)
    (wait,) = device.rig.engine.waits()
    assert wait.reason.code == "clock-wrong"
    assert "30 days ahead" in wait.reason.message and "expired" in wait.reason.message
    assert device.rig.events[-1].reason == wait.reason
    fault.clear()
    repository.refusal = None
    device.rig.settle()
    assert device.rig.active() == REF


@pytest.mark.parametrize("code", ["wrong-signature", "rollback", "not-published"])
def test_other_refusals_stay_final(tmp_path: Path, code: str) -> None:
    """Only time is waited out."""
    repository = Signing(TINY)
    repository.refusal = RefusedError(code, "no")
    device = Told(tmp_path, repository)
    device.rig.want(REF, 1)
    device.rig.settle()
    assert device.rig.events[-1].state == "refused"
    assert device.rig.engine.waits() == [], "what has ended waits for nothing"


def test_the_same_reason_is_told_once(tmp_path: Path) -> None:
    """A repository that is away for a day is one event and one report, not thousands."""
    repository = Signing(TINY)
    repository.refusal = UnavailableError("repository-unreachable", "no route")
    device = Told(tmp_path, repository)
    device.rig.want(REF, 1)
    device.steps(100)
    assert len([e for e in device.rig.events if e.reason is not None]) == 1
    assert len([said for said in device.said if said]) == 1


def test_other_words_of_a_reason_are_told_now_and_then() -> None:
    """Room that changes with every look is no event each time; since when stays."""
    clock = FakeClock()
    began = clock.now
    waiting = Waiting(clock)
    assert waiting.begin(ErrorInfo("disk-full", "20 MB are free"), "classify")
    clock.now += 60
    assert not waiting.begin(ErrorInfo("disk-full", "21 MB are free"), "classify")
    clock.now += AGAIN_S
    assert waiting.begin(ErrorInfo("disk-full", "22 MB are free"), "classify")
    assert not waiting.begin(ErrorInfo("disk-full", "22 MB are free"), "classify")
    (wait,) = waiting.now()
    assert (wait.reason.message, wait.since) == ("22 MB are free", began)
    assert waiting.begin(ErrorInfo("disk-full", "22 MB are free"), "generate"), "another update"
    assert waiting.end() and not waiting.end()
    assert waiting.now() == []


def test_since_when_moves_with_a_clock_that_is_set() -> None:
    """A wait that began in 1970 began a minute ago."""

    class Board(FakeClock):
        wall = 3.0

        def time(self) -> float:
            return self.wall

    clock = Board()
    waiting = Waiting(clock)
    waiting.begin(ErrorInfo("disk-full", "full"))
    clock.now += 60
    clock.wall = EARLIEST + 1e6
    (wait,) = waiting.now()
    assert wait.since == EARLIEST + 1e6 - 60


def test_a_download_tells_its_rate_and_is_reported_now_and_then(tmp_path: Path) -> None:
    """Events every few seconds, and reports, which the broker keeps, once a minute."""

    class Slow(MemoryRepository):
        def open(self, path: str, offset: int = 0) -> Any:
            transfer = super().open(path, offset)
            chunks = transfer.chunks

            def pieces() -> Any:
                for piece in chunks:
                    device.rig.clock.now += len(piece) / 500
                    yield piece

            transfer.chunks = pieces()
            return transfer

    device = Told(tmp_path, Slow(TINY))
    device.rig.want(REF, 1)
    device.steps(2)
    told = [e for e in device.rig.events if e.bytes_per_s]
    assert len(told) >= 5
    assert all(e.bytes_per_s == pytest.approx(500, rel=0.05) for e in told)
    assert "at 0.5 kB/s, about" in progress.download(told[2])
    assert 2 <= len(device.said) <= 4
