"""The update fails once at every file-system operation, in every way; the device survives.

After MCUboot's simulator, which interrupts a firmware update at every flash operation: here
each operation of an update from one bundle to the next is, in turn, the last before a crash
(killed process, power cut that loses what was not synced, power cut that tears it) or refuses
(disk full, input/output error). After each the device must serve the old or the new bundle,
whole, and finish the update.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import pytest

from agent.system.filesystem import Disk
from contracts.bundle import Bundle
from contracts.desired import Desired
from tests.support.controller import TINY, TINY_NEXT
from tests.support.engine import MemoryRepository, Rig, copy_state
from tests.support.faulty_disk import CRASHES, ERRORS, Fault, FaultyDisk, PowerCut

OLD = Bundle.open(TINY).ref
NEW = Bundle.open(TINY_NEXT).ref


class QuickDisk(Disk):
    """The disk after the restart. Its syncs are trusted, and waited for in other tests."""

    def sync(self, path: Path) -> None:
        """Nothing: no second crash follows."""

    def sync_folder(self, folder: Path) -> None:
        """Nothing: no second crash follows."""


@pytest.fixture(scope="module")
def repository() -> MemoryRepository:
    """Both bundles."""
    return MemoryRepository(TINY, TINY_NEXT)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, repository: MemoryRepository) -> Path:
    """A device's state folder that runs the old bundle."""
    root = tmp_path_factory.mktemp("installed")
    rig = Rig(Disk(), root, repository)
    rig.engine.recover()
    rig.want(OLD, 1)
    rig.settle()
    assert rig.active() == OLD
    rig.close()
    return root


def update_until(disk: FaultyDisk, repository: MemoryRepository) -> Rig:
    """Starts, updates to the new bundle, and lets the fault happen."""
    rig = Rig(disk, disk.root, repository)
    try:
        rig.engine.recover()
        rig.want(NEW, 2)
        rig.settle()
    except BaseException:
        rig.close()
        raise
    return rig


def check_serves_whole(rig: Rig, root: Path) -> None:
    """What answers is the old or the new bundle, whole on disk, and right."""
    answer = rig.answer()
    assert answer.bundle in (OLD, NEW)
    assert answer.label == "lights-on"
    current = root / "slots" / "classify" / "current"
    Bundle.open(current).verify()


def check_finished(rig: Rig, root: Path) -> None:
    """The update ended with the new bundle, and nothing is left over."""
    assert rig.engine.journal.update is not None
    assert rig.engine.journal.update.state == "committed"
    assert rig.active() == NEW
    check_serves_whole(rig, root)
    assert rig.answer().bundle == NEW
    report = rig.engine.store.report("classify")
    assert report.previous == OLD
    Bundle.open(root / "slots" / "classify" / "previous").verify()
    assert not list((root / "partial").iterdir())


def count_operations(installed: Path, repository: MemoryRepository, folder: Path) -> list[str]:
    """The operations of an undisturbed update."""
    disk = FaultyDisk(copy_state(installed, folder))
    rig = update_until(disk, repository)
    operations = list(disk.operations)  # the checks below operate too
    check_finished(rig, folder)
    rig.close()
    return operations


@pytest.mark.parametrize("fault", CRASHES)
def test_a_crash_at_every_operation(
    fault: Fault,
    installed: Path,
    repository: MemoryRepository,
    tmp_path: Path,
    record_property: pytest.RecordProperty,
) -> None:
    """Dies at each operation; the next start serves old or new, and finishes the update."""
    operations = count_operations(installed, repository, tmp_path / "count")
    root = tmp_path / "state"
    for at, name in enumerate(operations):
        disk = FaultyDisk(copy_state(installed, root), at, fault)
        with pytest.raises(PowerCut):
            update_until(disk, repository)
        where = f"{fault} at operation {at} ({name})"
        rig = Rig(QuickDisk(), root, repository)
        try:
            rig.engine.recover()
            check_serves_whole(rig, root)
            # The desired document is retained: the broker sends it again.
            rig.want(NEW, 2)
            rig.settle()
            check_finished(rig, root)
        except BaseException as error:
            raise AssertionError(where) from error
        finally:
            rig.close()
    record_property("operations", len(operations))
    print(f"{fault}: {len(operations)} of {len(operations)} operations: {Counter(operations)}")
    assert len(operations) > 80


@pytest.mark.parametrize("fault", ERRORS)
def test_a_refusal_at_every_operation(
    fault: Fault, installed: Path, repository: MemoryRepository, tmp_path: Path
) -> None:
    """Each operation refuses once; the agent lives, serves, and finishes the update."""
    operations = count_operations(installed, repository, tmp_path / "count")
    root = tmp_path / "state"
    for at, name in enumerate(operations):
        disk = FaultyDisk(copy_state(installed, root), at, fault)
        where = f"{fault} at operation {at} ({name})"
        try:
            rig = update_until(disk, repository)
            assert disk.fired
            check_finished(rig, root)
        except BaseException as error:
            raise AssertionError(where) from error
        rig.close()
    print(f"{fault}: {len(operations)} of {len(operations)} operations")


def test_two_crashes_in_one_update(
    installed: Path, repository: MemoryRepository, tmp_path: Path
) -> None:
    """The restart after a power cut loses power too, at each of its operations (thinned)."""
    operations = count_operations(installed, repository, tmp_path / "count")
    root = tmp_path / "state"
    for first in range(7, len(operations), 13):
        second = 0
        while True:
            with pytest.raises(PowerCut):
                update_until(
                    FaultyDisk(copy_state(installed, root), first, "power-cut"), repository
                )
            disk = FaultyDisk(root, second, "torn")
            with contextlib.suppress(PowerCut):
                update_until(disk, repository).close()
            rig = Rig(QuickDisk(), root, repository)
            try:
                rig.engine.recover()
                check_serves_whole(rig, root)
                rig.want(NEW, 2)
                rig.settle()
                check_finished(rig, root)
            except BaseException as error:
                raise AssertionError(f"power cuts at {first} and then {second}") from error
            finally:
                rig.close()
            if not disk.fired:
                break
            second += 11


def empty_until(disk: FaultyDisk, repository: MemoryRepository) -> Rig:
    """Starts, is told that nothing is desired, and lets the fault happen."""
    rig = Rig(disk, disk.root, repository)
    try:
        rig.engine.recover()
        rig.engine.offer(Desired(2))
        rig.settle()
    except BaseException:
        rig.close()
        raise
    return rig


def check_emptied(rig: Rig, root: Path) -> None:
    """Nothing serves, nothing is reported, and nothing is left on disk."""
    assert rig.models.slots == []
    assert rig.engine.slots() == {}
    assert rig.engine.journal.reached == 2
    for folder in ("slots", "releases", "blobs", "partial"):
        assert not list((root / folder).iterdir()), folder


@pytest.mark.parametrize("fault", [*CRASHES, *ERRORS])
def test_a_slot_that_is_not_desired_is_emptied_whatever_happens_at_any_operation(
    fault: Fault, installed: Path, repository: MemoryRepository, tmp_path: Path
) -> None:
    """A model that must not serve is gone after the next start, or the next try."""
    root = tmp_path / "state"
    disk = FaultyDisk(copy_state(installed, root))
    empty_until(disk, repository).close()
    operations = list(disk.operations)
    for at, name in enumerate(operations):
        disk = FaultyDisk(copy_state(installed, root), at, fault)
        try:
            try:
                rig = empty_until(disk, repository)
            except PowerCut:
                rig = Rig(QuickDisk(), root, repository)
                rig.engine.recover()
                rig.engine.offer(Desired(2))
                rig.settle()
            assert disk.fired
            check_emptied(rig, root)
        except BaseException as error:
            raise AssertionError(f"{fault} at operation {at} ({name})") from error
        rig.close()
    assert len(operations) > 20
