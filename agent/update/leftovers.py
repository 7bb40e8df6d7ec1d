"""What updates that did not end well have brought: kept for the next try, within bounds.

Files are named by their content, so they are as good for another attempt, or another rollout, as
for the one that brought them. An update writes down what it fetches when it begins to; while that
note is kept, its files are. The notes go, oldest first, when the files of all of them are too many
bytes, when they are too old, and when the disk runs short.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from agent.system.filesystem import FileSystem
from agent.system.log import logger
from contracts import codec, limits
from contracts.clock import EARLIEST, can_be_right
from contracts.errors import InputError
from contracts.manifest import Manifest
from contracts.messages import Sha256

log = logger(__name__)

SUFFIX: Final = ".json"
"""Of a note; the rest of its name is the sha256 of the bundle's manifest."""

MAX_BYTES: Final = 512 * limits.MIB
"""Bytes that leftovers may take; a board whose models may take less than twice that: half."""

MAX_AGE_S: Final = 7 * 24 * 3600.0
"""Seconds that they are kept, by the device's clock."""

LOOK_S: Final = 3600.0
"""Seconds between two looks at whether they are still to be kept."""

MIN_FREE_BYTES: Final = 64 * limits.MIB
"""Bytes of the disk that they leave free."""

MAX_NOTES: Final = 8
"""Bundles of which there are any."""


class Note(msgspec.Struct, frozen=True):
    """What one update fetches.

    Attributes:
        at: when it began last, seconds since the epoch by the device's clock.
        files: the sha256 of each file.
    """

    at: float
    files: list[Sha256]


class Leftovers:
    """The notes of one device. For one thread.

    A note that cannot be written or read costs bytes on the network, and nothing else.

    Args:
        fs: the disk.
        folder: of partial files.
        time: seconds since the epoch.
        max_bytes: that leftovers may take.
    """

    def __init__(
        self, fs: FileSystem, folder: Path, time: Callable[[], float], max_bytes: int
    ) -> None:
        self._fs = fs
        self._folder = folder
        self._time = time
        self._max_bytes = max_bytes

    def note(self, manifest_sha256: str, manifest: Manifest) -> None:
        """An update begins, or goes on, to fetch a bundle."""
        known = self._read(manifest_sha256)
        now = self._time()
        if known is None or not 0 <= now - known.at < MAX_AGE_S / 8:
            files = sorted({entry.sha256 for entry in manifest.files})
            self._write(manifest_sha256, Note(now, files))

    def keep(
        self, linked: set[str], in_use: set[str], size: Callable[[str], int], *, short: bool = False
    ) -> set[str]:
        """What stays though nothing uses it.

        Args:
            linked: manifests of bundles that serve or did: their updates ended well.
            in_use: files that stay anyway.
            size: bytes of a file, whole or partial.
            short: there is no room for any.

        Returns:
            The names of files, and of the notes that keep them.
        """
        notes = {} if short else self._usable(linked)
        files = {sha256 for note in notes.values() for sha256 in note.files} - in_use
        if not files:
            return set()
        there = {sha256: size(sha256) for sha256 in files}
        free = self._fs.free_bytes(self._folder)
        room = min(self._max_bytes, free + sum(there.values()) - MIN_FREE_BYTES)
        kept: set[str] = set()
        for manifest in sorted(notes, key=lambda name: (-notes[name].at, name))[:MAX_NOTES]:
            more = (set(notes[manifest].files) & files) - kept
            taken = sum(there[sha256] for sha256 in more)
            if taken <= room:
                room -= taken
                kept |= more | {manifest + SUFFIX}
        return kept

    def _usable(self, linked: set[str]) -> dict[str, Note]:
        """The notes that are not too old, by manifest."""
        now = self._time()
        found = {}
        for name in self._fs.names(self._folder):
            manifest = name.removesuffix(SUFFIX)
            if manifest == name or manifest in linked:
                continue
            note = self._read(manifest)
            if note is None:
                continue
            if not can_be_right(note.at, now):  # the clock was set since: its age begins now
                note = Note(now, note.files)
                if now >= EARLIEST:
                    self._write(manifest, note)
            if now - note.at <= MAX_AGE_S:
                found[manifest] = note
        return found

    def _path(self, manifest_sha256: str) -> Path:
        return self._folder / f"{manifest_sha256}{SUFFIX}"

    def _write(self, manifest_sha256: str, note: Note) -> None:
        try:
            self._fs.write(self._path(manifest_sha256), codec.encode(note))
        except OSError as error:
            log.warning("what is fetched is not noted", reason=str(error))

    def _read(self, manifest_sha256: str) -> Note | None:
        path = self._path(manifest_sha256)
        try:
            size = self._fs.size(path)
            if size is None or size > limits.MAX_MESSAGE_BYTES:
                return None
            return codec.decode(self._fs.read(path), Note, what="a note of what was fetched")
        except (InputError, OSError) as error:
            log.warning("what was fetched is not known", reason=str(error))
            return None
