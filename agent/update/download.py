"""Fetching the files of a bundle into the store: resumed, by delta where that is less."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from agent.system.log import logger
from agent.update import delta
from agent.update.fetch import Fetcher
from agent.update.store import DELTA, Store
from contracts import limits
from contracts.errors import InputError, RefusedError, UnavailableError
from contracts.manifest import FileEntry, Manifest

log = logger(__name__)

WRITE_BYTES: Final = 256 * limits.KIB
"""Bytes that are gathered before they are written."""

SYNC_BYTES: Final = 4 * limits.MIB
"""Bytes that a power cut may cost at most."""

RATE_S: Final = 2.0
"""Seconds over which the link's rate is measured, with half of what it was before."""

WRITE_S: Final = 5.0
SYNC_S: Final = 60.0
"""Seconds of a download that a kill, and a power cut, may cost at most: where the link is slow,
they are longer than the bytes."""


class Progress(msgspec.Struct):
    """What a download has brought.

    Attributes:
        done_bytes: of the bundle's files on disk; of one that comes as a delta, its share.
        wire_bytes: that were received.
        bytes_per_s: that the link gave in the last seconds; 0: not known yet.
    """

    done_bytes: int = 0
    wire_bytes: int = 0
    bytes_per_s: float = 0.0
    _marked_bytes: int = 0
    _marked_at: float | None = None

    def came(self, count: int, now: float) -> None:
        """So many bytes were received; `now` by a clock that only grows."""
        self.wire_bytes += count
        if self._marked_at is None:
            self._marked_at, self._marked_bytes = now, self.wire_bytes
            return
        lasted = now - self._marked_at
        if lasted >= RATE_S:
            rate = (self.wire_bytes - self._marked_bytes) / lasted
            self.bytes_per_s = (self.bytes_per_s + rate) / 2 if self.bytes_per_s else rate
            self._marked_at, self._marked_bytes = now, self.wire_bytes


class Downloader:
    """Fetches what a bundle lacks.

    Args:
        store: where to.
        fetcher: where from.
        check: called between pieces; raises to stop.
        delta_bytes: the largest old file whose delta is tried; it is held in memory.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        store: Store,
        fetcher: Fetcher,
        check: Callable[[Progress], None],
        delta_bytes: int = 64 * limits.MIB,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._fetcher = fetcher
        self._check = check
        self._delta_bytes = delta_bytes
        self._monotonic = monotonic

    def fetch(self, manifest: Manifest, active: Manifest | None = None) -> Progress:
        """Brings every file of `manifest` into the store.

        Args:
            manifest: the signed one.
            active: what the slot runs now; files of the same name may give a delta.

        Raises:
            UnavailableError: the way broke; call again to go on where it stopped.
            RefusedError: ``wrong-file``; the repository's file is not the signed one.
            OSError: the disk would not take it.
        """
        progress = Progress()
        for entry in manifest.files:
            self.file(entry, _same_name(active, entry), progress)
        return progress

    def file(self, entry: FileEntry, old: FileEntry | None, progress: Progress) -> None:
        """Brings one file into the store, by the delta from `old` if there is one."""
        if not self._store.has_blob(entry) and not (old and self._by_delta(entry, old, progress)):
            self._whole(entry, progress)
        progress.done_bytes += entry.size
        self._check(progress)

    def _by_delta(self, entry: FileEntry, old: FileEntry, progress: Progress) -> bool:
        """Tries the delta from `old`; False when there is none, or it does not fit.

        One that was begun is gone on with: only that which gives nothing at all is given up for
        the whole file.
        """
        if self._store.partial_size(entry.sha256) or not self._store.has_blob(old):
            return False
        if max(old.size, entry.size) > self._delta_bytes:
            return False
        name = f"{entry.sha256}{DELTA}{old.sha256}"
        path = delta.path(old.sha256, entry.sha256)
        before = progress.wire_bytes
        try:
            self._fill(path, name, progress, entry, is_delta=True)
        except UnavailableError as error:
            if progress.wire_bytes > before:
                raise
            log.debug("no delta", file=entry.path, reason=str(error))
            return False
        except RefusedError as error:
            log.warning("no delta", file=entry.path, reason=str(error))
            self._store.drop_partial(name)
            return False
        try:
            packed = self._store.partial(name)
            data = delta.apply(self._store.blob(old.sha256), packed, entry.size)
        except (InputError, OSError) as error:  # OSError: the disk does not give the old file
            log.warning("delta does not apply", file=entry.path, reason=str(error))
            self._store.drop_partial(name)
            return False
        self._store.extend(entry.sha256, data)
        self._store.drop_partial(name)
        if not self._store.finish(entry):
            log.warning("delta gives another file", file=entry.path)
            return False
        return True

    def _whole(self, entry: FileEntry, progress: Progress) -> None:
        """Fetches the file; one that was resumed and is wrong is fetched once more whole."""
        path = f"blobs/{entry.sha256}"
        resumed = self._store.partial_size(entry.sha256) > 0
        self._fill(path, entry.sha256, progress, entry)
        if self._store.finish(entry):
            return
        if resumed:
            self._fill(path, entry.sha256, progress, entry)
            if self._store.finish(entry):
                return
        raise RefusedError(
            "wrong-file",
            f"{entry.path} from the repository is not what the signed manifest says "
            f"(sha256 {entry.sha256[:12]}...)",
        )

    def _fill(
        self,
        path: str,
        name: str,
        progress: Progress,
        entry: FileEntry,
        *,
        is_delta: bool = False,
    ) -> None:
        """Brings a file of the repository into the store's partial file `name`, from its end on.

        Args:
            path: in the repository.
            name: in the store.
            progress: is told of what comes.
            entry: the file that is wanted.
            is_delta: what comes is not it but a delta to it, which is not larger.
        """
        offset = self._store.partial_size(name)
        if offset > entry.size:
            self._store.drop_partial(name)
            offset = 0
        if offset == entry.size and not is_delta:
            return
        transfer = self._fetcher.open(path, offset)
        total = transfer.total
        if total > entry.size or (total != entry.size and not is_delta):
            transfer.close()
            raise RefusedError(
                "wrong-file",
                f"the repository's {path} has {total} bytes; the signed manifest says that "
                f"{entry.path} has {entry.size}",
            )
        writing = _Writing(self._store, name, self._monotonic)
        base = progress.done_bytes
        try:
            for chunk in transfer.chunks:
                offset += len(chunk)
                if offset > total:
                    raise RefusedError("endless-data", f"{path} goes on beyond its {total} bytes")
                progress.came(len(chunk), self._monotonic())
                writing.add(chunk)
                progress.done_bytes = base + entry.size * offset // total
                self._check(progress)
        except (OSError, RefusedError):  # the disk has what it took; the rest is of no use
            raise
        except Exception:
            # What came is kept: the next try goes on from here.
            writing.flush()
            raise
        finally:
            progress.done_bytes = base
            transfer.close()
        writing.flush()
        if offset < total:
            raise UnavailableError(
                "repository-unreachable", f"{path} ended at byte {offset} of {total}"
            )


class _Writing:
    """Gathers pieces, and writes and syncs them now and then: by bytes, and on a slow link by time.

    Args:
        store: that has the partial file.
        name: of it.
        monotonic: seconds that only grow.
    """

    def __init__(self, store: Store, name: str, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._name = name
        self._monotonic = monotonic
        self._gathered = bytearray()
        self._unsynced = 0
        self._written = self._synced = monotonic()

    def add(self, chunk: bytes) -> None:
        """Takes the next piece."""
        self._gathered += chunk
        now = self._monotonic()
        if len(self._gathered) >= WRITE_BYTES or now - self._written >= WRITE_S:
            self._unsynced += len(self._gathered)
            self.flush()
            self._written = now
        if self._unsynced >= SYNC_BYTES or (self._unsynced and now - self._synced >= SYNC_S):
            self._store.sync_partial(self._name)
            self._unsynced = 0
            self._synced = now

    def flush(self) -> None:
        """Writes what was gathered."""
        if self._gathered:
            data = bytes(self._gathered)
            self._gathered.clear()  # a disk that is full may have taken a part of it
            self._store.extend(self._name, data)


def _same_name(active: Manifest | None, entry: FileEntry) -> FileEntry | None:
    if active is None:
        return None
    return next(
        (f for f in active.files if f.path == entry.path and f.sha256 != entry.sha256), None
    )
