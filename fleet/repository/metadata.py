"""The four signed roles on disk, and the order in which they are written.

Sources: The Update Framework specification 1.0.33, sections 4 (file formats), 6.2
(consistent snapshots) and 3.1 (repository). The state that counts is the chain that starts
at ``timestamp.json``: it names a snapshot by version and hash, which names the targets.
Metadata is written in the order targets, snapshot, timestamp, so that a crash between two
writes leaves files that nothing names; the next write replaces them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final

import msgspec
from securesystemslib.signer import SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    T,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from contracts import limits
from contracts.errors import InputError
from fleet import durable
from fleet.repository import paths
from fleet.repository.keys import KeyFolder

Clock = Callable[[], float]
_COMPACT: Final = JSONSerializer(compact=True, validate=True)
_FLOOR: Final = "x-shoal-floor"
"""Field of the snapshot role: no version that is signed from now on is below it."""

_LEAP: Final = 1000
"""Versions that :meth:`MetadataStore.next_floor` skips at least, whatever the clock says."""

_LATEST_FLOOR: Final = 4_102_444_800
"""2100-01-01: a clock beyond it is wrong. Versions have ten digits at most in a path."""


class Expiry(msgspec.Struct, frozen=True):
    """For how many days a signature of each role counts."""

    root: int = 3 * 365
    targets: int = 365
    snapshot: int = 30
    timestamp: int = 7


def expires(now: float, days: int) -> datetime:
    """When something signed now expires, in whole seconds."""
    return datetime.fromtimestamp(int(now), timezone.utc) + timedelta(days=days)


class MetadataStore:
    """Reads and writes the metadata of a repository.

    Args:
        folder: of the repository.
        keys: where private keys are.
        expiry: days.
        clock: seconds since the epoch.
    """

    def __init__(self, folder: Path, keys: KeyFolder, expiry: Expiry, clock: Clock) -> None:
        self.folder = folder
        self.keys = keys
        self.expiry = expiry
        self.clock = clock

    # Reading. ---------------------------------------------------------------------------

    def _load(self, role: str, version: int | None) -> bytes:
        path = self.folder / paths.metadata(role, version)
        try:
            with path.open("rb") as stream:
                data = stream.read(limits.MAX_METADATA_BYTES + 1)
        except FileNotFoundError:
            raise InputError(
                "not-a-repository", f"{self.folder} has no {path.name}: run `shoal fleet init`"
            ) from None
        if len(data) > limits.MAX_METADATA_BYTES:
            raise InputError(
                "repository-corrupt", f"{path} is over {limits.MAX_METADATA_BYTES} bytes"
            )
        return data

    def _parse(self, data: bytes, kind: type[T], what: str) -> Metadata[T]:
        try:
            loaded = Metadata[T].from_bytes(data)
            if not isinstance(loaded.signed, kind):
                raise InputError("repository-corrupt", f"{what} is another role's metadata")
            return loaded
        except RepositoryError as error:
            raise InputError("repository-corrupt", f"{what} cannot be read: {error}") from None

    def root_version(self) -> int:
        """The newest root on disk."""
        version = 0
        while (self.folder / paths.metadata("root", version + 1)).is_file():
            version += 1
        if not version:
            raise InputError(
                "not-a-repository", f"{self.folder} has no root.json: run `shoal fleet init`"
            )
        return version

    def root_bytes(self) -> bytes:
        """The newest root, as it is served and shipped to devices."""
        return self._load("root", self.root_version())

    def root(self) -> Metadata[Root]:
        """The newest root."""
        return self._parse(self.root_bytes(), Root, "root.json")

    def timestamp(self) -> Metadata[Timestamp]:
        """The current timestamp."""
        return self._parse(self._load("timestamp", None), Timestamp, "timestamp.json")

    def snapshot(self) -> Metadata[Snapshot]:
        """The snapshot that the timestamp names."""
        version = self.timestamp().signed.snapshot_meta.version
        return self._parse(self._load("snapshot", version), Snapshot, "snapshot.json")

    def targets(self) -> Metadata[Targets]:
        """The targets that the snapshot names."""
        version = self.snapshot().signed.meta["targets.json"].version
        return self._parse(self._load("targets", version), Targets, "targets.json")

    def delegated(self, role: str, targets: Targets) -> Targets:
        """What a role signs that `targets` delegates to; nothing, where devices refuse it.

        That is before it signed anything, and after its keys were replaced.
        """
        assert targets.delegations is not None
        nothing = Targets(expires=targets.expires)
        meta = self.snapshot().signed.meta.get(f"{role}.json")
        if meta is None:
            return nothing
        document = self._parse(self._load(role, meta.version), Targets, f"{role}.json")
        try:
            targets.verify_delegate(role, document.signed_bytes, document.signatures)
        except RepositoryError:
            return nothing
        return document.signed

    def delegated_version(self, role: str) -> int:
        """The version of a delegated role that the snapshot names; 0: none."""
        meta = self.snapshot().signed.meta.get(f"{role}.json")
        return meta.version if meta else 0

    def floor(self) -> int:
        """What new versions and release counters stay above after a restore; 0: no bound."""
        return _floor_of(self.snapshot().signed)

    def next_floor(self) -> int:
        """A floor above whatever a later state of this repository had signed.

        It is the time in seconds since the epoch: versions start at 1 and grow by one a
        signature, which takes longer than a second on average, and a second restore comes
        later than the first.
        """
        signed = (self.timestamp().signed, self.snapshot().signed, self.targets().signed)
        known = max(self.floor(), *(role.version for role in signed))
        return max(known + _LEAP, min(int(self.clock()), _LATEST_FLOOR))

    # Writing. ---------------------------------------------------------------------------

    def sign(self, signed: T, *, required: Sequence[Root], beside: Sequence[Root] = ()) -> bytes:
        """Signs with every key at hand that one of the roots lists for the role.

        Args:
            signed: the role's content.
            required: roots whose thresholds must be met.
            beside: roots whose keys sign too where they are at hand, for devices that still
                know only those.

        Raises:
            InputError: ``key-missing``, ``too-large``, or an error of :class:`KeyFolder`.
        """
        document = Metadata(signed)
        role = signed.type
        for root in [*required, *beside]:
            wanted = [root.keys[keyid] for keyid in root.roles[role].keyids]
            signers = self.keys.signers([key for key in wanted if isinstance(key, SSlibKey)])
            need = root.roles[role].threshold
            if root in required and len(signers) < need:
                raise InputError(
                    "key-missing",
                    f"signing {role} needs {need} of {len(wanted)} keys; {self.keys.folder} "
                    f"has {len(signers)}: bring {' or '.join(k.keyid[:16] for k in wanted)}",
                )
            for signer in signers:
                document.sign(signer, append=True)
        data = document.to_bytes(_COMPACT)
        if len(data) > limits.MAX_METADATA_BYTES:
            raise InputError(
                "too-large",
                f"{role}.json would have {len(data)} bytes; devices accept "
                f"{limits.MAX_METADATA_BYTES}: withdraw old versions first",
            )
        return data

    def write_root_bytes(self, version: int, data: bytes) -> None:
        """Writes a signed root: from now on it counts."""
        self._write(paths.metadata("root", version), data)

    def write_targets(
        self,
        targets: Targets,
        *,
        root: Root | None = None,
        beside: Root | None = None,
        floor: int = 0,
    ) -> None:
        """Signs and writes new targets, then a snapshot and a timestamp that name them.

        Args:
            targets: with its new version; raised to the floor when it is below.
            root: whose keys sign; None: the current root's.
            beside: a root whose keys sign too.
            floor: a new floor of all versions.

        Raises:
            InputError: as :meth:`sign`; nothing was written then.
        """
        root, extra = root or self.root().signed, [beside] if beside else []
        targets.expires = expires(self.clock(), self.expiry.targets)
        snapshot = self._next_snapshot(floor)
        targets.version = max(targets.version, _floor_of(snapshot))
        data = self.sign(targets, required=[root], beside=extra)
        snapshot.meta["targets.json"] = _meta(targets.version, data)
        # Both online signatures are made before the first write: a missing or locked key must
        # not leave a published half.
        stamp = self._next_timestamp(_floor_of(snapshot))
        finish = self._prepare(snapshot, stamp, root, extra)
        self._write(paths.metadata("targets", targets.version), data)
        finish()

    def write_signed(self, role: str, version: int, data: bytes) -> None:
        """Writes targets, or a delegated role, that were signed elsewhere and are checked.

        Then a snapshot and a timestamp that name them: the online keys alone are needed.
        """
        snapshot = self._next_snapshot(0)
        snapshot.meta[f"{role}.json"] = _meta(version, data)
        stamp = self._next_timestamp(_floor_of(snapshot))
        finish = self._prepare(snapshot, stamp, self.root().signed, [])
        self._write(paths.metadata(role, version), data)
        finish()

    def write_snapshot(
        self, *, root: Root | None = None, beside: Root | None = None, floor: int = 0
    ) -> None:
        """Signs and writes a new snapshot of the same targets, and a timestamp."""
        root, extra = root or self.root().signed, [beside] if beside else []
        snapshot = self._next_snapshot(floor)
        self._prepare(snapshot, self._next_timestamp(_floor_of(snapshot)), root, extra)()

    def write_timestamp(self) -> None:
        """Signs and writes a new timestamp of the same snapshot."""
        timestamp = self._next_timestamp(self.floor())
        timestamp.expires = expires(self.clock(), self.expiry.timestamp)
        data = self.sign(timestamp, required=[self.root().signed])
        self._write(paths.metadata("timestamp"), data)

    def write_first(self, targets: Targets) -> None:
        """Signs and writes the first targets, snapshot and timestamp."""
        root = self.root().signed
        data = self.sign(targets, required=[root])
        snapshot = Snapshot(version=1, meta={"targets.json": _meta(targets.version, data)})
        snapshot.expires = expires(self.clock(), self.expiry.snapshot)
        finish = self._prepare(snapshot, Timestamp(version=1), root, [])
        self._write(paths.metadata("targets", targets.version), data)
        finish()

    def _next_snapshot(self, floor: int) -> Snapshot:
        snapshot = self.snapshot().signed
        floor = max(floor, _floor_of(snapshot))
        if floor:
            snapshot.unrecognized_fields[_FLOOR] = floor
        snapshot.version = max(snapshot.version + 1, floor)
        snapshot.expires = expires(self.clock(), self.expiry.snapshot)
        return snapshot

    def _next_timestamp(self, floor: int) -> Timestamp:
        timestamp = self.timestamp().signed
        timestamp.version = max(timestamp.version + 1, floor)
        return timestamp

    def _prepare(
        self, snapshot: Snapshot, stamp: Timestamp, root: Root, beside: Sequence[Root]
    ) -> Callable[[], None]:
        data = self.sign(snapshot, required=[root], beside=beside)
        stamp.expires = expires(self.clock(), self.expiry.timestamp)
        stamp.snapshot_meta = _meta(snapshot.version, data)
        stamp_data = self.sign(stamp, required=[root], beside=beside)

        def finish() -> None:
            self._write(paths.metadata("snapshot", snapshot.version), data)
            self._write(paths.metadata("timestamp"), stamp_data)

        return finish

    def _write(self, path: str, data: bytes) -> None:
        durable.write(self.folder / path, data)


def _meta(version: int, data: bytes) -> MetaFile:
    return MetaFile.from_data(version, data, ["sha256"])


def _floor_of(snapshot: Snapshot) -> int:
    floor = snapshot.unrecognized_fields.get(_FLOOR, 0)
    return floor if isinstance(floor, int) else 0


def delegated_roles(targets: Targets) -> list[DelegatedRole]:
    """The roles that the targets role delegates to, the first to be asked first."""
    roles = targets.delegations.roles if targets.delegations is not None else None
    return list(roles.values()) if roles else []
