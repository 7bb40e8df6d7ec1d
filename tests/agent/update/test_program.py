"""Updates of the agent's own program: the engine and the starter, from start to start."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from agent.system.filesystem import Disk
from agent.update import delta
from contracts import program, release
from contracts.desired import Desired, TrialRules
from fleet.repository.delta import make
from tests.support.engine import Rig
from tests.support.program import BASE, TARGET, Folders, ProgramDevice, Releases, ref, want


@pytest.fixture
def device(tmp_path: Path) -> ProgramDevice:
    """One as the installer leaves it, and a repository with three versions."""
    made = ProgramDevice(tmp_path, Releases("1.1.0", "1.2.0", "0.9.0"))
    made.install()
    return made


def states(rig: Rig) -> list[str]:
    """The states that the last run told of."""
    return [event.state for event in rig.events]


def test_a_new_release_is_installed_tried_and_kept(device: ProgramDevice) -> None:
    """It runs after one start on trial, is reported, and nothing of the trial is left."""
    rig = device.run(Disk(), want("1.1.0", 2))
    assert device.started == [BASE, "1.1.0"]
    assert rig.engine.slots()[program.SLOT].active == ref("1.1.0")
    assert not rig.engine.slots()[program.SLOT].trial
    assert rig.engine.journal.reached == 2
    assert rig.events[-1].state == "committed"
    left = sorted(path.name for path in device.home.iterdir())
    assert left == ["blobs", "current", "fetched.json", "partial", "releases"]
    device.run(Disk(), want("1.1.0", 2))
    assert device.started[-1] == "1.1.0"


def test_an_older_release_is_installed_when_it_is_wanted(device: ProgramDevice) -> None:
    """Going back on purpose is an update like any other."""
    device.run(Disk(), want("1.1.0", 2))
    rig = device.run(Disk(), want("0.9.0", 3))
    assert device.started[-1] == "0.9.0"
    assert rig.engine.slots()[program.SLOT].active == ref("0.9.0")


def test_no_more_than_two_releases_stay_on_the_disk(device: ProgramDevice) -> None:
    """The one that runs, and the one before it; older ones go before the next is fetched."""
    for revision, version in enumerate(("1.1.0", "1.2.0", "0.9.0", "1.1.0"), start=2):
        device.run(Disk(), want(version, revision))
        names = {path.name for path in (device.home / "releases").iterdir()}
        assert ref(version).manifest_sha256 in names
        assert len(names) <= 2


def test_the_release_before_comes_back_without_a_download(device: ProgramDevice) -> None:
    """It is still there."""
    device.run(Disk(), want("1.1.0", 2))
    device.run(Disk(), want("1.2.0", 3))
    sent = device.releases.sent
    device.run(Disk(), want("1.1.0", 4))
    assert device.releases.sent == sent
    assert device.started[-1] == "1.1.0"


def test_the_next_archive_comes_as_a_delta_from_the_one_that_runs(device: ProgramDevice) -> None:
    """The wheels of two versions are mostly the same."""
    device.run(Disk(), want("1.1.0", 2))
    files = device.releases.files
    old, new = (device.releases.targets[release.target(v, *TARGET)] for v in ("1.1.0", "1.2.0"))
    whole = files.pop(f"blobs/{new.sha256}")
    patch = make(files[f"blobs/{old.sha256}"], whole)
    assert patch is not None
    files[delta.path(old.sha256, new.sha256)] = patch
    device.run(Disk(), want("1.2.0", 3))
    assert device.started[-1] == "1.2.0"


def test_a_download_that_broke_off_goes_on_where_it_was(device: ProgramDevice) -> None:
    """Also after another start."""
    signed = device.releases.targets[release.target("1.1.0", *TARGET)]
    whole = device.releases.files[f"blobs/{signed.sha256}"]
    (device.home / "partial").mkdir()
    (device.home / "partial" / signed.sha256).write_bytes(whole[:5000])
    device.run(Disk(), want("1.1.0", 2))
    assert device.releases.reads == [(f"blobs/{signed.sha256}", 5000)]


def test_a_release_that_crashes_at_its_start_is_given_up_by_the_starter(
    device: ProgramDevice,
) -> None:
    """After as many starts as the trial allows; the old one says why, and does not try again."""
    device.crashing = ("1.1.0",)
    rig = device.run(Disk(), want("1.1.0", 2, TrialRules(seconds=1, max_restarts=2)))
    assert device.started == [BASE, "1.1.0", "1.1.0", BASE]
    assert rig.engine.slots()[program.SLOT].active == ref(BASE)
    last = rig.engine.journal.last_event
    assert last is not None
    assert last.state == "rolled-back"
    assert last.reason is not None
    assert last.reason.code == "trial-restarts"
    device.run(Disk(), want("1.1.0", 2))
    assert device.started[-1] == BASE
    assert len(device.started) == 5


def test_a_release_that_was_given_up_is_tried_again_at_a_new_revision(
    device: ProgramDevice,
) -> None:
    """What failed once may have been the device's fault."""
    device.crashing = ("1.1.0",)
    device.run(Disk(), want("1.1.0", 2))
    device.crashing = ()
    rig = device.run(Disk(), want("1.1.0", 3))
    assert device.started[-1] == "1.1.0"
    assert rig.engine.slots()[program.SLOT].active == ref("1.1.0")


def test_a_release_that_does_not_reach_the_broker_goes_back_by_itself(
    device: ProgramDevice,
) -> None:
    """A device that nobody can reach is lost, however well its program runs."""
    device.deaf = ("1.1.0",)
    rig = device.run(Disk(), want("1.1.0", 2))
    assert device.started == [BASE, "1.1.0", BASE]
    last = rig.engine.journal.last_event
    assert last is not None
    assert last.reason is not None
    assert last.reason.code == "trial-offline"


def test_a_release_whose_self_test_fails_is_never_started(device: ProgramDevice) -> None:
    """It is refused, and its environment is gone."""
    device.failing = ("1.1.0",)
    rig = device.run(Disk(), want("1.1.0", 2))
    assert device.started == [BASE]
    last = rig.engine.journal.last_event
    assert last is not None
    assert last.state == "refused"
    assert not list((device.home / "releases").iterdir())


def test_an_agent_without_a_starter_refuses_and_says_why(tmp_path: Path) -> None:
    """Nothing is fetched: there would be nobody to go back."""
    releases = Releases("1.1.0")
    rig = Rig(Disk(), tmp_path, releases)
    rig.engine.recover()
    rig.engine.offer(want("1.1.0", 2))
    rig.settle()
    assert rig.events[-1].state == "refused"
    assert rig.events[-1].reason is not None
    assert rig.events[-1].reason.code == "program-fixed"
    assert "starter" in rig.events[-1].reason.message
    assert releases.reads == []
    assert rig.engine.slots() == {}


def test_a_device_keeps_its_release_when_desired_names_none(device: ProgramDevice) -> None:
    """Slots that are not named are emptied; a device without a program would be lost."""
    device.run(Disk(), want("1.1.0", 2))
    rig = device.run(Disk(), Desired(3))
    assert device.started[-1] == "1.1.0"
    assert rig.engine.journal.reached == 3
    assert rig.engine.slots()[program.SLOT].active == ref("1.1.0")


def test_a_release_that_is_not_signed_is_refused(device: ProgramDevice) -> None:
    """The controller may ask for what it wants; the signed list decides."""
    rig = device.run(Disk(), want("3.0.0", 2))
    assert rig.events[-1].state == "refused"
    assert rig.events[-1].reason is not None
    assert rig.events[-1].reason.code == "not-published"


def test_a_wish_that_changes_in_the_trial_goes_back_first(device: ProgramDevice) -> None:
    """The trial ends, the old release runs, and takes what is wanted now."""
    rig = device.start(Disk())
    assert rig is not None
    rig.engine.offer(want("1.1.0", 2, TrialRules(seconds=3600)))
    while not device.again:
        rig.engine.step()
    rig = device.run(Disk(), want("1.2.0", 3))
    assert device.started == [BASE, "1.1.0", BASE, "1.2.0"]
    assert rig.engine.slots()[program.SLOT].active == ref("1.2.0")


def test_a_disk_that_is_full_is_told_once_and_waited_for(
    device: ProgramDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is fetched, the wait names what is needed, and room is enough to go on."""
    free = [1000]
    monkeypatch.setattr(Disk, "free_bytes", lambda self, folder: free[0])
    rig = device.start(Disk())
    assert rig is not None
    rig.engine.offer(want("1.1.0", 2))
    for _ in range(20):
        rig.clock.now += rig.engine.step() or 0.0
    (wait,) = rig.engine.waits()
    assert wait.reason.code == "disk-full"
    assert "make room" in wait.reason.message
    assert [event.reason for event in rig.events if event.reason].count(wait.reason) <= 1
    assert device.releases.reads == []
    free[0] = 1 << 40
    device.run(Disk(), want("1.1.0", 2))
    assert device.started[-1] == "1.1.0"


def test_a_disk_that_fills_after_the_download_is_not_filled_again_and_again(
    device: ProgramDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment is not begun before there is room for it."""
    free, built = [1 << 40], [0]
    build = Folders.build

    def full(self: Folders, archive: Path, folder: Path, version: str) -> None:
        built[0] += 1
        if free[0] < 1 << 40:
            raise OSError(errno.ENOSPC, "no room")
        build(self, archive, folder, version)

    monkeypatch.setattr(Disk, "free_bytes", lambda self, folder: free[0])
    monkeypatch.setattr(Folders, "build", full)
    rig = device.start(Disk())
    assert rig is not None
    rig.engine.offer(want("1.1.0", 2))
    while rig.engine.journal.update is None or rig.engine.journal.update.state != "fits":
        rig.engine.step()
    free[0] = 1000
    for _ in range(20):
        rig.clock.now += rig.engine.step() or 0.0
    assert built[0] == 0
    assert rig.engine.waits()[0].reason.code == "disk-full"
    free[0] = 1 << 40
    device.run(Disk(), want("1.1.0", 2))
    assert device.started[-1] == "1.1.0"


def test_a_bundle_of_another_name_in_the_slot_is_a_model() -> None:
    """Fleets may have had a slot of this name before."""
    bundle = ref("1.1.0")
    assert program.is_program("agent", bundle)
    assert not program.is_program("classify", bundle)
    other = type(bundle)("other", bundle.version, bundle.manifest_sha256)
    assert not program.is_program("agent", other)
