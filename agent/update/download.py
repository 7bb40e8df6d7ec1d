"""Fetching the files of a bundle into the store: resumed, by delta where that is less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from agent.system.log import logger
from agent.update import delta
from agent.update.fetch import Fetcher, read_all
from agent.update.store import Store
from contracts import limits
from contracts.errors import InputError, RefusedError, UnavailableError
from contracts.manifest import FileEntry, Manifest

log = logger(__name__)

WRITE_BYTES: Final = 256 * limits.KIB
"""Bytes that are gathered before they are written."""

SYNC_BYTES: Final = 4 * limits.MIB
"""Bytes that a power cut may cost at most."""


class Progress(msgspec.Struct):
    """What a download has brought.

    Attributes:
        done_bytes: of the bundle's files on disk.
        wire_bytes: that were received.
        deltas: files that came as a delta.
    """

    done_bytes: int = 0
    wire_bytes: int = 0
    deltas: int = 0


class Downloader:
    """Fetches what a bundle lacks.

    Args:
        store: where to.
        fetcher: where from.
        check: called between pieces; raises to stop.
        delta_bytes: the largest old file whose delta is tried; it is held in memory.
    """

    def __init__(
        self,
        store: Store,
        fetcher: Fetcher,
        check: Callable[[Progress], None],
        delta_bytes: int = 64 * limits.MIB,
    ) -> None:
        self._store = store
        self._fetcher = fetcher
        self._check = check
        self._delta_bytes = delta_bytes

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
            if not self._store.has_blob(entry):
                old = _same_name(active, entry)
                if not (old and self._by_delta(entry, old, progress)):
                    self._whole(entry, progress)
            progress.done_bytes += entry.size
            self._check(progress)
        return progress

    def _by_delta(self, entry: FileEntry, old: FileEntry, progress: Progress) -> bool:
        """Tries the delta from `old`; False when there is none, or it does not fit."""
        if self._store.partial_size(entry) or not self._store.has_blob(old):
            return False
        if max(old.size, entry.size) > self._delta_bytes:
            return False
        path = delta.path(old.sha256, entry.sha256)
        try:
            packed = read_all(self._fetcher, path, entry.size)
        except (UnavailableError, RefusedError) as error:
            log.debug("no delta", file=entry.path, reason=str(error))
            return False
        progress.wire_bytes += len(packed)
        try:
            data = delta.apply(self._store.blob(old.sha256), packed, entry.size)
        except (InputError, OSError) as error:  # OSError: the disk does not give the old file
            log.warning("delta does not apply", file=entry.path, reason=str(error))
            return False
        self._store.extend(entry, data)
        if not self._store.finish(entry):
            log.warning("delta gives another file", file=entry.path)
            return False
        progress.deltas += 1
        return True

    def _whole(self, entry: FileEntry, progress: Progress) -> None:
        """Fetches the file; one that was resumed and is wrong is fetched once more whole."""
        resumed = self._store.partial_size(entry) > 0
        self._fill(entry, progress)
        if self._store.finish(entry):
            return
        if resumed:
            self._fill(entry, progress)
            if self._store.finish(entry):
                return
        raise RefusedError(
            "wrong-file",
            f"{entry.path} from the repository is not what the signed manifest says "
            f"(sha256 {entry.sha256[:12]}...)",
        )

    def _fill(self, entry: FileEntry, progress: Progress) -> None:
        offset = self._store.partial_size(entry)
        if offset > entry.size:
            self._store.drop_partial(entry)
            offset = 0
        if offset == entry.size:
            return
        transfer = self._fetcher.open(f"blobs/{entry.sha256}", offset)
        if transfer.total != entry.size:
            raise RefusedError(
                "wrong-file",
                f"the repository's {entry.path} has {transfer.total} bytes; "
                f"the signed manifest says {entry.size}",
            )
        base = progress.done_bytes
        gathered = bytearray()
        unsynced = 0
        try:
            for chunk in transfer.chunks:
                offset += len(chunk)
                if offset > entry.size:
                    raise RefusedError(
                        "endless-data", f"{entry.path} goes on beyond its {entry.size} bytes"
                    )
                progress.wire_bytes += len(chunk)
                gathered += chunk
                if len(gathered) >= WRITE_BYTES:
                    unsynced += len(gathered)
                    self._store.extend(entry, bytes(gathered))
                    gathered.clear()
                if unsynced >= SYNC_BYTES:
                    self._store.sync_partial(entry)
                    unsynced = 0
                progress.done_bytes = base + offset
                self._check(progress)
        except UnavailableError:
            # What came is kept: the next try goes on from here.
            if gathered:
                self._store.extend(entry, bytes(gathered))
            raise
        finally:
            progress.done_bytes = base
            transfer.close()
        if gathered:
            self._store.extend(entry, bytes(gathered))
        if offset < entry.size:
            raise UnavailableError(
                "repository-unreachable", f"{entry.path} ended at byte {offset} of {entry.size}"
            )


def _same_name(active: Manifest | None, entry: FileEntry) -> FileEntry | None:
    if active is None:
        return None
    return next(
        (f for f in active.files if f.path == entry.path and f.sha256 != entry.sha256), None
    )
