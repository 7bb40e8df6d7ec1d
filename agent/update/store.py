"""Bundles on the device's disk: content-addressed blobs, release folders, links.

::

    blobs/{sha256}                     a file, whole and checked
    partial/{sha256}                   a file that is not whole yet
    partial/{sha256}.from-{sha256}     a delta to a file that is not whole yet
    partial/{manifest sha256}.json     what an update fetches (agent.update.leftovers)
    releases/{manifest sha256}/        manifest.json, and a link to the blob of every file
    slots/{slot}/current|previous|shadow   links to a release

A blob, a release and a link appear under their name only when they are whole, by a rename.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from agent.system.filesystem import (
    TEMPORARY,
    FileSystem,
    link_durably,
    make_folders,
    read_if_given,
    remove_tree,
)
from agent.system.log import logger
from agent.update.leftovers import MAX_BYTES, SUFFIX, Leftovers
from contracts import limits
from contracts.bundle import MANIFEST, decode_manifest, sha256_of
from contracts.errors import InputError
from contracts.manifest import FileEntry, Manifest
from contracts.messages import BundleRef, SlotReport

LINKS = ("current", "previous", "shadow")

DELTA: Final = ".from-"
"""In the name of a partial delta, between the file that it gives and the one that it is from."""

T = TypeVar("T")

log = logger(__name__)


class Store:
    """The bundles below one state folder.

    One thread changes them; any may ask what there is. What slots and links say is read once
    and remembered until the next change.

    Args:
        fs: the disk.
        root: the state folder, which must exist.
        leftover_bytes: that may be kept of updates that did not end well.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        fs: FileSystem,
        root: Path,
        *,
        leftover_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.fs = fs
        self.root = root
        self._blobs = root / "blobs"
        self._partial = root / "partial"
        self._releases = root / "releases"
        self._slots = root / "slots"
        self._leftovers = Leftovers(fs, self._partial, clock, leftover_bytes)
        self._lock = threading.Lock()
        self._remembered: dict[Hashable, Any] = {}
        self._changes = 0
        self.has_leftovers = True

    def _known(self, key: Hashable, read: Callable[[], T]) -> T:
        """What was read before, or is read now; remembered unless it changes meanwhile."""
        with self._lock:
            if key in self._remembered:
                return cast(T, self._remembered[key])
            changes = self._changes
        value = read()
        with self._lock:
            if changes == self._changes:
                self._remembered[key] = value
        return value

    def _forget(self) -> None:
        """After a change: also one that failed half way."""
        with self._lock:
            self._changes += 1
            self._remembered.clear()

    def prepare(self) -> None:
        """Makes the folders."""
        for folder in (self._blobs, self._partial, self._releases, self._slots):
            make_folders(self.fs, folder)

    # Blobs. -----------------------------------------------------------------------------

    def has_blob(self, entry: FileEntry) -> bool:
        """Whether the file is there, whole."""
        return self.fs.size(self._blobs / entry.sha256) == entry.size

    def blob(self, sha256: str) -> bytes:
        """A blob's bytes."""
        return self.fs.read(self._blobs / sha256)

    def partial_size(self, name: str) -> int:
        """Bytes that are on disk already of a file, or delta, that is being fetched."""
        return self.fs.size(self._partial / name) or 0

    def partial(self, name: str) -> bytes:
        """The bytes of a partial file."""
        return self.fs.read(self._partial / name)

    def extend(self, name: str, data: bytes) -> None:
        """Appends to the partial file."""
        self.fs.append(self._partial / name, data)

    def sync_partial(self, name: str) -> None:
        """Makes the partial file durable, so that a power cut does not cost it."""
        self.fs.sync(self._partial / name)

    def drop_partial(self, name: str) -> None:
        """Forgets the partial file."""
        self.fs.remove(self._partial / name)

    def finish(self, entry: FileEntry) -> bool:
        """Makes the partial file a blob if it is what the manifest says.

        Returns:
            False when it is not; then it is gone and has to be fetched again.
        """
        partial = self._partial / entry.sha256
        if self.fs.size(partial) is None:  # an empty file has nothing to append
            self.fs.write(partial, b"")
        self.fs.sync(partial)
        if self.fs.size(partial) != entry.size or self.fs.digest(partial) != entry.sha256:
            self.fs.remove(partial)
            return False
        self.fs.rename(partial, self._blobs / entry.sha256)
        self.fs.sync_folder(self._blobs)
        return True

    def drop_wrong_blobs(self, manifest: Manifest) -> None:
        """Removes those of a bundle's files that are not what they are called.

        They were checked when they came, and a disk may have lost or changed them since.
        """
        for sha256 in dict.fromkeys(entry.sha256 for entry in manifest.files):
            self._drop_if_wrong(self._blobs / sha256)

    def _drop_if_wrong(self, blob: Path) -> None:
        if self.fs.size(blob) is None:
            return
        try:
            if self.fs.digest(blob) == blob.name:
                return
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        log.error("file is damaged", file=blob.name)
        self.fs.remove(blob)

    # Releases. --------------------------------------------------------------------------

    def folder(self, manifest_sha256: str) -> Path:
        """The folder of a release."""
        return self._releases / manifest_sha256

    def has_release(self, manifest_sha256: str) -> bool:
        """Whether there is a folder of that name."""
        return self.fs.size(self.folder(manifest_sha256)) is not None

    def build(self, manifest_bytes: bytes, manifest: Manifest) -> None:
        """Makes the release folder; every blob must be there."""
        name = sha256_of(manifest_bytes)
        folder = self.folder(name)
        if self._complete(folder, manifest_bytes, manifest):
            return
        remove_tree(self.fs, folder)  # a power cut came while it was being removed
        temporary = folder.with_name(name + TEMPORARY)
        remove_tree(self.fs, temporary)
        self.fs.make_folder(temporary)
        for entry in manifest.files:
            self.fs.symlink(f"../../blobs/{entry.sha256}", temporary / entry.path)
        self.fs.write(temporary / MANIFEST, manifest_bytes)
        self.fs.sync(temporary / MANIFEST)
        self.fs.sync_folder(temporary)
        self.fs.rename(temporary, folder)
        self.fs.sync_folder(self._releases)

    def _complete(self, folder: Path, manifest_bytes: bytes, manifest: Manifest) -> bool:
        links = {entry.path: f"../../blobs/{entry.sha256}" for entry in manifest.files}
        if set(self.fs.names(folder)) != {*links, MANIFEST}:
            return False
        found = {path: self.fs.link_target(folder / path) for path in links}
        return found == links and read_if_given(self.fs, folder / MANIFEST) == manifest_bytes

    def manifest(self, manifest_sha256: str) -> Manifest:
        """The manifest of a release.

        Raises:
            InputError: ``bundle-corrupt`` or ``bad-manifest``.
        """
        path = self.folder(manifest_sha256) / MANIFEST
        size = self.fs.size(path)
        if size is None or size > limits.MAX_MANIFEST_BYTES:
            raise InputError("bundle-corrupt", f"{path} is missing or too large")
        data = read_if_given(self.fs, path)
        if data is None:
            raise InputError("bundle-corrupt", f"the disk does not give {path}")
        if sha256_of(data) != manifest_sha256:
            raise InputError("bundle-corrupt", f"{path} is not the manifest that was signed")
        return decode_manifest(data)

    def ref(self, manifest_sha256: str) -> BundleRef:
        """A release as a reference; raises as :meth:`manifest`."""
        return self._known(
            ("ref", manifest_sha256),
            lambda: self.manifest(manifest_sha256).ref(manifest_sha256),
        )

    def drop_damaged(self, manifest_sha256: str) -> None:
        """Removes a release, and those of its blobs that are not what they are called."""
        try:
            folder = self.folder(manifest_sha256)
            for name in self.fs.names(folder):
                target = self.fs.link_target(folder / name) if name != MANIFEST else None
                if target is not None:
                    self._drop_if_wrong(self._blobs / Path(target).name)
            remove_tree(self.fs, folder)
            self.fs.sync_folder(self._releases)
        finally:
            self._forget()

    # Links. -----------------------------------------------------------------------------

    def slots(self) -> list[str]:
        """Slots that ever had a bundle."""
        return list(self._known("slots", lambda: self.fs.names(self._slots)))

    def linked(self, slot: str, link: str) -> str | None:
        """The manifest sha256 that a link of a slot points at; None when there is no link."""
        return self._known((slot, link), lambda: self._read_link(slot, link))

    def _read_link(self, slot: str, link: str) -> str | None:
        target = self.fs.link_target(self._slots / slot / link)
        return target.rpartition("/")[2] if target else None

    def link(self, slot: str, link: str, manifest_sha256: str | None) -> None:
        """Points a link of a slot at a release, or removes it, durably."""
        try:
            self._link(slot, link, manifest_sha256)
        finally:
            self._forget()

    def _link(self, slot: str, link: str, manifest_sha256: str | None) -> None:
        folder = self._slots / slot
        path = folder / link
        if manifest_sha256 is None:
            if self.fs.link_target(path) is not None:
                self.fs.remove(path)
                self.fs.sync_folder(folder)
            return
        make_folders(self.fs, folder)
        link_durably(self.fs, f"../../releases/{manifest_sha256}", path)

    def empty(self, slot: str) -> None:
        """Forgets a slot with all its links, durably. It can be done again when it broke off."""
        folder = self._slots / slot
        try:
            for link in ("shadow", "previous", "current"):
                self._link(slot, link, None)
            remove_tree(self.fs, folder)
            self.fs.sync_folder(self._slots)
        finally:
            self._forget()

    def report(self, slot: str) -> SlotReport:
        """What a slot has. A link to a release that is damaged counts as none."""
        found: dict[str, BundleRef | None] = {}
        for link in LINKS:
            sha256 = self.linked(slot, link)
            try:
                found[link] = self.ref(sha256) if sha256 else None
            except InputError:
                found[link] = None
        return SlotReport(found["current"], found["previous"], found["shadow"])

    def reports(self) -> dict[str, SlotReport]:
        """What every slot has."""
        return {slot: self.report(slot) for slot in self.slots()}

    # Space. -----------------------------------------------------------------------------

    def missing_bytes(self, manifest: Manifest) -> int:
        """Bytes that must still be fetched for a bundle."""
        entries = {entry.sha256: entry for entry in manifest.files}.values()
        return sum(
            max(0, entry.size - self.partial_size(entry.sha256))
            for entry in entries
            if not self.has_blob(entry)
        )

    def kept_bytes(self) -> int:
        """Bytes of all blobs."""
        return sum(self.fs.size(self._blobs / name) or 0 for name in self.fs.names(self._blobs))

    def note(self, manifest_sha256: str, manifest: Manifest) -> None:
        """Notes that a bundle is being fetched: what comes is kept if it does not end well."""
        self._leftovers.note(manifest_sha256, manifest)

    def collect(
        self,
        keep: Manifest | None = None,
        keep_sha256: str | None = None,
        *,
        short: bool = False,
    ) -> int:
        """Removes what no link of any slot needs, no `keep`, and no leftovers within bounds.

        Args:
            keep: a bundle that is being fetched: its blobs and partial files stay.
            keep_sha256: a release that is being activated.
            short: there is no room for leftovers of others.

        Returns:
            How many files were removed.
        """
        linked: set[str] = set()
        for slot in self.slots():
            linked |= {s for link in LINKS if (s := self.linked(slot, link))}
        releases = linked | ({keep_sha256} if keep_sha256 else set())
        wanted: set[str] = {entry.sha256 for entry in keep.files} if keep else set()
        blobs = set(wanted)
        for name in sorted(releases & set(self.fs.names(self._releases))):
            folder = self.folder(name)
            for file in self.fs.names(folder):
                target = self.fs.link_target(folder / file) if file != MANIFEST else None
                if target is not None:
                    blobs.add(Path(target).name)
        left = self._leftovers.keep(
            linked | ({keep_sha256} if keep_sha256 else set()), blobs, self._there, short=short
        )
        self.has_leftovers = bool(left)
        removed = 0
        for name in self.fs.names(self._releases):
            if name not in releases:
                remove_tree(self.fs, self._releases / name)
                removed += 1
        notes = left | ({keep_sha256 + SUFFIX} if keep_sha256 else set())
        for folder, stay in (
            (self._blobs, blobs | left),
            (self._partial, wanted | notes),
        ):
            for name in self.fs.names(folder):
                if name not in stay and name.partition(DELTA)[0] not in stay:
                    self.fs.remove(folder / name)
                    removed += 1
        return removed

    def _there(self, sha256: str) -> int:
        """Bytes of a file, whole or partial."""
        return self.fs.size(self._blobs / sha256) or self.partial_size(sha256)
