"""Releases of the agent in the signed repository: archives of wheels, one a platform and Python.

An archive is there twice under one inode: as the target that is signed, and as a blob by its
sha256, which devices fetch in parts and as a patch as they do the files of models.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from tuf.api.metadata import TargetFile

from contracts import release
from contracts.bundle import sha256_file
from contracts.errors import InputError, RefusedError
from contracts.release import ReleaseArchive
from fleet import durable
from fleet.repository import delta, paths
from fleet.repository.repository import Repository

_CHUNK: Final = 1 << 20


class Published(msgspec.Struct, frozen=True):
    """A signed release.

    Attributes:
        target: its name.
        version: of the agent.
        platform, python: whose it is.
        sha256, size: of the archive.
        path: of the archive, relative to the repository.
    """

    target: str
    version: str
    platform: str
    python: str
    sha256: str
    size: int
    path: str


def published(repository: Repository) -> list[Published]:
    """Every signed release, by version, platform and Python; the newest version last."""
    found = []
    for name, (_, entry) in repository.signed().items():
        parts = release.parse_target(name)
        if parts is not None:
            sha256 = entry.hashes.get("sha256", "")
            path = paths.agent_release(name, sha256)
            found.append(Published(name, *parts, sha256, entry.length, path))
    return sorted(found, key=lambda one: (ordered(one.version), one.platform, one.python))


def ordered(version: str) -> tuple[int, ...]:
    """A version as what sorts."""
    return tuple(int(part) for part in version.split("."))


def newest(repository: Repository, platform: str, python: str) -> Published | None:
    """The newest signed release for a platform and Python."""
    mine = [
        one for one in published(repository) if (one.platform, one.python) == (platform, python)
    ]
    return mine[-1] if mine else None


class Archives:
    """Which archives are signed: ``{platform}-{python}`` by version, read when the list changed.

    Args:
        repository: that signs them.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._seen: tuple[int, int] | None = None
        self._found: dict[str, frozenset[str]] = {}

    def __call__(self) -> dict[str, frozenset[str]]:
        """What is signed now."""
        status = (self._repository.folder / paths.metadata("timestamp")).stat()
        seen = (status.st_mtime_ns, status.st_ino)  # it is written last, whatever changed
        if seen != self._seen:
            found: dict[str, set[str]] = {}
            for one in published(self._repository):
                found.setdefault(one.version, set()).add(f"{one.platform}-{one.python}")
            self._found = {version: frozenset(tags) for version, tags in found.items()}
            self._seen = seen
        return self._found


@contextlib.contextmanager
def signing(
    repository: Repository, name: str, sha256: str, size: int, *, replace: bool, what: str
) -> Iterator[None]:
    """Signs a release once the block has kept its files; again with the same bytes changes nothing.

    Args:
        repository: with the targets key; locked within.
        name: of the target.
        sha256: of the target.
        size: of the target, in bytes.
        replace: other bytes for a name that is signed.
        what: the release has, to name in an error.

    Raises:
        RefusedError: ``version-taken``; before the block.
    """
    with repository.locked():
        targets = repository.metadata.targets().signed
        known = targets.targets.get(name)
        same = known is not None and known.hashes.get("sha256") == sha256
        if known is not None and not same and not replace:
            raise RefusedError(
                "version-taken",
                f"{name} is signed with other {what}: use --replace to sign these instead",
            )
        yield
        if not same:
            targets.targets[name] = TargetFile(size, {"sha256": sha256}, name)
            targets.version += 1
            repository.metadata.write_targets(targets)


def publish(repository: Repository, archive: ReleaseArchive, *, replace: bool = False) -> Published:
    """Signs an archive; again with the same bytes changes nothing.

    Args:
        repository: with the targets key.
        archive: checked whole here.
        replace: other wheels for a version that is signed. Devices that run it keep theirs.

    Raises:
        RefusedError: ``version-taken``; the release is signed with other bytes.
        InputError: the archive is not whole, or a key is missing.
    """
    archive.verify()
    sha256, size = sha256_file(archive.path), archive.path.stat().st_size
    name = archive.release.target
    before = newest(repository, archive.release.platform, archive.release.python)
    with signing(repository, name, sha256, size, replace=replace, what="wheels"):
        _store(repository.folder, archive.path, name, sha256, size)
        if before is not None and before.sha256 != sha256:
            _patch(repository.folder, before.sha256, sha256)
    return Published(
        name,
        archive.release.version,
        archive.release.platform,
        archive.release.python,
        sha256,
        size,
        paths.agent_release(name, sha256),
    )


def withdraw(repository: Repository, name: str) -> None:
    """Takes a release out of the signed list; devices that run it keep it.

    Raises:
        InputError: ``no-such-release``.
    """
    with repository.locked():
        targets = repository.metadata.targets().signed
        if release.parse_target(name) is None or name not in targets.targets:
            raise InputError("no-such-release", f"{name[:100]} is not signed here")
        del targets.targets[name]
        targets.version += 1
        repository.metadata.write_targets(targets)


def _store(folder: Path, archive: Path, name: str, sha256: str, size: int) -> None:
    blob, target = folder / paths.blob(sha256), folder / paths.agent_release(name, sha256)
    if not blob.is_file() or blob.stat().st_size != size:
        with durable.staged(blob) as file:
            file.write_all(_parts(archive))
            file.swap()
    durable.make_folder(target.parent)
    if not target.is_file() or target.stat().st_size != size:
        target.unlink(missing_ok=True)
        try:
            os.link(blob, target)
        except OSError:  # a file system without links
            with durable.staged(target) as file:
                file.write_all(_parts(archive))
                file.swap()
        durable.sync_folder(target.parent)


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _patch(folder: Path, old: str, new: str) -> None:
    path = folder / paths.delta(old, new)
    if path.exists():
        return
    patch = delta.make(
        delta.read_capped(folder / paths.blob(old)), delta.read_capped(folder / paths.blob(new))
    )
    if patch is not None:
        durable.write(path, patch)


__all__ = ["Archives", "Published", "newest", "ordered", "publish", "published", "withdraw"]
