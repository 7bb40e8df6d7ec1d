"""Loading bundles that are on the device's disk: the first that serves, whatever fails.

A bundle can kill the process that loads it: it did not in its self-test, but the runtime was
upgraded since, or the memory is less. At a start nobody could be told, and the next start would
die again. So each such load is noted durably before and after it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from agent.serving.models import Models
from agent.system.clock import Clock
from agent.system.filesystem import FileSystem, is_full
from agent.system.log import logger
from agent.update.store import Store
from contracts import codec
from contracts.errors import ErrorInfo, InputError, ShoalError
from contracts.messages import Count

log = logger(__name__)

NAME: Final = "loading"

MAX_LOADS: Final = 3
"""Loads of a bundle that may end with the process, before it is given up."""

MAX_MARKS: Final = 8
"""Bundles of one slot whose loads are counted."""

CRASHED: Final = "load-crashed"
"""The code of a bundle that was given up for that."""


PATIENCE_S: Final = 60.0
"""Seconds for which the disk may refuse a bundle, before another one serves in its place."""

DISK_TRIES: Final = 3
"""Times that a start tries what the disk refuses."""

T = TypeVar("T")


Marks = dict[str, dict[str, Count]]
"""Slot -> sha256 of a bundle's manifest -> loads of it that began and did not end."""


class LoadingMarks:
    """The marks of one device. For one thread.

    Where the disk refuses, nothing is counted: that must not keep a model from serving.

    Args:
        fs: the disk.
        folder: the state folder.
    """

    def __init__(self, fs: FileSystem, folder: Path) -> None:
        self._fs = fs
        self._path = folder / NAME
        self._marks: Marks | None = None
        self._made = False

    def begin(self, slot: str, bundle: str) -> int:
        """Notes durably that a load begins.

        Returns:
            How many loads of this bundle in this slot began before and did not end.
        """
        of_slot = self._read().setdefault(slot, {})
        loads = of_slot.pop(bundle, 0)
        of_slot[bundle] = loads + 1
        while len(of_slot) > MAX_MARKS:  # the oldest is of a bundle that is long gone
            del of_slot[next(iter(of_slot))]
        self._write()
        return loads

    def end(self, slot: str, bundle: str) -> None:
        """Notes durably that it ended, well or not."""
        if self._read().get(slot, {}).pop(bundle, None) is not None:
            self._write()

    def _read(self) -> Marks:
        if self._marks is None:
            self._marks = {}
            try:
                if self._fs.size(self._path) is not None:
                    self._made = True
                    data = self._fs.read(self._path)
                    self._marks = codec.decode(data, Marks, what=NAME)
            except (InputError, OSError) as error:  # not whole: it was being written
                log.warning("marks of loads not read", reason=str(error))
        return self._marks

    def _write(self) -> None:
        try:
            self._fs.write(self._path, codec.encode(self._marks))
            self._fs.sync(self._path)
            if not self._made:
                self._fs.sync_folder(self._path.parent)
                self._made = True
        except OSError as error:
            log.warning("marks of loads not written", reason=str(error))


class Loader:
    """Lets bundles of the store serve. For one thread.

    Args:
        store: where they are.
        models: what serves.
        marks: of loads that did not end.
        clock: the time.
    """

    def __init__(self, store: Store, models: Models, marks: LoadingMarks, clock: Clock) -> None:
        self._store = store
        self._models = models
        self._marks = marks
        self._clock = clock
        self._refused_since: dict[tuple[str, str], float] = {}

    def first(self, slot: str, bundles: list[str | None]) -> tuple[str | None, ErrorInfo | None]:
        """Serves the first bundle that loads; the slot is empty if none does.

        Returns:
            The bundle that serves, and why the first one does not.

        Raises:
            OSError: the disk refuses; to be tried again.
        """
        first: ErrorInfo | None = None
        for sha256 in dict.fromkeys(bundles):
            if sha256 is None:
                continue
            problem = self._marked_load(slot, sha256)
            if problem is None:
                return sha256, first
            log.error("bundle does not load", slot=slot, bundle=sha256, reason=problem.message)
            first = first or problem
        self._models.activate(slot, None)
        return None, first

    def _marked_load(self, slot: str, sha256: str) -> ErrorInfo | None:
        died = self._marks.begin(slot, sha256)
        if died >= MAX_LOADS:  # the mark stays: no later start tries it again
            return ErrorInfo(CRASHED, "the agent died each time it loaded it", {})
        try:
            problem = self.load(slot, sha256)
        except OSError:
            self._marks.end(slot, sha256)
            raise
        if problem is not None:
            self._marks.end(slot, sha256)
        return problem

    def load(self, slot: str, sha256: str) -> ErrorInfo | None:
        """Loads a bundle and lets it serve; returns why it does not.

        One that loads is no longer one at which the agent died.

        Raises:
            OSError: the disk refuses, and did not for long: to be tried again.
        """
        folder = self._store.folder(sha256)
        try:
            insist(lambda: self._models.activate(slot, folder))
        except ShoalError as error:
            problem = error.info
        except OSError as error:
            now = self._clock.monotonic()
            since = self._refused_since.setdefault((slot, sha256), now)
            unreadable = error.errno == errno.EIO
            if not unreadable and now - since < PATIENCE_S:
                raise
            problem = refusal(error)
            if unreadable:
                problem = ErrorInfo("bundle-corrupt", problem.message, {})
        except Exception as error:  # a fault of ours, which must not keep another from serving
            log.exception("load broke")
            problem = fault(error)
        else:
            for key in [key for key in self._refused_since if key[0] == slot]:
                del self._refused_since[key]  # patience with all of the slot's begins anew
            self._marks.end(slot, sha256)
            return None
        if problem.code == "bundle-corrupt":
            try:
                self._store.drop_damaged(sha256)
            except OSError as error:  # another one has to serve all the same
                log.error("damaged bundle not removed", bundle=sha256, reason=str(error))
        return problem


def refusal(error: OSError) -> ErrorInfo:
    """What the disk or the system refused, as a reason."""
    if error.errno in (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE):
        return ErrorInfo("no-resources", f"the system refused: {error.strerror or error}", {})
    if is_full(error):
        return ErrorInfo("disk-full", f"the disk is full ({error.strerror}): make room", {})
    return ErrorInfo("disk-error", f"the disk refused: {error.strerror or error}", {})


def fault(error: Exception) -> ErrorInfo:
    """An exception that nobody foresaw, as a reason."""
    return ErrorInfo("internal", f"the agent is at fault: {type(error).__name__}: {error}", {})


def insist(work: Callable[[], T]) -> T:
    """Does `work`, which can be repeated, again when the disk refuses: many errors pass."""
    for _ in range(DISK_TRIES - 1):
        try:
            return work()
        except OSError as error:
            log.warning("disk error, tried again", reason=str(error))
    return work()
