"""Getting a bundle onto the disk: its signed manifest, room for it, every file, and the release."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from agent.system.clock import Clock
from agent.system.filesystem import is_full
from agent.trust.client import Signed
from agent.update import fit, machine
from agent.update.download import Downloader, Progress
from agent.update.fetch import Fetcher
from agent.update.ledger import Ledger
from agent.update.machine import Update
from agent.update.store import Store
from agent.update.waiting import Waiting
from contracts.board import Board
from contracts.bundle import decode_manifest, sha256_of
from contracts.errors import InputError, RefusedError
from contracts.manifest import Manifest
from contracts.messages import BundleRef

PROGRESS_S: Final = 5.0
"""Seconds between two progress events of one download."""

REPORT_S: Final = 60.0
"""Seconds between two reports of it, which the broker keeps."""


class Trusted(Protocol):
    """Where signed manifests come from (:class:`agent.trust.client.Trust`)."""

    def newest(self, ref: BundleRef) -> bytes:
        """The manifest of a bundle that the newest signed list has."""

    def signed(self, name: str) -> Signed:
        """A target of the newest signed list; its bytes are no manifest."""


class Obtain:
    """Downloads for the updates of one device.

    Args:
        store: where bundles are kept.
        ledger: the running update.
        trust: signed manifests.
        fetcher: bundle files.
        fits: raises ``RefusedError`` when a bundle does not fit the device, in that slot.
        board: the device's profile.
        clock: the time.
        waiting: what the update waits for, until it gets on.
        interrupted: raises when a download may not go on.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        *,
        trust: Trusted,
        fetcher: Fetcher,
        fits: Callable[[Manifest, str], None],
        board: Board,
        clock: Clock,
        waiting: Waiting,
        interrupted: Callable[[], None],
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._trust = trust
        self._fetcher = fetcher
        self._fits = fits
        self._board = board
        self._clock = clock
        self._waiting = waiting
        self._interrupted = interrupted
        self._next_progress = self._next_report = 0.0

    def bundle(self, update: Update) -> None:
        """Gets an update's bundle, or goes on with getting it.

        Raises:
            ShoalError: it cannot be had, or not now.
            OSError: the disk refuses.
        """
        if update.state == "desired":
            self._ledger.apply(machine.Began())
        store = self._store
        store.prepare()
        data = self._trust.newest(update.bundle)
        manifest = _checked(data, update.bundle)
        self._fits(manifest, update.slot)
        sha256 = update.bundle.manifest_sha256
        store.collect(manifest, sha256)
        store.drop_wrong_blobs(manifest)
        if fit.is_short(manifest, store, self._board):
            store.collect(manifest, sha256, short=True)
        fit.check_space(manifest, store, self._board)
        store.note(sha256, manifest)
        self._next_progress = self._clock.monotonic() + PROGRESS_S
        self._next_report = self._clock.monotonic() + PROGRESS_S
        active = self._active_manifest(update)

        def check(progress: Progress) -> None:
            self.progressed(progress, manifest.total_bytes)

        downloader = Downloader(store, self._fetcher, check, monotonic=self._clock.monotonic)
        try:
            downloader.fetch(manifest, active)
            store.build(data, manifest)
        except OSError as error:
            if is_full(error):
                raise fit.disk_full(manifest, store) from None
            raise
        self._ledger.apply(machine.Downloaded(manifest.total_bytes))

    def _active_manifest(self, update: Update) -> Manifest | None:
        if update.old is None:
            return None
        try:
            return self._store.manifest(update.old.manifest_sha256)
        except (InputError, OSError):  # then there is no delta
            return None

    def progressed(self, progress: Progress, total: int) -> None:
        """Between pieces of a download: whether it may go on, and a progress event."""
        self._interrupted()
        now = self._clock.monotonic()
        journal = self._ledger.journal
        if now >= self._next_progress and journal.update is not None:
            self._next_progress = now + PROGRESS_S
            update = msgspec.structs.replace(
                journal.update, done_bytes=progress.done_bytes, total_bytes=total, reason=None
            )
            new = msgspec.structs.replace(journal, update=update)
            self._ledger.save(self._ledger.with_event(new, update, round(progress.bytes_per_s, 1)))
            self._ledger.send()
            if self._waiting.end() or now >= self._next_report:
                self._next_report = now + REPORT_S
                self._ledger.tell()


def _checked(data: bytes, ref: BundleRef) -> Manifest:
    """The signed manifest, which must be the one that was asked for."""
    manifest = decode_manifest(data)
    found = manifest.ref(sha256_of(data))
    if found != ref:
        raise RefusedError(
            "wrong-manifest",
            f"the signed manifest is of {found} ({found.manifest_sha256[:12]}...), "
            f"expected {ref} ({ref.manifest_sha256[:12]}...)",
        )
    return manifest
