"""A repository on disk: publish bundles, keep the online signatures fresh, serve files.

Publishing is safe at every step: content first (a file nobody names yet), then metadata in
TUF's order, whose last write, ``timestamp.json``, makes all of it visible at once.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from tuf.api.metadata import Root, TargetFile, Targets

from contracts.blocks import Block
from contracts.bundle import Bundle
from contracts.errors import InputError, RefusedError
from contracts.manifest import TokenizerFrontEnd
from contracts.messages import BundleRef
from contracts.tokenizer import check_tokenizer
from fleet import durable
from fleet.repository import delta, listing, paths
from fleet.repository.keys import ROLES, KeyFolder
from fleet.repository.metadata import Clock, Expiry, MetadataStore, delegated_roles, expires

_EXPIRY: Final = Expiry()
_FOLDERS: Final = ("metadata", "targets", "blobs", "deltas")


class Repository:
    """The signed repository of one fleet.

    Use :meth:`create` or :meth:`open`. Several processes may use one folder: changes hold a
    file lock.
    """

    def __init__(self, folder: Path, store: MetadataStore) -> None:
        self.folder = folder
        self.metadata = store

    @classmethod
    def create(
        cls,
        folder: Path,
        keys_folder: Path,
        *,
        passphrase: bytes | None = None,
        root_keys: int = 1,
        root_threshold: int = 1,
        targets_keys: int = 1,
        targets_threshold: int = 1,
        expiry: Expiry = _EXPIRY,
        clock: Clock = time.time,
    ) -> Repository:
        """Makes a repository with new keys.

        Args:
            folder: of the repository; made when missing.
            keys_folder: where the new private keys go.
            passphrase: protects them.
            root_keys: how many keys the root role gets.
            root_threshold: how many of them must sign.
            targets_keys: how many keys the targets role gets.
            targets_threshold: how many of them must sign.
            expiry: for how long signatures count.
            clock: seconds since the epoch.

        Raises:
            InputError: ``already-a-repository``, ``bad-threshold``.
        """
        counts = {"root": root_keys, "targets": targets_keys}
        thresholds = {"root": root_threshold, "targets": targets_threshold}
        for role, count in counts.items():
            if not 1 <= thresholds[role] <= count <= 16:
                raise InputError(
                    "bad-threshold",
                    f"{role}: {thresholds[role]} of {count} keys; needed: 1 <= threshold <= "
                    "keys <= 16",
                )
        repository = cls(
            folder, MetadataStore(folder, KeyFolder(keys_folder, passphrase), expiry, clock)
        )
        for name in _FOLDERS:
            durable.make_folder(folder / name)
        with repository.locked():
            if (folder / paths.metadata("timestamp")).exists():
                raise InputError("already-a-repository", f"{folder} is a repository already")
            root = Root(version=1, expires=expires(clock(), expiry.root), consistent_snapshot=True)
            for role in ROLES:
                for _ in range(counts.get(role, 1)):
                    root.add_key(repository.metadata.keys.generate(role), role)
                root.roles[role].threshold = thresholds.get(role, 1)
            store = repository.metadata
            store.write_root_bytes(1, store.sign(root, required=[root]))
            targets = Targets(version=1, expires=expires(clock(), expiry.targets))
            targets.unrecognized_fields[listing.LAST_RELEASE] = 0
            store.write_first(targets)
        return repository

    @classmethod
    def open(
        cls,
        folder: Path,
        keys_folder: Path | None = None,
        *,
        passphrase: bytes | None = None,
        expiry: Expiry = _EXPIRY,
        clock: Clock = time.time,
    ) -> Repository:
        """Opens a repository. Without a key that a change needs, that change is refused.

        Raises:
            InputError: ``not-a-repository``, ``repository-corrupt``.
        """
        keys = KeyFolder(keys_folder or folder / "no-keys", passphrase)
        repository = cls(folder, MetadataStore(folder, keys, expiry, clock))
        repository.metadata.targets()
        return repository

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the lock of changes, across processes."""
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    # Reading. ---------------------------------------------------------------------------

    @property
    def root(self) -> bytes:
        """The newest ``root.json``: what a device is given at enrolment."""
        return self.metadata.root_bytes()

    def bundles(self) -> dict[BundleRef, int]:
        """Every published bundle with its release counter, oldest first.

        Those of delegated roles too, as devices see them.
        """
        found = {}
        for _, target in self.signed().values():
            ref = listing.ref_of(target)
            if ref is not None:
                found[ref] = listing.release_of(target)
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def signed(self) -> dict[str, tuple[str, TargetFile]]:
        """Every signed target with the role that signs it, by its name."""
        targets = self.metadata.targets().signed
        found = {name: ("targets", target) for name, target in targets.targets.items()}
        roles = delegated_roles(targets)
        for role in roles:
            for name, target in self.metadata.delegated(role.name, targets).targets.items():
                first = next((one for one in roles if one.is_delegated_path(name)), None)
                if first is role:
                    found.setdefault(name, (role.name, target))
        return found

    def find(self, name: str, version: str) -> BundleRef:
        """A published bundle.

        Raises:
            InputError: ``no-such-bundle``.
        """
        for ref in self.bundles():
            if (ref.name, ref.version) == (name, version):
                return ref
        raise InputError("no-such-bundle", f"{name[:64]} {version[:32]} is not published")

    def release(self, ref: BundleRef) -> int:
        """The release counter of a published bundle: grows with every publication."""
        found = self.bundles().get(ref)
        if found is None:
            raise InputError("no-such-bundle", f"{ref} is not published with this manifest")
        return found

    def read(self, path: str, offset: int, length: int) -> Block:
        """A range of a public file, for blocks over MQTT.

        Args:
            path: relative to the repository, as a device names it.
            offset: of the first byte.
            length: at most; shorter at the end of the file.

        Raises:
            InputError: ``no-such-path``, ``bad-range``.
        """
        if offset < 0 or length < 1:
            raise InputError("bad-range", f"no range: offset {offset}, length {length}")
        file = self.folder / paths.check(path)
        try:
            handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            raise InputError("no-such-path", f"the repository has no {path}") from None
        with os.fdopen(handle, "rb") as stream:
            total = os.fstat(stream.fileno()).st_size
            if offset > total:
                raise InputError("bad-range", f"{path} has {total} bytes, asked from {offset}")
            stream.seek(offset)
            return Block(offset, total, stream.read(length))

    # Changing. --------------------------------------------------------------------------

    def publish(self, bundle: Bundle) -> BundleRef:
        """Publishes a bundle; again with the same bytes changes nothing.

        What was withdrawn may come back with the same bytes, and gets a new release counter.

        Raises:
            RefusedError: ``version-taken``; this version is published with other bytes, or was.
                ``bad-tokenizer``; its tokenizer may make a text far too long.
            InputError: the bundle is not whole, or a key is missing.
        """
        ref = bundle.ref
        with self.locked():
            targets = self.metadata.targets().signed
            listing.check_free(targets, ref)
            before = self.signed()
            role, known = before.get(paths.target(ref.name, ref.version), ("", None))
            if known is not None and listing.ref_of(known) != ref:
                raise RefusedError(
                    "version-taken", f"{ref} is published with other bytes by {role}"
                )
            self.write_content(bundle, before)
            if known is not None:
                return ref
            listing.add(targets, bundle, self.metadata.floor())
            targets.version += 1
            self.metadata.write_targets(targets)
        return ref

    def withdraw(self, ref: BundleRef) -> None:
        """Takes a bundle out of the signed list: no device installs it any more.

        Its files stay until the folder is cleaned. The signed list remembers its sha256: the
        version may come back with the same bytes alone (:meth:`publish`).

        Raises:
            InputError: ``no-such-bundle``.
        """
        with self.locked():
            targets = self.metadata.targets().signed
            role, known = self.signed().get(paths.target(ref.name, ref.version), ("targets", None))
            if role != "targets" and known is not None and listing.ref_of(known) == ref:
                raise InputError(
                    "signed-elsewhere",
                    f"{ref} is signed by {role}: its publisher runs `shoal fleet sign --role "
                    f"{role} --withdraw {ref.name}:{ref.version}`, and you take that in with "
                    "`shoal fleet publish --signed FILE`",
                )
            listing.remove(targets, ref)
            targets.version += 1
            self.metadata.write_targets(targets)

    def resign(self, *, force: bool = False) -> list[str]:
        """Renews the online signatures that have used up half of their time.

        Args:
            force: renew them all.

        Returns:
            The roles that were signed anew.

        Raises:
            InputError: ``key-missing`` and other errors of the keys.
        """
        with self.locked():
            store = self.metadata
            snapshot, timestamp = store.snapshot().signed, store.timestamp().signed
            if force or self._half_gone(snapshot.expires, store.expiry.snapshot):
                store.write_snapshot()
                return ["snapshot", "timestamp"]
            if self._half_gone(timestamp.expires, store.expiry.timestamp):
                store.write_timestamp()
                return ["timestamp"]
        return []

    def resign_targets(self) -> None:
        """Renews the signature of the targets role (an offline key), content unchanged."""
        with self.locked():
            targets = self.metadata.targets().signed
            targets.version += 1
            self.metadata.write_targets(targets)

    def leap(self) -> list[str]:
        """Signs versions above whatever was signed after this copy of the repository was made.

        For a repository that comes from a backup: devices that saw a later state refuse lower
        versions as a rollback. The versions become the seconds since the epoch; the root stays.
        The floor is kept in the snapshot, so that a targets key that is not at hand now signs
        above it when it next does.

        Returns:
            The roles that were signed anew; without ``targets`` when its key is not at hand.

        Raises:
            InputError: ``key-missing`` and other errors of the keys; nothing changed then.
        """
        with self.locked():
            store = self.metadata
            floor = store.next_floor()
            try:
                store.write_targets(store.targets().signed, floor=floor)
            except InputError as error:
                if error.code != "key-missing":
                    raise
                store.write_snapshot(floor=floor)
                return ["snapshot", "timestamp"]
        return ["targets", "snapshot", "timestamp"]

    def expiries(self) -> dict[str, datetime]:
        """When each role's signature expires, for warnings."""
        store = self.metadata
        targets = store.targets().signed
        ends = {
            "root": store.root().signed.expires,
            "targets": targets.expires,
            "snapshot": store.snapshot().signed.expires,
            "timestamp": store.timestamp().signed.expires,
        }
        for role in delegated_roles(targets):
            signed = store.delegated(role.name, targets)
            if signed.targets:
                ends[role.name] = signed.expires
        return ends

    # Parts of publishing. -----------------------------------------------------------------

    def _half_gone(self, expiry: datetime, days: int) -> bool:
        left = expiry - datetime.fromtimestamp(self.metadata.clock(), timezone.utc)
        return left.total_seconds() < days * 86400 / 2

    def write_content(self, bundle: Bundle, signed: Mapping[str, tuple[str, TargetFile]]) -> None:
        """Writes a bundle's files, and patches from the newest version among what is signed."""
        front = bundle.manifest.front_end
        if isinstance(front, TokenizerFrontEnd):
            check_tokenizer(bundle.read(front.file), f"{bundle.ref}: {front.file}")
        for entry in bundle.manifest.files:
            data = bundle.read(entry.path)
            path = self.folder / paths.blob(entry.sha256)
            # A blob of the right size was written whole; a wrong size is damage: write again.
            if not path.is_file() or path.stat().st_size != entry.size:
                durable.write(path, data)
        path = self.folder / paths.manifest(bundle.ref)
        durable.make_folder(path.parent)
        if not path.is_file() or path.read_bytes() != bundle.manifest_bytes:
            durable.write(path, bundle.manifest_bytes)
        previous = _newest((target for _, target in signed.values()), bundle.ref)
        if previous is not None:
            self._write_deltas(bundle, previous)

    def _write_deltas(self, bundle: Bundle, previous: BundleRef) -> None:
        """Patches from the files of the newest version before, where they are smaller."""
        old = Bundle(
            self.folder, (self.folder / paths.manifest(previous)).read_bytes()
        ).manifest.files
        before = {entry.path: entry for entry in old}
        for entry in bundle.manifest.files:
            source = before.get(entry.path)
            if source is None or source.sha256 == entry.sha256:
                continue
            path = self.folder / paths.delta(source.sha256, entry.sha256)
            if path.exists():
                continue
            patch = delta.make(
                delta.read_capped(self.folder / paths.blob(source.sha256)),
                delta.read_capped(self.folder / paths.blob(entry.sha256)),
            )
            if patch is not None:
                durable.write(path, patch)


def _newest(targets: Iterable[TargetFile], than: BundleRef) -> BundleRef | None:
    refs = [(listing.release_of(target), listing.ref_of(target)) for target in targets]
    same = [
        (release, ref) for release, ref in refs if ref and ref.name == than.name and ref != than
    ]
    return max(same, key=lambda one: one[0])[1] if same else None
