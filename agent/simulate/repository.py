"""The repository for all devices of a process: its files over HTTP, its signatures checked once."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from agent.simulate.disk import Contents, MemoryDisk
from agent.simulate.host import Waiting
from agent.trust.client import MAX_TIMESTAMP_BYTES, Trust
from agent.update.fetch import NO_SUCH_FILE, Transfer
from agent.update.http import Http
from contracts import limits
from contracts.bundle import decode_manifest
from contracts.config import TlsConfig
from contracts.connection import tls_context
from contracts.errors import InputError, RefusedError, ShoalError, UnavailableError
from contracts.manifest import Manifest
from contracts.messages import BundleRef
from contracts.simulation import Counters

_THREADS: Final = 8

FRESH_S: Final = 60.0
"""Seconds for which signatures that were checked are good for a device that finds the same."""

_NEWEST: Final = "metadata/timestamp.json"
"""What every device reads before each update: it says whether there is anything new."""

_NAMED_BY_CONTENT: Final = ("blobs/", "deltas/", "targets/")
"""Files that are always the same."""

Heard = Callable[[float, float], None]


class Got(msgspec.Struct, frozen=True):
    """A file, or the rest of it, as it came.

    Attributes:
        data: the bytes from the offset on.
        total: bytes of the whole file.
        told: the server's time, and when it was asked.
        error: why there is nothing.
    """

    data: bytes = b""
    total: int = 0
    told: tuple[float, float] | None = None
    error: ShoalError | None = None


class Repository:
    """Reads files over HTTP, a few at a time.

    Args:
        url: base URL; None: devices ask for blocks over MQTT.
        counters: shared by all devices of the process.
        tls: who the devices are, and authorities that the repository may be of.
        folder: what relative PEM paths are relative to.
    """

    def __init__(
        self,
        url: str | None,
        counters: Counters,
        tls: TlsConfig | None = None,
        folder: Path = Path(),
    ) -> None:
        self.url = url
        self._counters = counters
        self._tls = tls
        self._folder = folder
        self._own = threading.local()
        self._counting = threading.Lock()
        self._known: dict[str, Got] = {}
        self._asked: dict[str, list[Callable[[Got], None]]] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="download")

    def close(self) -> None:
        """Stops; downloads that wait are not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def read(self, path: str, offset: int = 0) -> Got:
        """A file from an offset on, on any thread."""
        told: list[tuple[float, float]] = []
        try:
            transfer = self._http(told).open(path, offset)
            data = b"".join(transfer.chunks)
        except ShoalError as error:
            return Got(told=told[-1] if told else None, error=error)
        except Exception as error:  # noqa: BLE001 - on a pool's thread nobody would hear of it
            why = f"download failed: {type(error).__name__}: {str(error)[:300]}"
            return Got(error=UnavailableError("repository-unreachable", why))
        with self._counting:
            self._counters.downloaded_bytes += len(data)
        return Got(data, transfer.total, told[-1] if told else None)

    def _http(self, told: list[tuple[float, float]]) -> Http:
        assert self.url is not None
        if not hasattr(self._own, "http"):
            own = self._own
            tls = self._tls
            context = None if tls is None else tls_context(tls, self._folder)
            own.http = Http(
                self.url, lambda: context, heard=lambda at, sent: own.told.append((at, sent))
            )
        self._own.told = told
        found: Http = self._own.http
        return found

    def start(self, path: str, offset: int, done: Callable[[Got], None], *, once: bool) -> None:
        """Begins to read; `done` is called on the event loop.

        Args:
            path: which file.
            offset: from where on.
            done: told what came.
            once: what is named by its content is read once for all devices.
        """
        loop = asyncio.get_running_loop()
        if not once or not path.startswith(_NAMED_BY_CONTENT):
            self._submit(path, offset, lambda got: loop.call_soon_threadsafe(done, got))
            return

        def rest(got: Got) -> None:
            if offset and got.error is None:
                got = msgspec.structs.replace(got, data=got.data[offset:])
            done(got)

        known = self._known.get(path)
        if known is not None:
            loop.call_soon(rest, known)
            return
        waiting = self._asked.setdefault(path, [])
        waiting.append(rest)
        if len(waiting) == 1:
            self._submit(path, 0, lambda got: loop.call_soon_threadsafe(self._came, path, got))

    def _submit(self, path: str, offset: int, came: Callable[[Got], object]) -> None:
        self._threads.submit(lambda: came(self.read(path, offset)))

    def _came(self, path: str, got: Got) -> None:
        if got.error is None or got.error.code == NO_SUCH_FILE:
            self._known[path] = got
        for done in self._asked.pop(path):
            done(got)


class Reach:
    """The repository as one device reads it (:class:`agent.update.fetch.Fetcher`).

    Args:
        repository: of the process.
        waiting: where the device waits.
        heard: takes the server's time.
        once: what is named by its content is read once for all devices.
    """

    def __init__(
        self, repository: Repository, waiting: Waiting, heard: Heard, *, once: bool
    ) -> None:
        self._repository = repository
        self._waiting = waiting
        self._heard = heard
        self._once = once

    def open(self, path: str, offset: int = 0) -> Transfer:
        """As :meth:`agent.update.fetch.Fetcher.open`."""

        def begin(go_on: Callable[[Got], None]) -> None:
            self._repository.start(path, offset, go_on, once=self._once)

        got = self._waiting.on(begin)
        if got.told is not None:
            self._heard(*got.told)
        if got.error is not None:
            # Another for each: one that is raised again and again keeps all those frames.
            raise UnavailableError(got.error.code, str(got.error))
        return Transfer(got.total, iter([got.data] if got.data else []))


class SharedTrust:
    """The fleet's signatures, checked by the agent's code once for all devices of a process.

    A simulated device is not enrolled: it takes the repository's first root for the fleet's.

    Args:
        contents: of all disks.
    """

    def __init__(self, contents: Contents) -> None:
        self._disk = MemoryDisk(contents)
        self._trust: Trust | None = None
        self._fetch: Callable[[str, int], bytes] = _nothing
        self._checked = b""
        self._manifests: dict[BundleRef, bytes] = {}
        self._fresh_until = 0.0
        self._busy = False
        self._waiting: list[tuple[Waiting, Callable[[None], None]]] = []

    def newest(self, waiting: Waiting, fetch: Callable[[str, int], bytes], ref: BundleRef) -> bytes:
        """As :meth:`agent.trust.client.Trust.newest`.

        Args:
            waiting: where the device waits.
            fetch: how it reads files.
            ref: whose manifest.
        """
        newest = fetch(_NEWEST, MAX_TIMESTAMP_BYTES)
        if self._is_checked(newest) and ref in self._manifests:
            return self._manifests[ref]
        while self._busy:
            waiting.on(functools.partial(self._queue, waiting))
        self._busy, self._fetch = True, fetch
        try:
            if self._trust is None:
                self._trust = first_trust(self._read, self._disk)
            if not self._is_checked(newest):
                self._manifests.clear()
                self._trust.refresh()
                self._checked, self._fresh_until = newest, time.monotonic() + FRESH_S
            if ref not in self._manifests:
                self._manifests[ref] = self._trust.manifest(ref)
            return self._manifests[ref]
        finally:
            self._busy = False
            if self._waiting:
                other, go_on = self._waiting.pop(0)
                other.host.later(0, lambda: go_on(None))

    def _is_checked(self, newest: bytes) -> bool:
        return newest == self._checked and time.monotonic() < self._fresh_until

    def _queue(self, waiting: Waiting, go_on: Callable[[None], None]) -> None:
        self._waiting.append((waiting, go_on))

    def _read(self, path: str, cap: int) -> bytes:
        return self._fetch(path, cap)


def _nothing(path: str, cap: int) -> bytes:
    raise UnavailableError("no-way", f"nobody reads {path} of {cap} bytes")


def first_trust(fetch: Callable[[str, int], bytes], disk: MemoryDisk) -> Trust:
    """What believes the repository's first root."""
    root = fetch("metadata/1.root.json", limits.MAX_METADATA_BYTES)
    return Trust(Path("/trust"), root, fetch, fs=disk)


class Installed(msgspec.Struct, frozen=True):
    """A bundle that devices have from the start.

    Attributes:
        slot: where it serves.
        ref: which.
        manifest_bytes: as signed.
        manifest: decoded.
        files: their bytes by sha256.
    """

    slot: str
    ref: BundleRef
    manifest_bytes: bytes
    manifest: Manifest
    files: dict[str, bytes]


def installed(repository: Repository, wanted: list[tuple[str, BundleRef]]) -> Iterator[Installed]:
    """Reads what devices have from the start; to be called on a thread.

    Args:
        repository: of the process.
        wanted: slots and their bundles.

    Raises:
        InputError: ``needs-repository``.
        ShoalError: a bundle cannot be had.
    """
    if not wanted:
        return
    if repository.url is None:
        raise InputError(
            "needs-repository",
            "the scenario starts with bundles, and this fleet has no repository over HTTP to "
            "read them from: set http_repository: true in fleet.yaml, or leave out 'start'",
        )

    def fetch(path: str, cap: int) -> bytes:
        got = repository.read(path)
        if got.error is not None:
            raise got.error
        if len(got.data) > cap:
            raise RefusedError("endless-data", f"{path} has more than {cap} bytes")
        return got.data

    trust = first_trust(fetch, MemoryDisk(Contents()))
    for slot, ref in wanted:
        data = trust.newest(ref)
        manifest = decode_manifest(data)
        files = {e.sha256: fetch(f"blobs/{e.sha256}", e.size) for e in manifest.files}
        yield Installed(slot, ref, data, manifest, files)
