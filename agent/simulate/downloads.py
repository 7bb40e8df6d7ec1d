"""Bundles from the controller's repository over HTTP, every digest checked."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import urllib3

from agent.simulate.host import Fetch, Fetched
from agent.simulate.state import Counters
from contracts import authorities, bundle, limits
from contracts.errors import ErrorInfo, RefusedError, ShoalError, UnavailableError
from contracts.messages import BundleRef

_THREADS: Final = 8
_CHUNK: Final = 64 * 1024


class Downloads:
    """Downloads for all devices of a process, a few at a time.

    A manifest alone is read once for all devices; with ``full`` every device reads every
    byte, hashes it and keeps none.

    Args:
        repository_url: base URL; None: nothing can be downloaded.
        counters: shared by all devices of the process.
        ca: PEM text of authorities that the repository may be of, beside the system's.
    """

    def __init__(self, repository_url: str | None, counters: Counters, ca: str = "") -> None:
        self._base = repository_url.rstrip("/") if repository_url else None
        self._counters = counters
        self._manifests: dict[str, Fetched] = {}
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._http = urllib3.PoolManager(
            maxsize=_THREADS, timeout=20.0, retries=3, ssl_context=authorities.context(ca)
        )
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="download")

    def close(self) -> None:
        """Stops; downloads that wait are not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._http.clear()

    def start(self, wanted: Fetch, done: Callable[[Fetched], None]) -> None:
        """Begins a download; `done` is called on the event loop."""
        loop = asyncio.get_running_loop()
        if self._base is None:
            loop.call_soon(done, Fetched())
            return
        known = self._manifests.get(wanted.ref.manifest_sha256)
        if known is not None and not wanted.full:
            loop.call_soon(done, known)
            return

        def work() -> None:
            result = self._fetch(wanted)
            loop.call_soon_threadsafe(done, result)

        self._threads.submit(work)

    def _fetch(self, wanted: Fetch) -> Fetched:
        try:
            with self._lock:
                known = self._manifests.get(wanted.ref.manifest_sha256)
                if known is None or wanted.full:
                    known = self._manifest(wanted.ref)
                    self._manifests[wanted.ref.manifest_sha256] = known
            assert known.manifest is not None
            if wanted.full:
                for entry in known.manifest.files:
                    self._file(f"blobs/{entry.sha256}", entry.sha256, entry.size)
        except ShoalError as error:
            return Fetched(error=error.info)
        except Exception as error:  # noqa: BLE001 - on a pool's thread nobody would hear of it
            return Fetched(error=ErrorInfo("unavailable", f"download failed: {str(error)[:300]}"))
        return known

    def _manifest(self, ref: BundleRef) -> Fetched:
        sha = ref.manifest_sha256
        path = f"targets/bundles/{ref.name}/{ref.version}/{sha}.manifest.json"
        data = self._file(path, sha, limits.MAX_MANIFEST_BYTES, keep=True)
        manifest = bundle.decode_manifest(data)
        return Fetched(manifest, manifest.total_bytes)

    def _file(self, path: str, sha256: str, cap: int, *, keep: bool = False) -> bytes:
        response = self._http.request("GET", f"{self._base}/{path}", preload_content=False)
        digest, kept, size = hashlib.sha256(), bytearray(), 0
        try:
            if response.status != 200:
                raise UnavailableError("unavailable", f"GET {path} answered {response.status}")
            for chunk in response.stream(_CHUNK):
                size += len(chunk)
                if size > cap:
                    raise RefusedError("endless-data", f"{path} has more than {cap} bytes")
                digest.update(chunk)
                if keep:
                    kept += chunk
        finally:
            response.release_conn()
        with self._counting:
            self._counters.downloaded_bytes += size
        if digest.hexdigest() != sha256:
            raise RefusedError("bad-digest", f"{path} does not have the digest {sha256}")
        return bytes(kept)
