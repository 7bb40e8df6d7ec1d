"""Bundles that were signed elsewhere, and who may sign which: signed list, index and audit log.

What changes in the signed repository (:mod:`fleet.repository.delegation`) changes the index of
bundles with it, and each has its entry in the audit log.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import sqlalchemy as sa

from contracts import limits
from contracts.bundle import Bundle
from contracts.errors import InputError
from contracts.messages import BundleRef
from fleet.folder import Fleet
from fleet.parts import passphrase
from fleet.repository import Repository, delegation, keys, paths
from fleet.store import Store, audit, bundles
from fleet.store.audit import Act
from fleet.store.entries import Actor


class TakenIn(msgspec.Struct, frozen=True):
    """What came with signed metadata.

    Attributes:
        role: whose.
        published, withdrawn: bundles that were not, and are no more, in the signed list.
    """

    role: str
    published: list[BundleRef]
    withdrawn: list[BundleRef]


def take_in(
    fleet: Fleet, signed: Path, files: Sequence[Path], *, actor: Actor | None = None
) -> TakenIn:
    """Publishes what a role signed on another machine.

    Args:
        fleet: with the online keys.
        signed: the role's metadata.
        files: folders or files of bundles that are new in it.
        actor: who does it; None: the user of this machine.

    Raises:
        ShoalError: what :func:`fleet.repository.delegation.take_in` refuses.
    """
    data = read(signed)
    opened = [Bundle.open(path) for path in files]
    repository = fleet.open_repository()
    with _changing(fleet, repository, "bundle.publish", signed.name, actor) as (act, done):
        act.detail["signed_by"] = role = delegation.take_in(repository, data, opened)
        published, withdrawn = done(act)
    return TakenIn(role, published, withdrawn)


def delegate(
    fleet: Fleet,
    role: str,
    patterns: Sequence[str],
    public: Sequence[Path],
    threshold: int = 1,
    *,
    keys_folder: Path | None = None,
) -> None:
    """Lets a role sign bundles of some names; see :func:`fleet.repository.delegation.delegate`."""
    repository = _with_keys(fleet, keys_folder)
    with _changing(fleet, repository, "keys.delegate", role, None) as (act, done):
        act.detail |= {"patterns": list(patterns), "threshold": threshold}
        delegation.delegate(
            repository, role, patterns, [keys.load_public(path) for path in public], threshold
        )
        done(act)


def revoke(fleet: Fleet, role: str, *, keys_folder: Path | None = None) -> list[BundleRef]:
    """Takes a delegation away; returns the bundles that nobody signs any more."""
    repository = _with_keys(fleet, keys_folder)
    with _changing(fleet, repository, "keys.undelegate", role, None) as (act, done):
        delegation.revoke(repository, role)
        _, withdrawn = done(act)
    return withdrawn


def read(path: Path) -> bytes:
    """Signed metadata from a file.

    Raises:
        InputError: ``no-such-file``, ``bad-metadata``.
    """
    try:
        if path.stat().st_size > limits.MAX_METADATA_BYTES:
            raise InputError("bad-metadata", f"{path} is over {limits.MAX_METADATA_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise InputError("no-such-file", f"{path} cannot be read: {error.strerror}") from None


class _Done:
    """Brings the index up to date with the signed list, and ends the entry with it."""

    def __init__(self, store: Store, repository: Repository) -> None:
        self._store = store
        self._repository = repository
        self._before = repository.bundles()

    def __call__(self, act: Act) -> tuple[list[BundleRef], list[BundleRef]]:
        after = self._repository.bundles()
        new = [ref for ref in after if ref not in self._before]
        gone = [ref for ref in self._before if ref not in after]
        act.detail |= {"published": _names(new), "withdrawn": _names(gone)}
        with self._store.write() as connection:
            for ref in new:
                self._add(connection, ref, after)
            for ref in gone:
                bundles.withdraw(connection, ref)
            act.done(connection)
        return new, gone

    def _add(
        self, connection: sa.Connection, ref: BundleRef, after: Mapping[BundleRef, int]
    ) -> None:
        manifest = (self._repository.folder / paths.manifest(ref)).read_bytes()
        bundles.add(self._store, connection, ref, after[ref], manifest, time.time())


@contextlib.contextmanager
def _changing(
    fleet: Fleet, repository: Repository, action: str, target: str, actor: Actor | None
) -> Iterator[tuple[Act, _Done]]:
    with (
        contextlib.closing(fleet.open_store()) as store,
        audit.acting(store, actor or audit.local(), action, target) as act,
    ):
        yield act, _Done(store, repository)


def _names(refs: Sequence[BundleRef]) -> list[str]:
    return [f"{ref.name} {ref.version}" for ref in refs]


def _with_keys(fleet: Fleet, keys_folder: Path | None) -> Repository:
    return Repository.open(
        fleet.folder / "repository", keys_folder or fleet.keys_folder, passphrase=passphrase()
    )
