"""Follows a file as it grows, over rotation and truncation.

A program that writes a log opens it anew some time after it was rotated, and logrotate makes the
new file before it tells the program to. So a file that was replaced is read on by its handle:
the files after it have to wait until it is quiet for :data:`QUIET_S`, so that lines keep their
order, and it is closed when it is quiet for :data:`KEEP_S`.

The bytes before the place that was reached are remembered. When they are others the file was cut
and written anew (``copytruncate``), and it is read from its start.

Lost are, and nobody can know of it:

- lines that ``copytruncate`` cut off before they were read: they are in the copy alone;
- a file that was cut and has the same :data:`ANCHOR_BYTES` before the same place again: what is
  before that place;
- a file that came and went between two looks, which are :data:`POLL_S` apart, or as long as a
  line waits for the worker;
- what is written to a replaced file after it was closed.

Files that are replaced faster than they are read are kept open, up to :data:`MAX_OPEN`; when more
come it is told.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from agent.sources.feed import Feed
from agent.sources.lines import Lines
from agent.system.log import logger

log = logger(__name__)

POLL_S: Final = 0.2
"""Seconds between two looks at a file."""

QUIET_S: Final = 3.0
"""Seconds without a new byte after which a file that was replaced lets the next ones be read."""

KEEP_S: Final = 60.0
"""Seconds without a new byte after which a file that was replaced is closed. A last line without
an end counts then."""

OVERLAP_S: Final = 60.0
"""Seconds after its replacement after which a file that is never quiet is read beside the next."""

MAX_OPEN: Final = 8
"""Files that are open at once: that of the path, and those before it."""

ANCHOR_BYTES: Final = 256
"""Bytes before the place that was reached, by which the content of a file is known again."""

_MAX_CLOSED: Final = 16
_CHUNK: Final = 16 * 1024


class _Place:
    """How far the content of a file was read.

    Attributes:
        lines: takes its bytes, and has the beginning of its next line.
        offset: of the next byte.
        before: bytes just before that.
    """

    def __init__(self, lines: Lines, offset: int = 0, before: bytes = b"") -> None:
        self.lines = lines
        self.offset = offset
        self.before = before

    def holds(self, handle: int) -> bool:
        """Whether the file has what was read of it."""
        there = os.pread(handle, len(self.before), self.offset - len(self.before))
        if there != self.before and len(there) == len(self.before) and not there.strip(b"\0"):
            self.before = there  # cut, and its writer went on at its old place: a hole before it
        return there == self.before


class _File:
    """An open file.

    Attributes:
        identity: device and inode.
        place: how far it was read.
        active: when it was last seen to have another size.
        replaced: when another file was found at the path; None: this one is there.
        drained: there was nothing left at the last look.
    """

    def __init__(self, handle: int, place: _Place) -> None:
        found = os.fstat(handle)
        self.identity = (found.st_dev, found.st_ino)
        self.place = place
        self.active = 0.0
        self.replaced: float | None = None
        self.drained = False
        self._handle = handle
        self._size = found.st_size
        self._anew = False

    def watch(self, now: float) -> None:
        """Notes whether it grows, also while it is not its turn to be read."""
        size = os.fstat(self._handle).st_size
        if size != self._size:
            self._size = size
            self.active = now

    def read(self) -> bool:
        """Takes the next bytes; whether there were any."""
        data = os.pread(self._handle, _CHUNK, self.place.offset)
        if not self.place.holds(self._handle):  # looked at last: it holds for `data` too
            log.info("source was cut: read from its start")
            self.place.lines.end()
            self.place = _Place(self.place.lines)
            self._anew = True
            data = os.pread(self._handle, _CHUNK, 0)
        self.drained = not data
        if not data:
            return False
        self.place.offset += len(data)
        self.place.before = (self.place.before + data)[-ANCHOR_BYTES:]
        if self._anew:  # a writer that went on at its old place leaves zeros before it
            data = data.lstrip(b"\0")
            self._anew = not data
        self.place.lines.add(data)
        return True

    def quiet_s(self, now: float) -> float:
        """Seconds for which it has been replaced and without new bytes; 0 while it is neither."""
        if self.replaced is None or not self.drained:
            return 0.0
        return now - max(self.replaced, self.active)

    def close(self) -> None:
        """Lets the file go."""
        os.close(self._handle)


class Tail:
    """Reads what is written to a file from now on; all of it, if it does not exist yet.

    Args:
        feed: takes the lines.
        path: of the file, or of a link to it.
    """

    def __init__(self, feed: Feed, path: Path) -> None:
        self._feed = feed
        self._path = path
        self._monotonic = feed.clock.monotonic
        self._files: list[_File] = []  # oldest first; the last is that of the path
        self._closed: dict[tuple[int, int], _Place] = {}
        self._first = True
        self._look_due = float("-inf")
        self._told = ""

    def run(self) -> None:
        """Reads until the agent stops.

        Raises:
            OSError: a file could not be read. Called again, it goes on where it was.
        """
        while not self._feed.stop.is_set():
            if not self.step():
                self._feed.clock.wait(self._feed.stop, POLL_S)
        while self._files:
            self._close(self._files[0])

    def step(self) -> bool:
        """Reads the next bytes of each file whose turn it is; whether there were any."""
        self._look()
        found = waits = False
        for file in list(self._files):
            if file not in self._files:  # closed by a look between two lines
                continue
            try:
                file.watch(self._monotonic())
                if waits:
                    continue
                more = file.read()
            except OSError:
                self._close(file)
                raise
            found |= more
            now = self._monotonic()
            if file.replaced is None:
                continue
            if file.quiet_s(now) >= KEEP_S:
                self._finish(file)
            elif file.quiet_s(now) < QUIET_S and now - file.replaced < OVERLAP_S:
                waits = True  # for those before
        return found

    def _line(self, data: bytes) -> None:
        """A line may wait long for the worker: a rotation before it must not be missed."""
        self._look()
        self._feed.line(data)

    def _look(self) -> None:
        """Opens the file that is at the path now, if it is another one."""
        now = self._monotonic()
        if now < self._look_due:
            return
        self._look_due = now + POLL_S
        first, self._first = self._first, False
        try:
            there = self._path.stat()
            if not stat.S_ISREG(there.st_mode):
                self._trouble(OSError(f"{self._path} is not a regular file"))
                return
            identity = (there.st_dev, there.st_ino)
            if not self._files or self._files[-1].identity != identity:
                self._turn_to(identity, now, at_end=first)
        except FileNotFoundError as error:
            if first:
                log.warning("source waits for its file", path=str(self._path), reason=str(error))
        except OSError as error:
            self._trouble(error)
        else:
            self._told = ""

    def _turn_to(self, identity: tuple[int, int], now: float, *, at_end: bool) -> None:
        """Makes a file the last; raises OSError when that cannot be."""
        file = next((one for one in self._files if one.identity == identity), None)
        if file is None:
            self._make_room(now)
            file = self._open(at_end=at_end)
        else:
            self._files.remove(file)
        if self._files and self._files[-1].replaced is None:
            self._files[-1].replaced = now
        file.replaced = None
        file.active = now
        self._files.append(file)

    def _make_room(self, now: float) -> None:
        if len(self._files) < MAX_OPEN:
            return
        for file in self._files:
            if file.quiet_s(now) >= QUIET_S:
                self._finish(file)
                return
        raise OSError(f"{self._path} is replaced faster than it is read: lines may be lost")

    def _open(self, *, at_end: bool) -> _File:
        handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(handle)
            identity = (found.st_dev, found.st_ino)
            if not stat.S_ISREG(found.st_mode) or any(f.identity == identity for f in self._files):
                raise OSError(f"{self._path} was swapped while it was opened")
            place = self._closed.get(identity)
            if at_end:  # what was written before the agent started is not news
                start = max(0, found.st_size - ANCHOR_BYTES)
                before = os.pread(handle, ANCHOR_BYTES, start)
                place = _Place(Lines(self._line), start + len(before), before)
            elif place is None or not place.holds(handle):  # another file may get its inode
                place = _Place(Lines(self._line))
            file = _File(handle, place)
        except BaseException:
            os.close(handle)
            raise
        self._closed.pop(identity, None)
        return file

    def _finish(self, file: _File) -> None:
        self._close(file)
        file.place.lines.end()

    def _close(self, file: _File) -> None:
        self._files.remove(file)
        file.close()
        self._closed[file.identity] = file.place
        while len(self._closed) > _MAX_CLOSED:
            del self._closed[next(iter(self._closed))]

    def _trouble(self, error: OSError) -> None:
        if str(error) != self._told:  # it is tried several times a second
            self._told = str(error)
            self._feed.failed(error)
