"""Updates where the disk, the model or the agent itself fails: something serves, and it is told.

Over 400 lines: every fault is done to the same rig, whose parts are at the head.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.system.filesystem import Disk
from agent.update.loading import MAX_LOADS, PATIENCE_S, LoadingMarks
from agent.update.slots import PROBLEM_S, UNSERVED_S
from contracts.bundle import MANIFEST, Bundle
from contracts.desired import Desired, DesiredBundle, TrialRules
from contracts.errors import RefusedError, UnavailableError
from contracts.messages import BundleRef
from fleet.repository import delta
from tests.support.bundles import rewrite
from tests.support.controller import TINY, TINY_NEXT
from tests.support.engine import MemoryRepository, Rig

OLD = Bundle.open(TINY).ref
NEW = Bundle.open(TINY_NEXT).ref
MODEL = "model.tflite"
LONG = TrialRules(seconds=60, min_requests=1, max_error_rate=0.1)


class DiedError(BaseException):
    """Stands for the end of the process: nothing catches it."""


class BadSectors(Disk):
    """A disk that does not give some files."""

    def __init__(self, *names: str) -> None:
        self.bad = set(names)

    def read(self, path: Path) -> bytes:
        self._look(path)
        return super().read(path)

    def digest(self, path: Path) -> str:
        self._look(path)
        return super().digest(path)

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self.bad.discard(new.name)  # new blocks

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.bad.discard(path.name)

    def _look(self, path: Path) -> None:
        if path.name in self.bad:
            raise OSError(errno.EIO, "Input/output error")


@pytest.fixture
def repository() -> MemoryRepository:
    """Both tiny bundles."""
    return MemoryRepository(TINY, TINY_NEXT)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A state folder."""
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture
def rig(root: Path, repository: MemoryRepository) -> Rig:
    """A device that runs the old bundle."""
    rig = start(root, repository)
    rig.want(OLD, 1)
    rig.settle()
    rig.events.clear()
    return rig


def start(root: Path, repository: MemoryRepository, **options: object) -> Rig:
    """One start of the agent on the folder's state."""
    rig = Rig(options.pop("fs", None) or Disk(), root, repository, **options)  # type: ignore[arg-type]
    rig.engine.recover()
    return rig


def step_to(rig: Rig, state: str) -> None:
    """Steps until the update is in a state."""
    for _ in range(100):
        update = rig.engine.journal.update
        if update is not None and update.state == state:
            return
        rig.clock.now += rig.engine.step() or 0
    raise AssertionError(f"never {state}: {rig.engine.journal.update}")


def fail_the_trial(rig: Rig) -> None:
    """Enough errors to break a rule of LONG."""
    for _ in range(20):
        rig.recorder.failed("classify", "model-failed")


def damage(root: Path, bundle: Path, name: str = MODEL) -> Path:
    """Changes one bit of a bundle's file on the disk."""
    blob = root / "blobs" / Bundle.open(bundle).entry(name).sha256
    data = bytearray(blob.read_bytes())
    data[1000] ^= 1
    blob.write_bytes(data)
    return blob


def breaking(rig: Rig, ref: BundleRef, error: Callable[[], BaseException | None]) -> None:
    """Loading a bundle raises what `error` gives, if anything."""
    real = rig.models.activate

    def activate(slot: str, folder: Path | None) -> None:
        if folder is not None and folder.name == ref.manifest_sha256:
            found = error()
            if found is not None:
                raise found
        real(slot, folder)

    rig.models.activate = activate  # type: ignore[method-assign]


def reason(rig: Rig) -> str:
    """The code of the last event's reason."""
    last = rig.events[-1].reason
    return last.code if last else ""


# Rollbacks. -------------------------------------------------------------------------------------


def test_a_rollback_ends_though_the_old_bundle_is_damaged(rig: Rig, root: Path) -> None:
    """Nothing serves then; the end says so, and the next revision repairs it."""
    rig.want(NEW, 2, trial=LONG)
    step_to(rig, "trial")
    damage(root, TINY)
    fail_the_trial(rig)
    rig.settle()
    end = rig.events[-1]
    assert (end.state, reason(rig)) == ("rolled-back", "trial-errors")
    assert end.reason is not None
    assert f"{OLD} does not serve either: bundle-corrupt" in end.reason.message
    assert rig.active() is None
    with pytest.raises(UnavailableError, match="no model serves"):
        rig.answer()
    rig.want(OLD, 3)
    rig.settle()
    assert (rig.active(), rig.answer().bundle) == (OLD, OLD)


def test_a_rollback_falls_to_the_bundle_before_the_old_one(
    rig: Rig, root: Path, repository: MemoryRepository, tmp_path: Path
) -> None:
    """It is still on the disk, as the previous one."""
    Bundle.open(TINY_NEXT).extract(tmp_path / "third")
    third = repository.add(rewrite(Bundle.open(tmp_path / "third"), version="1.2.0").path)
    rig.want(NEW, 2)
    rig.settle()
    rig.want(third, 3, trial=LONG)
    step_to(rig, "trial")
    (root / "releases" / NEW.manifest_sha256 / MANIFEST).unlink()
    fail_the_trial(rig)
    rig.settle()
    assert (rig.events[-1].state, reason(rig)) == ("rolled-back", "trial-errors")
    assert (rig.active(), rig.answer().bundle) == (OLD, OLD)


def test_a_start_in_a_trial_of_which_nothing_is_whole_ends_it(
    rig: Rig, root: Path, repository: MemoryRepository
) -> None:
    """The agent starts, so that a repair can reach it."""
    rig.want(NEW, 2, trial=LONG)
    step_to(rig, "trial")
    rig.close()
    damage(root, TINY)
    damage(root, TINY_NEXT)
    rig = start(root, repository)
    rig.settle()
    assert [event.state for event in rig.events][-1] == "rolled-back"
    assert reason(rig) == "bundle-corrupt"
    rig.want(NEW, 3)
    rig.settle()
    assert (rig.active(), rig.answer().bundle) == (NEW, NEW)


def test_a_rollback_keeps_its_reason_while_the_disk_refuses(rig: Rig) -> None:
    """What is told at its end is why it began; meanwhile the old bundle serves."""
    rig.want(NEW, 2, trial=LONG)
    step_to(rig, "trial")
    refusing = iter([OSError(errno.EROFS, "Read-only file system")] * 5)
    real = rig.engine.store.link

    def link(slot: str, name: str, sha256: str | None) -> None:
        if error := next(refusing, None):
            raise error
        real(slot, name, sha256)

    rig.engine.store.link = link  # type: ignore[method-assign]
    fail_the_trial(rig)
    step_to(rig, "rolling-back")
    rig.engine.step()
    assert rig.answer().bundle == OLD
    rig.settle()
    assert (rig.events[-1].state, reason(rig)) == ("rolled-back", "trial-errors")


# Loading. ---------------------------------------------------------------------------------------


def test_a_trial_runs_only_while_the_new_bundle_serves(rig: Rig) -> None:
    """One refusal of the disk, and the bundle before is not what the trial judges."""
    errors = iter([OSError(errno.ENOMEM, "Cannot allocate memory")] * 7)
    breaking(rig, NEW, lambda: next(errors, None))
    rig.want(NEW, 2, trial=TrialRules(seconds=1))
    step_to(rig, "trial")
    assert rig.answer().bundle == OLD
    rig.settle()
    assert rig.events[-1].state == "committed"
    assert rig.events[-1].reason is None
    assert (rig.active(), rig.answer().bundle) == (NEW, NEW)


def test_a_bundle_that_the_disk_refuses_for_long_is_rolled_back(rig: Rig) -> None:
    """A minute, then the reason is told."""
    breaking(rig, NEW, lambda: OSError(errno.ENOMEM, "Cannot allocate memory"))
    rig.want(NEW, 2, trial=TrialRules(seconds=1))
    step_to(rig, "trial")
    began = rig.clock.now
    rig.settle()
    assert rig.clock.now - began >= PATIENCE_S
    assert (rig.events[-1].state, reason(rig)) == ("rolled-back", "no-resources")
    assert (rig.active(), rig.answer().bundle) == (OLD, OLD)


def test_a_fault_of_the_agent_rolls_back_and_leaves_it_running(rig: Rig) -> None:
    """An exception that nobody foresaw is told by its name."""
    breaking(rig, NEW, lambda: TypeError("data type 'nonsense' not understood"))
    rig.want(NEW, 2)
    rig.settle()
    assert (rig.events[-1].state, reason(rig)) == ("rolled-back", "internal")
    assert rig.events[-1].reason is not None
    assert "TypeError: data type 'nonsense'" in rig.events[-1].reason.message
    assert rig.answer().bundle == OLD


def test_a_fault_in_a_step_is_told_once_and_ends_the_update(
    rig: Rig, repository: MemoryRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread goes on: the next revision is carried out."""

    def broken(ref: BundleRef) -> bytes:
        raise ValueError("invalid literal for int()")

    with monkeypatch.context() as patch:
        patch.setattr(repository, "newest", broken)
        rig.want(NEW, 2)
        rig.settle()
    told = [(event.state, event.reason.code if event.reason else "") for event in rig.events]
    assert told == [("downloading", ""), ("downloading", "internal"), ("refused", "internal")]
    rig.want(NEW, 3)
    rig.settle()
    assert rig.answer().bundle == NEW


def test_a_reason_is_told_when_it_changes_and_not_at_each_try(
    rig: Rig, repository: MemoryRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that is cut off for a month does not write a month of events."""
    codes = iter(["cut"] * 50 + ["timeout"] * 50)
    with monkeypatch.context() as patch:

        def cut(ref: BundleRef) -> bytes:
            code = next(codes)
            raise UnavailableError(code, "no way there")

        patch.setattr(repository, "newest", cut)
        rig.want(NEW, 2)
        for _ in range(100):
            rig.clock.now += rig.engine.step() or 0
    told = [event.reason.code if event.reason else "" for event in rig.events]
    assert told == ["", "cut", "timeout"]
    rig.settle()
    assert rig.events[-1].state == "committed"


# Starts. ----------------------------------------------------------------------------------------


def test_a_current_bundle_that_does_not_load_gives_way_and_is_told(
    rig: Rig, root: Path, repository: MemoryRepository
) -> None:
    """What is reported is what serves; what is desired comes again and is refused by name."""
    rig.want(NEW, 2)
    rig.settle()
    rig.close()
    rig = Rig(Disk(), root, repository)
    breaking(rig, NEW, lambda: RefusedError("model-failed", "an operator is unknown"))
    rig.engine.recover()
    assert (rig.active(), rig.answer().bundle) == (OLD, OLD)
    rig.settle()
    assert (rig.events[-1].state, reason(rig)) == ("rolled-back", "model-failed")
    assert (rig.active(), rig.answer().bundle) == (OLD, OLD)


def test_a_current_bundle_on_bad_sectors_gives_way_and_is_fetched_again(
    rig: Rig, root: Path, repository: MemoryRepository
) -> None:
    """An input/output error that stays is damage."""
    rig.want(NEW, 2)
    rig.settle()
    rig.close()
    blob = Bundle.open(TINY_NEXT).entry(MODEL).sha256
    fs = BadSectors(blob)
    rig = Rig(fs, root, repository)
    breaking(rig, NEW, lambda: OSError(errno.EIO, "Input/output error") if blob in fs.bad else None)
    rig.engine.recover()
    assert (rig.active(), rig.answer().bundle) == (OLD, OLD)
    rig.settle()
    assert (rig.active(), rig.answer().bundle) == (NEW, NEW)


def test_a_slot_that_the_disk_refuses_at_the_start_is_tried_again(
    rig: Rig, root: Path, repository: MemoryRepository
) -> None:
    """Without anything new being desired, and without keeping what is desired from the device."""
    rig.close()
    errors = iter([OSError(errno.EMFILE, "Too many open files")] * 7)
    rig = Rig(Disk(), root, repository)
    breaking(rig, OLD, lambda: next(errors, None))
    rig.engine.recover()
    assert rig.models.slots == []
    assert rig.engine.step() == UNSERVED_S
    rig.settle()
    assert rig.answer().bundle == OLD


def test_a_shadow_that_kills_the_process_is_given_up(
    rig: Rig, root: Path, repository: MemoryRepository
) -> None:
    """Its self-test passed; the agent dies with it three times, and then goes on without it."""
    rig.want(NEW, 2, mode="shadow")
    breaking(rig, NEW, DiedError)
    with pytest.raises(DiedError):
        rig.settle()
    deaths = 1
    for _ in range(10):
        rig = Rig(Disk(), root, repository)
        breaking(rig, NEW, DiedError)
        try:
            rig.engine.recover()
            rig.settle()
            break
        except DiedError:
            deaths += 1
    assert deaths == 3
    assert (rig.events[-1].state, reason(rig)) == ("rolled-back", "trial-restarts")
    assert (rig.active(), rig.answer().bundle) == (OLD, OLD)
    assert rig.engine.store.linked("classify", "shadow") is None


def test_a_slot_of_which_nothing_loads_says_why_and_is_tried_again(
    rig: Rig, root: Path, repository: MemoryRepository
) -> None:
    """A broken runtime costs no bundle: once it is repaired, all serves again by itself."""
    rig.want(NEW, 2)
    rig.settle()
    rig.close()
    broken = [True]
    told: list[str] = []
    rig = Rig(Disk(), root, repository, changed=lambda: told.append(problem(rig)))
    for ref in (OLD, NEW):
        breaking(rig, ref, lambda: RefusedError("no-runtime", "gone") if broken else None)
    rig.engine.recover()
    assert rig.models.slots == []
    report = rig.engine.slots()["classify"]
    assert (report.active, report.previous) == (None, OLD)
    assert told == ["no-runtime"]
    for _ in range(10):
        rig.clock.now += rig.engine.step() or 0
    assert told == ["no-runtime"]
    assert rig.clock.now - 1_800_000_000.0 >= PROBLEM_S
    broken.clear()
    rig.settle()
    assert rig.engine.slots()["classify"].active == NEW
    assert rig.answer().bundle == NEW
    assert told[-1] == ""


def problem(rig: Rig) -> str:
    """Why the slot serves nothing, as it is reported."""
    found = rig.engine.slots()["classify"].problem
    return found.code if found else ""


def lives(rig: Rig, steps: int = 60) -> bool:
    """Starts the agent and lets it work; False when it died of it."""
    try:
        rig.engine.recover()
        for _ in range(steps):
            rig.clock.now += rig.engine.step() or 0
    except DiedError:
        return False
    return True


def test_the_only_bundle_that_kills_the_process_is_given_up(
    rig: Rig, root: Path, repository: MemoryRepository
) -> None:
    """At starts, and once more as an update with a self-test; then another one can come."""
    rig.close()
    deaths = 0
    for _ in range(20):
        rig = Rig(Disk(), root, repository)
        breaking(rig, OLD, DiedError)
        if lives(rig):
            break
        deaths += 1
    assert deaths == MAX_LOADS + TrialRules().max_restarts
    assert (rig.events[-1].state, reason(rig)) == ("rolled-back", "trial-restarts")
    assert rig.models.slots == []
    rig.want(NEW, 2)
    rig.settle()
    assert rig.answer().bundle == NEW
    rig = start(root, repository)
    assert rig.answer().bundle == NEW


def test_a_bundle_that_was_given_up_comes_again_when_the_cause_is_gone(
    rig: Rig, root: Path, repository: MemoryRepository
) -> None:
    """Three power cuts in loads are no fault of the bundle: nothing new has to be desired."""
    for _ in range(MAX_LOADS):
        rig = Rig(Disk(), root, repository)
        breaking(rig, OLD, DiedError)
        assert not lives(rig)
    rig = start(root, repository)
    assert problem(rig) == "load-crashed"
    rig.settle()
    assert (rig.events[-1].state, problem(rig)) == ("committed", "")
    assert rig.answer().bundle == OLD
    rig = start(root, repository)
    assert (problem(rig), rig.answer().bundle) == ("", OLD)


@pytest.mark.parametrize("previous", ["dies", "refused"])
def test_two_bundles_that_fail_at_the_start_end_in_an_agent_that_runs(
    rig: Rig, root: Path, repository: MemoryRepository, previous: str
) -> None:
    """The runtime was upgraded, and none of them is for it: the next update can still come."""
    rig.want(NEW, 2)
    rig.settle()
    rig.close()
    deaths = 0
    for _ in range(30):
        rig = Rig(Disk(), root, repository)
        breaking(rig, NEW, DiedError)
        breaking(
            rig,
            OLD,
            DiedError if previous == "dies" else lambda: RefusedError("no-runtime", "gone"),
        )
        if lives(rig):
            break
        deaths += 1
    assert deaths <= 3 * MAX_LOADS
    for _ in range(3):
        rig = Rig(Disk(), root, repository)
        breaking(rig, NEW, DiedError)
        breaking(rig, OLD, DiedError)
        assert lives(rig)


# Several at once. -------------------------------------------------------------------------------


def two_slots(rig: Rig, revision: int, **wishes: DesiredBundle) -> None:
    """Offers a document for several slots."""
    rig.engine.offer(Desired(revision, wishes))  # type: ignore[arg-type]


def test_a_slot_that_does_not_load_costs_the_others_nothing(
    rig: Rig, root: Path, repository: MemoryRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried every five minutes, however often the trial of another slot is looked at."""
    rig.close()
    rig = Rig(Disk(), root, repository)
    loads: list[str] = []
    real = rig.models.activate

    def activate(slot: str, folder: Path | None) -> None:
        if folder is not None:
            loads.append(slot)
            if slot == "classify":
                raise RefusedError("no-runtime", "gone")
        real(slot, folder)

    monkeypatch.setattr(rig.models, "activate", activate)
    rig.engine.recover()
    two_slots(
        rig, 2, classify=DesiredBundle(OLD), other=DesiredBundle(NEW, trial=TrialRules(seconds=600))
    )
    began = rig.clock.now
    for _ in range(2000):
        if rig.engine.journal.reached == 2:
            break
        rig.clock.now += rig.engine.step() or 0
    assert rig.engine.journal.reached == 2
    assert loads.count("classify") <= 2 + (rig.clock.now - began) / PROBLEM_S
    assert rig.engine.slots()["other"].active == NEW


def test_a_shadow_is_rolled_back_beside_an_active_bundle_that_does_not_load(
    rig: Rig, root: Path, repository: MemoryRepository
) -> None:
    """And what is desired next begins."""
    rig.close()
    rig = Rig(Disk(), root, repository)
    broken = [True]
    breaking(rig, OLD, lambda: RefusedError("no-runtime", "gone") if broken else None)
    breaking(rig, NEW, lambda: RefusedError("model-failed", "no") if broken else None)
    rig.engine.recover()
    rig.want(NEW, 2, mode="shadow")
    for _ in range(50):
        rig.clock.now += rig.engine.step() or 0
    assert (rig.events[-1].state, reason(rig)) == ("rolled-back", "model-failed")
    broken.clear()
    rig.want(NEW, 3)
    rig.settle()
    assert rig.answer().bundle == NEW


def test_a_shadow_that_the_disk_refuses_at_the_start_is_tried_again(
    rig: Rig, root: Path, repository: MemoryRepository
) -> None:
    """It is reported, so it has to answer."""
    rig.want(NEW, 2, mode="shadow")
    rig.settle()
    rig.close()
    errors = iter([OSError(errno.ENOMEM, "Cannot allocate memory")] * 3)
    rig = Rig(Disk(), root, repository)
    breaking(rig, NEW, lambda: next(errors, None))
    rig.engine.recover()
    assert rig.models.slots == ["classify"]
    rig.settle()
    assert rig.models.slots == ["classify", "classify/shadow"]


@pytest.mark.parametrize("links", [1, 2])
def test_bundles_that_the_system_refuses_for_long_are_a_problem_that_is_told(
    rig: Rig, root: Path, repository: MemoryRepository, links: int
) -> None:
    """A minute for each of them."""
    if links == 2:
        rig.want(NEW, 2)
        rig.settle()
    rig.close()
    rig = Rig(Disk(), root, repository)
    for ref in (OLD, NEW):
        breaking(rig, ref, lambda: OSError(errno.EACCES, "Permission denied"))
    rig.engine.recover()
    began = rig.clock.now
    pause = 0.0
    while not problem(rig) and rig.clock.now - began < 1000:
        rig.clock.now += pause
        pause = rig.engine.step() or 1
    assert problem(rig) == "disk-error"
    assert links * PATIENCE_S <= rig.clock.now - began <= links * (PATIENCE_S + UNSERVED_S)


def test_patience_with_a_bundle_begins_anew_when_another_one_has_served(rig: Rig) -> None:
    """Refused for a minute once, it gets its minute again the next time."""
    refused = [True]
    breaking(rig, NEW, lambda: OSError(errno.ENOMEM, "none left") if refused else None)
    for revision in (2, 3):
        rig.want(NEW, revision, trial=TrialRules(seconds=1))
        step_to(rig, "trial")
        began = rig.clock.now
        rig.settle()
        assert (rig.events[-1].state, reason(rig)) == ("rolled-back", "no-resources")
        assert rig.clock.now - began >= PATIENCE_S
    assert rig.answer().bundle == OLD


def test_a_rollback_to_bundles_that_the_system_refuses_ends(rig: Rig) -> None:
    """The bundle that failed its trial does not serve for ever."""
    rig.want(NEW, 2, trial=LONG)
    step_to(rig, "trial")
    breaking(rig, OLD, lambda: OSError(errno.ENOMEM, "Cannot allocate memory"))
    fail_the_trial(rig)
    began = rig.clock.now
    for _ in range(200):
        rig.clock.now += rig.engine.step() or 0
        if rig.events[-1].state == "rolled-back":
            break
    assert (rig.events[-1].state, reason(rig)) == ("rolled-back", "trial-errors")
    assert rig.clock.now - began <= 4 * PATIENCE_S
    assert rig.models.slots == []


def test_what_took_the_place_of_a_damaged_bundle_is_kept_as_the_previous_one(
    rig: Rig, root: Path, repository: MemoryRepository, tmp_path: Path
) -> None:
    """It served when the new one came: that is what a later failure falls back to."""
    Bundle.open(TINY_NEXT).extract(tmp_path / "third")
    third = repository.add(rewrite(Bundle.open(tmp_path / "third"), version="1.2.0").path)
    rig.want(NEW, 2)
    rig.settle()
    rig.want(third, 3)
    step_to(rig, "fits")
    rig.close()
    (root / "releases" / NEW.manifest_sha256 / MANIFEST).unlink()
    rig = start(root, repository)
    assert (rig.active(), rig.answer().bundle) == (OLD, OLD)
    rig.settle()
    report = rig.engine.slots()["classify"]
    assert (report.active, report.previous) == (third, OLD)


@pytest.mark.parametrize("link", ["current", "shadow"])
def test_a_bundle_that_kills_the_process_at_its_start_gives_way(
    rig: Rig, root: Path, repository: MemoryRepository, link: str
) -> None:
    """It served before; something else of the device changed."""
    rig.want(NEW, 2, mode="active" if link == "current" else "shadow")
    rig.settle()
    rig.close()
    for deaths in range(MAX_LOADS + 1):
        rig = Rig(Disk(), root, repository)
        breaking(rig, NEW, DiedError)
        if deaths < MAX_LOADS:
            with pytest.raises(DiedError):
                rig.engine.recover()
    rig.engine.recover()
    assert (rig.active(), rig.answer().bundle) == (OLD, OLD)
    assert rig.engine.store.linked("classify", "shadow") is None


def test_starts_that_are_cut_elsewhere_count_for_no_bundle(
    rig: Rig, root: Path, repository: MemoryRepository
) -> None:
    """A board that browns out after the load, again and again, keeps its model."""
    for _ in range(3 * MAX_LOADS):
        rig = start(root, repository)  # never closed in order
        assert rig.answer().bundle == OLD


def test_marks_of_loads_survive_and_never_stand_in_the_way(tmp_path: Path) -> None:
    """Counted by bundle, forgotten at the end; not whole or not writable: as if none were."""
    marks = LoadingMarks(Disk(), tmp_path)
    assert [marks.begin("a", "x") for _ in range(3)] == [0, 1, 2]
    assert LoadingMarks(Disk(), tmp_path).begin("a", "x") == 3
    assert LoadingMarks(Disk(), tmp_path).begin("a", "y") == 0
    assert LoadingMarks(Disk(), tmp_path).begin("a", "x") == 4
    marks = LoadingMarks(Disk(), tmp_path)
    marks.end("a", "y")
    assert LoadingMarks(Disk(), tmp_path).begin("a", "y") == 0
    (tmp_path / "loading").write_bytes(b'{"a": [')
    assert LoadingMarks(Disk(), tmp_path).begin("a", "y") == 0
    assert LoadingMarks(Disk(), tmp_path / "missing").begin("a", "y") == 0


# What is on the disk already. -------------------------------------------------------------------


def test_files_that_are_there_are_checked_before_they_are_used(
    rig: Rig, root: Path, repository: MemoryRepository
) -> None:
    """Going back to a bundle that rotted meanwhile fetches what is damaged, and no more."""
    rig.want(NEW, 2)
    rig.settle()
    damage(root, TINY)
    repository.reads.clear()
    rig.want(OLD, 3)
    rig.settle()
    assert rig.events[-1].state == "committed"
    assert rig.answer().bundle == OLD
    assert {path for path, _ in repository.reads if not path.startswith("deltas/")} == {
        f"blobs/{Bundle.open(TINY).entry(MODEL).sha256}"
    }


def test_a_release_that_was_half_removed_is_made_again(rig: Rig, root: Path) -> None:
    """A power cut while it was collected."""
    rig.want(NEW, 2)
    rig.settle()
    (root / "releases" / OLD.manifest_sha256 / MODEL).unlink()
    rig.want(OLD, 3)
    rig.settle()
    assert rig.events[-1].state == "committed"
    assert rig.answer().bundle == OLD


def test_an_old_file_that_the_disk_does_not_give_costs_the_delta_alone(
    rig: Rig, root: Path, repository: MemoryRepository
) -> None:
    """The whole file comes instead."""
    rig.close()
    old, new = Bundle.open(TINY), Bundle.open(TINY_NEXT)
    was, becomes = old.entry(MODEL), new.entry(MODEL)
    name = f"deltas/{was.sha256[:2]}/{was.sha256}-{becomes.sha256}.zst"
    packed = delta.make(old.read(MODEL), new.read(MODEL))
    assert packed is not None
    repository.files[name] = packed
    rig = start(root, repository, fs=BadSectors(was.sha256))
    rig.want(NEW, 2)
    rig.settle()
    assert rig.events[-1].state == "committed"
    assert rig.answer().bundle == NEW


@pytest.mark.parametrize("bad", [("journal.0",), ("journal.1",), ("journal.0", "journal.1")])
def test_a_journal_on_bad_sectors_keeps_no_agent_from_starting(
    rig: Rig, root: Path, repository: MemoryRepository, bad: tuple[str, ...]
) -> None:
    """The other file counts, or the links alone; new files are written from then on."""
    rig.close()
    rig = start(root, repository, fs=BadSectors(*bad))
    assert rig.answer().bundle == OLD
    assert {path.name for path in root.glob("journal.*.bad")} == {f"{name}.bad" for name in bad}
    rig.want(NEW, 2)
    rig.settle()
    assert rig.answer().bundle == NEW
    rig.close()
    rig = start(root, repository)
    assert rig.engine.journal.reached == 2
