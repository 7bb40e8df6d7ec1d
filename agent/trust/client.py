"""What a device believes: the client side of The Update Framework (TUF).

:class:`Trust` does the input and output: it fetches metadata, hands the bytes to python-tuf's
``TrustedMetadataSet`` (which checks and does no I/O), and stores what was accepted. It starts
from the root of the fleet that enrolment shipped, walks newer roots one by one, and then
loads timestamp, snapshot and targets (specification 1.0.33, section 5.3). Delegated roles are
loaded when a target is looked for (:mod:`agent.trust.delegations`).

Every refusal is a :class:`contracts.errors.RefusedError` whose code names the attack:

======================  ==================================================================
``wrong-root``          a root not signed by the root before it, or out of order
``wrong-signature``     too few valid signatures of a role's keys
``rollback``            older metadata than was seen before
``freeze``              timestamp or snapshot is past its expiry: somebody shows old state
``expired``             root or targets is past its expiry
``mix-and-match``       metadata that does not belong to the signed snapshot or timestamp
``endless-data``        more bytes than the role, or the signed length, allows
``bad-metadata``        not TUF metadata
``not-published``       the bundle is not in the signed list
``too-many-roles``      a search through delegated roles that does not end soon
``wrong-manifest``      the bundle asked for is not the signed one, or the bytes are not
======================  ==================================================================

python-tuf is imported on first use: a device that does not update does not pay for it.

Over 400 lines: the steps of one specification.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast
from urllib.parse import quote

import msgspec

from agent.system.clock import EARLIEST
from agent.system.filesystem import Disk, FileSystem, make_folders, write_durably
from agent.trust.delegations import check_distinct_keys, find, stored_as
from agent.trust.errors import endless, named
from contracts import limits
from contracts.bundle import sha256_of
from contracts.errors import RefusedError, ShoalError, UnavailableError
from contracts.messages import BundleRef

if TYPE_CHECKING:
    from tuf.api.metadata import Root, TargetFile, Targets
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

Fetch = Callable[[str, int], bytes]
"""Reads a whole repository file: ``fetch(path, cap)`` returns at most `cap` bytes.

Names in a path are percent-encoded where they hold anything beyond a bundle's name.

Raises ``ShoalError`` with code ``no-such-path`` when the repository has no such file,
``too-large`` (or ``endless-data``) when it is larger than `cap`, and ``UnavailableError`` for
what may work later, a time limit included.
"""

MAX_ROOT_ROTATIONS: Final = 256
"""Roots that one refresh walks through."""

MAX_TIMESTAMP_BYTES: Final = 16 * limits.KIB
"""Bytes of ``timestamp.json``, which nothing else bounds."""

REFRESH_SECONDS: Final = 300.0
"""Seconds that one refresh may take in all, however many small files it is sent."""

_HASHES: Final = ("sha256", "sha512")
"""Digests of targets that are known, the one that names files first."""

Clock = Callable[[], float]


class Signed(msgspec.Struct, frozen=True):
    """What is signed for a target: the sha256 and size of its bytes."""

    sha256: str
    size: int


class Trust:
    """The trusted metadata of one fleet, kept on disk.

    Args:
        folder: where accepted metadata is stored; made when missing.
        root: the fleet's ``root.json`` from enrolment.
        fetch: reads repository files.
        clock: seconds since the epoch.
        monotonic: seconds that never jump.
        fs: the disk; None: the real one.

    A root that is none is refused at the first refresh, as ``wrong-root`` or ``bad-metadata``.
    """

    def __init__(
        self,
        folder: Path,
        root: bytes,
        fetch: Fetch,
        *,
        clock: Clock = time.time,
        monotonic: Clock = time.monotonic,
        fs: FileSystem | None = None,
    ) -> None:
        self._folder = folder
        self._root = root
        self._fetch = fetch
        self._clock = clock
        self._monotonic = monotonic
        self._fs = fs or Disk()
        self._deadline = 0.0
        self._trusted: TrustedMetadataSet | None = None
        self._roles: dict[tuple[str, str], Targets] = {}

    @property
    def clock(self) -> Literal["synced", "unsynced"]:
        """Whether the device's clock was ever set; if not, expiry cannot be judged."""
        return "synced" if self._clock() >= EARLIEST else "unsynced"

    # Reading what is trusted. -----------------------------------------------------------

    def manifest(self, ref: BundleRef) -> bytes:
        """The bytes of a bundle's manifest, as signed.

        Refreshes when it has to: when nothing is loaded, or the bundle is not known yet.

        Raises:
            RefusedError: ``not-published``, ``wrong-manifest``, a refusal of :meth:`refresh` or
                of a delegated role.
            UnavailableError: the repository cannot be reached.
        """
        if self._trusted is None or self._find(_target_name(ref)) is None:
            self.refresh()
        return self._manifest(ref)

    def _manifest(self, ref: BundleRef) -> bytes:
        self._check(ref)
        data = self.download(_target_name(ref), limits.MAX_MANIFEST_BYTES)
        if sha256_of(data) != ref.manifest_sha256:  # signed by another digest alone
            raise RefusedError("wrong-manifest", f"{ref} is signed with another manifest")
        return data

    def newest(self, ref: BundleRef) -> bytes:
        """Refreshes, and then as :meth:`manifest`."""
        self.refresh()
        return self._manifest(ref)

    def download(self, name: str, cap: int, kept: bytes = b"") -> bytes:
        """The bytes of a signed target, by its name in the targets role or one below it.

        Args:
            name: for example ``bundles/NAME/VERSION/manifest.json``.
            cap: the most bytes that are accepted, whatever was signed.
            kept: bytes of an earlier download: returned when they are the signed ones, without
                asking the repository for them.

        Raises:
            RefusedError: ``not-published``, ``wrong-manifest``, ``endless-data``, or a refusal
                of :meth:`refresh`.
            UnavailableError: the repository cannot be reached.
        """
        target = self._target(name)
        if target.length > cap:
            raise endless(name, cap)
        if kept and _is(target, kept):
            return kept
        digest = next(
            (target.hashes[algorithm] for algorithm in _HASHES if algorithm in target.hashes), ""
        )
        folder, slash, base = name.rpartition("/")
        data = self._download(quote(f"targets/{folder}{slash}{digest}.{base}"), target.length)
        if not _is(target, data):
            raise RefusedError(
                "wrong-manifest",
                f"what was sent as {name[:200]} is not the signed file: expected {target.length} "
                f"bytes with digest {digest[:12]}..., found {len(data)} bytes",
            )
        return data

    def signed(self, name: str) -> Signed:
        """Refreshes; the sha256 and size that are signed for a target, which is not read.

        Raises:
            RefusedError: ``not-published``, ``bad-metadata`` (signed without a sha256), or a
                refusal of :meth:`refresh`.
            UnavailableError: the repository cannot be reached.
        """
        self.refresh()
        target = self._target(name)
        sha256 = target.hashes.get("sha256", "")
        if not re.fullmatch("[0-9a-f]{64}", sha256) or target.length > limits.MAX_RELEASE_BYTES:
            raise RefusedError("bad-metadata", f"{name[:200]} is signed without a size or sha256")
        return Signed(sha256, target.length)

    def release(self, ref: BundleRef) -> int:
        """The release counter that the fleet signed for a bundle; raises as :meth:`manifest`."""
        custom: object = self._check(ref).custom
        release = custom.get("release") if isinstance(custom, dict) else None
        if not isinstance(release, int) or isinstance(release, bool) or release < 1:
            raise RefusedError("bad-metadata", f"{ref} is signed without a release counter")
        return release

    def _target(self, name: str) -> TargetFile:
        if self._trusted is None:
            self.refresh()
        target = self._find(name)
        if target is None:
            raise RefusedError("not-published", f"{name[:200]} is not in the fleet's signed list")
        return target

    def _find(self, name: str) -> TargetFile | None:
        assert self._trusted is not None
        self._deadline = self._monotonic() + REFRESH_SECONDS
        return find(name, partial(self._role, self._trusted))

    def _check(self, ref: BundleRef) -> TargetFile:
        target = self._target(_target_name(ref))
        if target.hashes.get("sha256", ref.manifest_sha256) != ref.manifest_sha256:
            raise RefusedError(
                "wrong-manifest",
                f"{ref} is signed with another manifest: expected sha256 "
                f"{ref.manifest_sha256[:12]}..., signed "
                f"{target.hashes['sha256'][:12]}...",
            )
        return target

    # Refreshing. ------------------------------------------------------------------------

    def refresh(self) -> None:
        """Brings the trusted metadata up to date, in the order of the specification.

        What was accepted before stays trusted when this raises.

        Raises:
            RefusedError: with the attack as its code.
            UnavailableError: the repository cannot be reached, or is too slow.
        """
        self._deadline = self._monotonic() + REFRESH_SECONDS
        trusted = self._start()
        self._update_root(trusted)
        self._update_timestamp(trusted)
        self._update_snapshot(trusted)
        self._update_targets(trusted)
        self._trusted, self._roles = trusted, {}

    def _start(self) -> TrustedMetadataSet:
        from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
        from tuf.ngclient.config import EnvelopeType

        with named("root"):
            trusted = TrustedMetadataSet(self._root, EnvelopeType.METADATA)
        _check_root(trusted.root)
        # The set compares expiries with this time. An unset clock cannot judge them: compare
        # with a time at which nothing has expired, and keep every other check.
        now = datetime.fromtimestamp(max(0.0, self._clock()), timezone.utc)
        trusted.reference_time = (
            now if self.clock == "synced" else datetime.min.replace(tzinfo=timezone.utc)
        )
        return trusted

    def _update_root(self, trusted: TrustedMetadataSet) -> None:
        from tuf.api.exceptions import RepositoryError

        for _ in range(MAX_ROOT_ROTATIONS):
            version = trusted.root.version + 1
            stored = self._load(f"root_history/{version}.root")
            if stored is not None:
                try:
                    trusted.update_root(stored)
                    continue
                except RepositoryError:
                    pass  # damaged, or of another fleet: the repository's counts
            try:
                data = self._download(f"metadata/{version}.root.json", limits.MAX_METADATA_BYTES)
            except ShoalError as error:
                if error.code == "no-such-path":
                    return
                raise
            with named("root"):
                trusted.update_root(data)
            _check_root(trusted.root)
            # The chain is walked again at each start, from the root of enrolment: what is on
            # the disk is believed only as far as that root vouches for it.
            self._store(f"root_history/{version}.root", data)
            self._store("root", data)
        raise RefusedError(
            "wrong-root", f"more than {MAX_ROOT_ROTATIONS} new roots: enrol the device again"
        )

    def _update_timestamp(self, trusted: TrustedMetadataSet) -> None:
        from tuf.api.exceptions import EqualVersionNumberError, RepositoryError

        stored = self._load("timestamp")
        if stored is not None:
            # Expired (it still guards against rollback), damaged, or signed by older keys.
            with suppress(RepositoryError):
                trusted.update_timestamp(stored)
        data = self._download("metadata/timestamp.json", MAX_TIMESTAMP_BYTES)
        with named("timestamp"):
            try:
                trusted.update_timestamp(data)
            except EqualVersionNumberError:
                return
        self._store("timestamp", data)

    def _update_snapshot(self, trusted: TrustedMetadataSet) -> None:
        from tuf.api.exceptions import RepositoryError

        stored = self._load("snapshot")
        if stored is not None:
            try:
                trusted.update_snapshot(stored, trusted=True)
                return
            except RepositoryError:
                pass  # older than the timestamp says: it still guards against rollback
        meta = trusted.timestamp.snapshot_meta
        cap = min(meta.length or limits.MAX_METADATA_BYTES, limits.MAX_METADATA_BYTES)
        data = self._download(f"metadata/{meta.version}.snapshot.json", cap)
        with named("snapshot"):
            trusted.update_snapshot(data)
        self._store("snapshot", data)

    def _update_targets(self, trusted: TrustedMetadataSet) -> None:
        self._load_role(trusted, "targets", "root")

    def _role(self, trusted: TrustedMetadataSet, role: str, delegator: str) -> Targets:
        """A role below root as `delegator` has it.

        One role under two delegators is checked for each: the keys of one do not vouch for it
        where the other asks.
        """
        if role == "targets":
            return trusted.targets
        known = self._roles.get((role, delegator))
        if known is None:
            above = cast("Targets", trusted[delegator]).delegations
            entry = above.roles.get(role) if above is not None and above.roles else None
            if above is not None and entry is not None:
                check_distinct_keys(role, entry.keyids, above.keys)
            known = self._roles[role, delegator] = self._load_role(trusted, role, delegator)
        return known

    def _load_role(self, trusted: TrustedMetadataSet, role: str, delegator: str) -> Targets:
        from tuf.api.exceptions import RepositoryError

        delegated, name = delegator != "root", stored_as(role)
        stored = self._load(name)
        if stored is not None:
            try:
                return trusted.update_delegated_targets(stored, role, delegator)
            except RepositoryError:
                pass  # not the version that the snapshot names, or not by this delegator's keys
        with named(role, delegated=delegated):
            meta = trusted.snapshot.meta.get(f"{role}.json")
        if meta is None:
            code = "not-published" if delegated else "mix-and-match"
            raise RefusedError(code, f"the signed snapshot names no {role[:100]}.json")
        cap = min(meta.length or limits.MAX_METADATA_BYTES, limits.MAX_METADATA_BYTES)
        data = self._download(f"metadata/{meta.version}.{name}.json", cap)
        with named(role, delegated=delegated):
            loaded = trusted.update_delegated_targets(data, role, delegator)
        self._store(name, data)
        return loaded

    def _download(self, path: str, cap: int) -> bytes:
        if self._monotonic() > self._deadline:
            raise UnavailableError(
                "slow-retrieval", f"the repository took over {REFRESH_SECONDS:.0f} s; tried {path}"
            )
        try:
            data = self._fetch(path, cap)
        except ShoalError as error:
            if error.code in ("too-large", "endless-data"):
                raise endless(path, cap) from None
            raise
        if len(data) > cap:
            raise endless(path, cap)
        return data

    # Stored metadata: a file a role, replaced whole. A missing or damaged one is fetched. ----

    def _load(self, name: str) -> bytes | None:
        path = self._folder / f"{name}.json"
        try:
            size = self._fs.size(path)
            if size is None or size > limits.MAX_METADATA_BYTES:
                return None
            return self._fs.read(path)
        except OSError:
            return None

    def _store(self, name: str, data: bytes) -> None:
        path = self._folder / f"{name}.json"
        make_folders(self._fs, path.parent)
        write_durably(self._fs, path, data)


def _target_name(ref: BundleRef) -> str:
    return f"bundles/{ref.name}/{ref.version}/manifest.json"


def _is(target: TargetFile, data: bytes) -> bool:
    """Whether bytes are the signed ones, by every digest that is given, at least one of ours.

    A digest of a kind that is not known here counts neither way, so that a fleet can change to
    another kind while older devices go on by the one they know.
    """
    known = [algorithm for algorithm in _HASHES if algorithm in target.hashes]
    return (
        bool(known)
        and len(data) == target.length
        and all(hashlib.new(kind, data).hexdigest() == target.hashes[kind] for kind in known)
    )


def _check_root(root: Root) -> None:
    for name, role in root.roles.items():
        check_distinct_keys(name, role.keyids, root.keys)
