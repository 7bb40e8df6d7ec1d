"""Statements on published bundles. The signed repository is the truth; this is its index."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from contracts.bundle import decode_manifest
from contracts.errors import InputError, RefusedError
from contracts.manifest import Manifest
from contracts.messages import BundleRef
from fleet.store import Store
from fleet.store.documents import load
from fleet.store.schema import BUNDLE


class Published(msgspec.Struct, frozen=True):
    """A published bundle: its reference, release counter, and manifest.

    A withdrawn one stays, for what ran it and for its rollouts; its release counter is 0.
    """

    ref: BundleRef
    release: int
    manifest: Manifest
    published_at: float
    has_report: bool

    @property
    def withdrawn(self) -> bool:
        """Whether the signed list has it no more: devices refuse it."""
        return self.release == 0


def _published(row: Any) -> Published:
    return Published(
        BundleRef(row.name, row.version, row.sha256),
        row.release,
        decode_manifest(row.manifest.encode()),
        row.published_at,
        row.has_report,
    )


_QUERY = sa.select(
    BUNDLE.c.name,
    BUNDLE.c.version,
    BUNDLE.c.sha256,
    BUNDLE.c.release,
    BUNDLE.c.manifest,
    BUNDLE.c.published_at,
    BUNDLE.c.report.is_not(None).label("has_report"),
)


def every(connection: sa.Connection) -> list[Published]:
    """All published bundles, newest first, and then the withdrawn ones."""
    return [_published(r) for r in connection.execute(_QUERY.order_by(BUNDLE.c.release.desc()))]


def names(connection: sa.Connection) -> dict[str, BundleRef]:
    """All bundles by the sha256 of their manifests, withdrawn ones too; no manifest is read."""
    rows = connection.execute(sa.select(BUNDLE.c.name, BUNDLE.c.version, BUNDLE.c.sha256))
    return {row.sha256: BundleRef(row.name, row.version, row.sha256) for row in rows}


def find(connection: sa.Connection, name: str, version: str) -> Published:
    """One published bundle, or a withdrawn one.

    Raises:
        InputError: ``no-such-bundle``.
    """
    row = connection.execute(
        _QUERY.where(BUNDLE.c.name == name, BUNDLE.c.version == version)
    ).first()
    if row is None:
        raise InputError(
            "no-such-bundle", f"{name[:64]} {version[:32]} is not published: publish it first"
        )
    return _published(row)


def check_offered(connection: sa.Connection, ref: BundleRef) -> None:
    """Raises when no device would install a bundle.

    Raises:
        RefusedError: ``bundle-withdrawn``.
    """
    release = connection.scalar(
        sa.select(BUNDLE.c.release).where(BUNDLE.c.sha256 == ref.manifest_sha256)
    )
    if release == 0:
        raise RefusedError(
            "bundle-withdrawn",
            f"{ref} was withdrawn, and devices refuse it: choose another version, or publish "
            "the same bytes again",
        )


def withdraw(connection: sa.Connection, ref: BundleRef) -> None:
    """Marks a bundle as withdrawn; :func:`add` makes it available again."""
    connection.execute(
        BUNDLE.update().where(BUNDLE.c.sha256 == ref.manifest_sha256).values(release=0)
    )


def report(connection: sa.Connection, name: str, version: str) -> dict[str, Any] | None:
    """The build report of a bundle, when it was published with one."""
    text = connection.scalar(
        sa.select(BUNDLE.c.report).where(BUNDLE.c.name == name, BUNDLE.c.version == version)
    )
    return load(text, dict[str, Any]) if text else None


def add(
    store: Store,
    connection: sa.Connection,
    ref: BundleRef,
    release: int,
    manifest_bytes: bytes,
    now: float,
    build_report: str | None = None,
) -> None:
    """Indexes a published bundle: what the signed repository says replaces what was here.

    A report stays when the bundle comes again without one; not one of other bytes.
    """
    manifest = decode_manifest(manifest_bytes)
    signed = {
        "sha256": ref.manifest_sha256,
        "task": manifest.task,
        "release": release,
        "bytes": manifest.total_bytes,
        "manifest": manifest_bytes.decode(),
    }
    insert = store.insert(BUNDLE).values(
        name=ref.name, version=ref.version, report=build_report, published_at=now, **signed
    )
    same = sa.case((BUNDLE.c.sha256 == insert.excluded.sha256, BUNDLE.c.report))
    merged = sa.func.coalesce(insert.excluded.report, same)
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=["name", "version"], set_={**signed, "report": merged}
        )
    )
