"""What a device believes: the client side of The Update Framework (TUF).

:class:`Trust` does the input and output: it fetches metadata, hands the bytes to python-tuf's
``TrustedMetadataSet`` (which checks and does no I/O), and stores what was accepted. It starts
from the root of the fleet that enrolment shipped, walks newer roots one by one, and then
loads timestamp, snapshot and targets (specification 1.0.33, section 5.3).

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
``wrong-manifest``      the bundle asked for is not the signed one, or the bytes are not
======================  ==================================================================

python-tuf is imported on first use: a device that does not update does not pay for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from agent.system.clock import EARLIEST
from agent.system.filesystem import Disk, FileSystem, make_folders, write_durably
from contracts import limits
from contracts.bundle import sha256_of
from contracts.errors import RefusedError, ShoalError, UnavailableError
from contracts.messages import BundleRef

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

Fetch = Callable[[str, int], bytes]
"""Reads a whole repository file: ``fetch(path, cap)`` returns at most `cap` bytes.

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

Clock = Callable[[], float]


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

    @property
    def clock(self) -> Literal["synced", "unsynced"]:
        """Whether the device's clock was ever set; if not, expiry cannot be judged."""
        return "synced" if self._clock() >= EARLIEST else "unsynced"

    # Reading what is trusted. -----------------------------------------------------------

    def manifest(self, ref: BundleRef) -> bytes:
        """The bytes of a bundle's manifest, as signed.

        Refreshes when it has to: when nothing is loaded, or the bundle is not known yet.

        Raises:
            RefusedError: ``not-published``, ``wrong-manifest``, or a refusal of :meth:`refresh`.
            UnavailableError: the repository cannot be reached.
        """
        self._check(ref)
        return self.download(_target_name(ref), limits.MAX_MANIFEST_BYTES)

    def newest(self, ref: BundleRef) -> bytes:
        """Refreshes, and then as :meth:`manifest`."""
        self.refresh()
        return self.manifest(ref)

    def download(self, name: str, cap: int) -> bytes:
        """The bytes of a signed target, by its name in the targets role.

        Args:
            name: for example ``bundles/NAME/VERSION/manifest.json``.
            cap: the most bytes that are accepted, whatever was signed.

        Raises:
            RefusedError: ``not-published``, ``wrong-manifest``, ``endless-data``, or a refusal
                of :meth:`refresh`.
            UnavailableError: the repository cannot be reached.
        """
        target = self._target(name)
        sha256 = target.hashes.get("sha256", "")
        if target.length > cap:
            raise _endless(name, cap)
        folder, _, base = name.rpartition("/")
        self._deadline = self._monotonic() + REFRESH_SECONDS
        path = f"targets/{folder}/{sha256}.{base}" if folder else f"targets/{sha256}.{base}"
        data = self._download(path, target.length)
        if len(data) != target.length or sha256_of(data) != sha256:
            raise RefusedError(
                "wrong-manifest",
                f"what was sent as {name} is not the signed file: expected {target.length} bytes "
                f"with sha256 {sha256[:12]}..., found {len(data)} bytes",
            )
        return data

    def release(self, ref: BundleRef) -> int:
        """The release counter that the fleet signed for a bundle; raises as :meth:`manifest`."""
        custom: object = self._check(ref).custom
        release = custom.get("release") if isinstance(custom, dict) else None
        if not isinstance(release, int) or isinstance(release, bool) or release < 1:
            raise RefusedError("bad-metadata", f"{ref} is signed without a release counter")
        return release

    def _target(self, name: str) -> TargetFile:
        if self._trusted is None or name not in self._trusted.targets.targets:
            self.refresh()
        assert self._trusted is not None
        target = self._trusted.targets.targets.get(name)
        if target is None:
            raise RefusedError("not-published", f"{name[:200]} is not in the fleet's signed list")
        return target

    def _check(self, ref: BundleRef) -> TargetFile:
        target = self._target(_target_name(ref))
        if target.hashes.get("sha256") != ref.manifest_sha256:
            raise RefusedError(
                "wrong-manifest",
                f"{ref} is signed with another manifest: expected sha256 "
                f"{ref.manifest_sha256[:12]}..., signed "
                f"{target.hashes.get('sha256', 'none')[:12]}...",
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
        self._trusted = trusted

    def _start(self) -> TrustedMetadataSet:
        from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
        from tuf.ngclient.config import EnvelopeType

        with named("root"):
            trusted = TrustedMetadataSet(self._root, EnvelopeType.METADATA)
        _check_distinct_keys(trusted)
        # The set compares expiries with this time. An unset clock cannot judge them: compare
        # with a time at which nothing has expired, and keep every other check.
        now = datetime.fromtimestamp(max(0.0, self._clock()), UTC)
        trusted.reference_time = now if self.clock == "synced" else datetime.min.replace(tzinfo=UTC)
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
            _check_distinct_keys(trusted)
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
        from tuf.api.exceptions import RepositoryError

        stored = self._load("targets")
        if stored is not None:
            try:
                trusted.update_targets(stored)
                return
            except RepositoryError:
                pass  # not the version that the snapshot names
        with named("targets"):
            meta = trusted.snapshot.meta.get("targets.json")
        if meta is None:
            raise RefusedError("mix-and-match", "the signed snapshot names no targets.json")
        cap = min(meta.length or limits.MAX_METADATA_BYTES, limits.MAX_METADATA_BYTES)
        data = self._download(f"metadata/{meta.version}.targets.json", cap)
        with named("targets"):
            trusted.update_targets(data)
        self._store("targets", data)

    def _download(self, path: str, cap: int) -> bytes:
        if self._monotonic() > self._deadline:
            raise UnavailableError(
                "slow-retrieval", f"the repository took over {REFRESH_SECONDS:.0f} s; tried {path}"
            )
        try:
            data = self._fetch(path, cap)
        except ShoalError as error:
            if error.code in ("too-large", "endless-data"):
                raise _endless(path, cap) from None
            raise
        if len(data) > cap:
            raise _endless(path, cap)
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


def _check_distinct_keys(trusted: TrustedMetadataSet) -> None:
    """Refuses a root that lists one key under two ids: its holder would count twice."""
    for name, role in trusted.root.roles.items():
        listed = [trusted.root.keys.get(keyid) for keyid in role.keyids]
        keys = [str(key.keyval.get("public")) for key in listed if key is not None]
        if len(set(keys)) != len(keys):
            raise RefusedError("wrong-root", f"root.json lists a key of {name} twice")


def _endless(path: str, cap: int) -> RefusedError:
    return RefusedError("endless-data", f"{path} is larger than the {cap} bytes it may have")


@contextmanager
def named(role: str) -> Iterator[None]:
    """Turns python-tuf's errors into refusals that name the attack."""
    from tuf.api import exceptions as tuf

    try:
        yield
    except tuf.EqualVersionNumberError:
        raise
    except tuf.ExpiredMetadataError as error:
        code = "freeze" if "timestamp" in str(error) or "snapshot" in str(error) else "expired"
        raise RefusedError(code, f"{error}: the fleet's controller must sign it anew") from None
    except tuf.LengthOrHashMismatchError as error:
        raise RefusedError(
            "mix-and-match", f"{role}.json does not belong to the signed state: {error}"
        ) from None
    except tuf.BadVersionNumberError as error:
        code = {"root": "wrong-root", "targets": "mix-and-match"}.get(role, "rollback")
        raise RefusedError(code, f"{role}.json: {error}") from None
    except tuf.UnsignedMetadataError as error:
        code = "wrong-root" if role == "root" else "wrong-signature"
        raise RefusedError(code, f"{role}.json: {error}") from None
    except tuf.RepositoryError as error:
        raise RefusedError("bad-metadata", f"{role}.json: {str(error)[:300]}") from None
