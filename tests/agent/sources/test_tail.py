"""Following a file: rotation, truncation, errors. The clock is the test's, the files are real."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.sources.feed import Feed
from agent.sources.lines import MAX_LINE_BYTES
from agent.sources.readers import FIRST_PAUSE_S, MAX_PAUSE_S, keep_reading
from agent.sources.tail import KEEP_S, MAX_OPEN, OVERLAP_S, POLL_S, QUIET_S, Tail
from tests.support.engine import FakeClock


class Taken(Feed):
    """Keeps lines and failures."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.stop = threading.Event()
        self.lines: list[bytes] = []
        self.failures: list[str] = []

    def line(self, data: bytes) -> None:
        """Keeps a line."""
        self.lines.append(data)

    def failed(self, error: Exception) -> None:
        """Keeps a failure."""
        self.failures.append(str(error))


class Bench:
    """A log, a program that writes to it, and the agent that reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "app.log"
        self.path.touch()
        self.feed = Taken()
        self.tail = Tail(self.feed, self.path)
        self.rotations = 0
        self.writer = self.path.open("ab", buffering=0)
        self.passes(0)

    def passes(self, seconds: float = 1.0) -> None:
        """Time passes, and the agent looks as it does."""
        end = self.feed.clock.now + seconds
        while True:
            while self.tail.step():
                pass
            if self.feed.clock.now >= end:
                return
            self.feed.clock.now += POLL_S

    def take(self) -> list[bytes]:
        """The lines that came since the last call."""
        lines, self.feed.lines[:] = list(self.feed.lines), []
        return lines

    def write(self, *lines: str) -> None:
        """The program writes to what it has open."""
        for line in lines:
            self.writer.write(line.encode() + b"\n")

    def rotate(self) -> None:
        """As logrotate does: rename, create; the program is told later."""
        self.rotations += 1
        self.path.rename(self.folder / f"app.log.{self.rotations}")
        self.path.touch()

    def reopen(self) -> None:
        """The program was told."""
        self.writer.close()
        self.writer = self.path.open("ab", buffering=0)

    def open_files(self) -> int:
        """Files of the folder that this process has open, the writer's left out."""
        found = 0
        for handle in Path("/proc/self/fd").iterdir():
            try:
                found += str(handle.readlink()).startswith(str(self.folder))
            except OSError:
                continue
        return found - 1


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A bench whose files are closed in the end."""
    one = Bench(tmp_path)
    yield one
    one.feed.stop.set()
    one.tail.run()
    assert one.open_files() == 0
    one.writer.close()


def test_lines_written_after_the_rotation_and_before_the_program_knows_of_it_count(
    bench: Bench,
) -> None:
    """They come before those of the new file."""
    bench.write("before")
    bench.rotate()
    for number in range(5):
        bench.passes(QUIET_S - 1)
        bench.write(f"late {number}")
    bench.reopen()
    bench.write("after")
    bench.passes(QUIET_S - 1)
    assert bench.take() == [b"before", *(b"late %d" % n for n in range(5))]
    bench.passes(2)
    assert bench.take() == [b"after"]
    bench.passes(KEEP_S)
    assert bench.open_files() == 1


def test_a_program_that_reopens_after_a_pause_loses_nothing(bench: Bench) -> None:
    """The old file is looked at for a while yet."""
    bench.rotate()
    bench.passes(KEEP_S - 2)
    bench.write("late")
    bench.passes(1)
    assert bench.take() == [b"late"]


def test_rotations_in_a_row_are_read_in_order_also_while_the_worker_is_busy(bench: Bench) -> None:
    """A line that waits does not keep the agent from seeing the next file."""
    taken = bench.feed.lines

    def slow(data: bytes) -> None:
        taken.append(data)
        bench.feed.clock.now += 1
        if data.startswith(b"0") and bench.rotations < 5:  # while lines of the first file wait
            bench.rotate()
            bench.reopen()
            bench.write(f"{bench.rotations} a", f"{bench.rotations} b")

    bench.feed.line = slow  # type: ignore[method-assign]
    first = [f"0 {number}" for number in range(9)]
    bench.write(*first)
    bench.passes(60)
    rest = [f"{number} {letter}" for number in range(1, 6) for letter in "ab"]
    assert bench.take() == [line.encode() for line in first + rest]


def test_a_program_that_never_reopens_does_not_keep_the_new_file_from_being_read(
    bench: Bench,
) -> None:
    """After a while both are."""
    bench.rotate()
    bench.path.write_bytes(b"of another program\n")
    for _ in range(int(OVERLAP_S) + 1):
        bench.write("on")
        bench.passes(1)
    lines = bench.take()
    assert (lines.count(b"on"), lines.count(b"of another program")) == (OVERLAP_S + 1, 1)
    bench.write("on")
    with bench.path.open("ab") as other:
        other.write(b"more\n")
    bench.passes(1)
    assert bench.take() == [b"on", b"more"]


def test_open_files_are_bounded_and_it_is_told_when_lines_may_be_lost(bench: Bench) -> None:
    """A program keeps all of them busy. When they are quiet it goes on."""
    writers = [bench.path.open("ab", buffering=0)]
    for number in range(MAX_OPEN + 2):
        bench.rotate()
        writers.append(bench.path.open("ab", buffering=0))
        for writer in writers:
            writer.write(b"%d\n" % number)
        bench.passes(POLL_S)
    for writer in writers:
        writer.close()
    assert len(bench.tail._files) == MAX_OPEN
    assert len(bench.feed.failures) == 1
    assert "replaced faster than it is read" in bench.feed.failures[0]
    bench.reopen()
    bench.write("end")
    bench.passes(QUIET_S * 3)
    assert bench.take()[-1] == b"end"
    assert len(bench.tail._files) <= MAX_OPEN
    bench.passes(KEEP_S)
    assert len(bench.tail._files) == 1


def test_the_last_line_of_a_replaced_file_needs_no_end(bench: Bench) -> None:
    """It counts when the file is closed; what comes in between belongs to it."""
    bench.writer.write(b"half")
    bench.rotate()
    bench.passes(QUIET_S + 1)
    bench.writer.write(b" and half")
    bench.passes(KEEP_S - 1)
    assert bench.take() == []
    bench.passes(2)
    assert bench.take() == [b"half and half"]


@pytest.mark.parametrize("head", ["", "# the same header in each file"])
def test_a_file_that_was_cut_and_grew_past_the_old_place_is_read_from_its_start(
    bench: Bench, head: str
) -> None:
    """As with ``copytruncate`` while the worker was busy."""
    bench.write(head, *(f"old {number}" for number in range(9)))
    bench.passes()
    bench.take()
    os.truncate(bench.path, 0)
    new = [head, *(f"new line {number}" for number in range(900))]
    bench.write(*new)
    bench.passes()
    assert bench.take() == [line.encode() for line in new]


def test_a_file_that_is_cut_between_reads_is_not_mixed_with_what_it_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every read that the agent makes."""
    os_pread = os.pread
    for at in range(1, 5):
        bench.write(*(f"old {number}" for number in range(at * 20)))
        bench.passes()
        bench.take()
        bench.write("old")
        reads = 0

        def pread(handle: int, length: int, offset: int, at: int = at) -> bytes:
            nonlocal reads
            reads += 1
            if reads == at:
                os.truncate(bench.path, 0)
                bench.write(*(f"new {number}" for number in range(900)))
            return os_pread(handle, length, offset)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", pread)
            bench.passes()
        assert [x for x in bench.take() if x != b"old"] == [b"new %d" % n for n in range(900)]


def test_a_writer_that_goes_on_at_its_old_place_leaves_a_hole_that_is_no_text(
    bench: Bench,
) -> None:
    """A program that does not append, and ``copytruncate``: seen when it was empty, and not."""
    with bench.path.open("r+b", buffering=0) as writer:
        writer.write(b"x" * 50_000 + b"\n")
        bench.passes()
        bench.take()
        os.truncate(bench.path, 0)
        bench.passes()
        writer.write(b"one\n")
        bench.passes()
        assert bench.take() == [b"one"]
        os.truncate(bench.path, 0)
        writer.write(b"two\n")
        bench.passes()
        writer.write(b"three\n")
        bench.passes()
    assert bench.take() == [b"two", b"three"]


def test_a_file_that_vanishes_is_read_to_its_end_and_comes_back_as_a_new_one(
    bench: Bench,
) -> None:
    """Removed, written to by its handle, and made again."""
    bench.path.unlink()
    bench.write("gone")
    bench.passes(KEEP_S * 2)
    assert bench.take() == [b"gone"]
    bench.reopen()
    bench.write("back")
    bench.passes(QUIET_S + 1)
    assert (bench.take(), bench.feed.failures) == ([b"back"], [])


def test_a_link_that_is_swapped_there_and_back_gives_each_line_once(bench: Bench) -> None:
    """Soon, and long after the other file was closed."""
    link = bench.folder / "now"
    link.symlink_to("app.log")
    bench.feed.stop.set()
    bench.tail.run()
    bench.feed.stop.clear()
    bench.tail = Tail(bench.feed, link)
    bench.write("a" * 300)
    bench.passes()
    assert bench.take() == []
    other = bench.folder / "other.log"
    other.write_bytes(b"b\n")
    expected = [b"b"]
    for number, seconds in enumerate((QUIET_S + 1, QUIET_S + 1, KEEP_S + QUIET_S, KEEP_S * 2)):
        target = ("other.log", "app.log")[number % 2]
        fresh = bench.folder / "fresh"
        fresh.symlink_to(target)
        fresh.replace(link)
        with (bench.folder / target).open("ab") as stream:
            stream.write(b"to %d\n" % number)
        bench.passes(seconds)
        assert bench.take() == [*expected, b"to %d" % number]
        expected = []


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "loop"])
def test_what_is_no_file_is_told_once_and_read_when_it_is_one(bench: Bench, kind: str) -> None:
    """The old file is read meanwhile; nothing hangs."""
    bench.path.unlink()
    if kind == "fifo":
        os.mkfifo(bench.path)
    elif kind == "folder":
        bench.path.mkdir()
    else:
        bench.path.symlink_to("/dev/zero" if kind == "device" else bench.path)
    bench.write("old")
    bench.passes(5)
    assert bench.take() == [b"old"]
    assert len(bench.feed.failures) == 1
    bench.path.rename(bench.folder / "away")
    bench.reopen()
    bench.write("new")
    bench.passes(QUIET_S + 1)
    assert (bench.take(), len(bench.feed.failures)) == ([b"new"], 1)


def test_long_lines_and_bytes_that_are_no_text_come_as_they_are(bench: Bench) -> None:
    """They are refused further on; what follows is whole."""
    bench.writer.write(b"x" * 1_000_000 + b"\n\xff\xfe\xff\n" + b"\0\n" + b"end\n")
    bench.passes()
    assert [line[:5] for line in bench.take()] == [b"xxxxx", b"\xff\xfe\xff", b"\0", b"end"]
    bench.writer.write(b"y" * 100_000)
    bench.rotate()
    bench.passes(KEEP_S + QUIET_S)
    assert [len(line) for line in bench.take()] == [MAX_LINE_BYTES]


def test_after_an_error_of_the_disk_reading_goes_on_where_it_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a line, and after longer and longer pauses."""
    bench.writer.write(b"first\nha")
    bench.passes()
    began = bench.feed.clock.now
    left = 9
    os_pread = os.pread

    def pread(*args: Any) -> bytes:
        nonlocal left
        if left:
            left -= 1
            raise OSError(5, "Input/output error")
        if bench.feed.lines[-1] == b"half":
            bench.feed.stop.set()
        return os_pread(*args)

    monkeypatch.setattr(os, "pread", pread)
    bench.writer.write(b"lf\n")
    keep_reading(bench.feed, bench.tail.run)
    assert bench.take() == [b"first", b"half"]
    assert len(bench.feed.failures) >= 2
    assert FIRST_PAUSE_S <= bench.feed.clock.now - began <= 9 * MAX_PAUSE_S
