"""The journal's two files: the newest that is whole counts, whatever a crash left of the other."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from agent.system.filesystem import Disk
from agent.update.journal import NAMES, Journal, JournalFiles
from tests.support.faulty_disk import CRASHES, ERRORS, Fault, FaultyDisk, PowerCut


def written(folder: Path, *numbers: int) -> JournalFiles:
    """The files after these journals, told apart by the number of their next event."""
    files = JournalFiles(Disk(), folder)
    files.load()
    for number in numbers:
        files.save(Journal(event_seq=number))
    return files


def read(folder: Path) -> int:
    """The number of the journal that a start finds."""
    return JournalFiles(Disk(), folder).load().event_seq


def test_the_newest_is_read(tmp_path: Path) -> None:
    """After one write, two, and more, and after a start between them."""
    assert read(tmp_path) == 0
    for number in range(1, 6):
        written(tmp_path, number)
        assert read(tmp_path) == number
    written(tmp_path, 6, 7, 8)
    assert read(tmp_path) == 8
    assert sorted(file.name for file in tmp_path.iterdir()) == list(NAMES)


@pytest.mark.parametrize("saves", [1, 2, 3, 4])
@pytest.mark.parametrize("fault", CRASHES)
def test_what_was_saved_survives_a_crash_in_the_next_write(
    tmp_path: Path, fault: Fault, saves: int
) -> None:
    """The first ones too, whose files have just been made."""
    disk = FaultyDisk(tmp_path)
    files = JournalFiles(disk, tmp_path)
    files.load()
    for number in range(1, saves + 1):
        files.save(Journal(event_seq=number))
    disk.at, disk.fault = len(disk.operations), fault
    with pytest.raises(PowerCut):
        files.save(Journal(event_seq=saves + 1))
    assert read(tmp_path) == saves


@pytest.mark.parametrize("left", [0, 1, 70, -1])
def test_a_torn_write_leaves_the_one_before(tmp_path: Path, left: int) -> None:
    """And the next writes go on from there, over the torn file first."""
    written(tmp_path, 1, 2, 3)
    newest = max(tmp_path.iterdir(), key=lambda file: b'"number":3' in file.read_bytes())
    newest.write_bytes(newest.read_bytes()[:left])
    assert read(tmp_path) == 2
    written(tmp_path, 4)
    assert read(tmp_path) == 4
    assert b'"number":2' in next(f for f in tmp_path.iterdir() if f != newest).read_bytes()


def test_a_record_that_reads_well_and_is_not_what_was_written_is_not_believed(
    tmp_path: Path,
) -> None:
    """Old and new bytes mixed can be good JSON."""
    written(tmp_path, 1, 2, 3)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes().replace(b'"event_seq":3', b'"event_seq":9'))
    assert read(tmp_path) == 2


def test_a_longer_record_leaves_nothing_behind_a_shorter_one(tmp_path: Path) -> None:
    """Files are overwritten in place."""
    written(tmp_path, 10**12, 10**12, 1, 2)
    assert read(tmp_path) == 2
    assert all(file.read_bytes().endswith(b"}") for file in tmp_path.iterdir())


def test_what_nobody_can_read_is_set_aside(tmp_path: Path) -> None:
    """A new journal begins, and the old files are kept for a person."""
    for name in NAMES:
        (tmp_path / name).write_bytes(b"nonsense")
    written(tmp_path, 1)
    assert read(tmp_path) == 1
    assert {file.name for file in tmp_path.iterdir()} == {
        *(f"{name}.bad" for name in NAMES),
        NAMES[1],
    }


@pytest.mark.parametrize("fault", ERRORS)
@pytest.mark.parametrize("at", [0, 1])
def test_a_write_that_fails_is_done_again_over_the_same_file(
    tmp_path: Path, fault: Fault, at: int
) -> None:
    """Never over the one that holds the newest whole journal."""
    written(tmp_path, 1, 2)
    disk = FaultyDisk(tmp_path)
    files = JournalFiles(disk, tmp_path)
    files.load()
    disk.at, disk.fault = len(disk.operations) + at, fault
    for _ in range(3):
        with pytest.raises(OSError) as caught:
            files.save(Journal(event_seq=3))
        assert caught.value.errno in (errno.ENOSPC, errno.EIO)
        assert read(tmp_path) in (2, 3)
        disk.at = len(disk.operations) + at
    disk.at = None
    files.save(Journal(event_seq=3))
    files.save(Journal(event_seq=4))
    assert read(tmp_path) == 4
