"""Repository files over HTTP(S), with ranges, so that a download resumes at any byte."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import quote, urlsplit

from agent.update.fetch import NO_SUCH_FILE, Transfer
from contracts.errors import InputError, UnavailableError

CONNECT_S: Final = 10.0
"""Seconds to connect."""

READ_S: Final = 20.0
"""Seconds between two pieces of an answer."""

MIN_BYTES_PER_S: Final = 500
"""A server that is slower on average, after :data:`GRACE_S`, drips bytes to hold us up."""

GRACE_S: Final = 30.0
"""Seconds in which an answer may be slower than :data:`MIN_BYTES_PER_S`."""

CHUNK_BYTES: Final = 64 * 1024


class Http:
    """Reads below a base URL. Redirects are not followed, nothing is unpacked.

    Args:
        base_url: of the repository, ``http`` or ``https``.
        context: for ``https``; None: the system's authorities.
        monotonic: seconds that never jump.

    Raises:
        InputError: ``bad-url``.
    """

    def __init__(
        self,
        base_url: str,
        context: ssl.SSLContext | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not _is_base_url(base_url):
            raise InputError("bad-url", f"{base_url[:200]!r} is not an http or https base URL")
        self._base = base_url.rstrip("/") + "/"
        self._context = context
        self._monotonic = monotonic
        self._pool: Any = None
        self._answer: Any = None

    def open(self, path: str, offset: int = 0) -> Transfer:
        """As :meth:`agent.update.fetch.Fetcher.open`."""
        import urllib3  # not needed by a device that does not update

        if self._pool is None:
            self._pool = urllib3.PoolManager(
                num_pools=1,
                maxsize=1,
                retries=False,
                timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
                ssl_context=self._context,
            )
        if self._answer is not None:
            self._answer.close()  # a read that was never begun or never ended
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        try:
            answer = self._pool.request(
                "GET",
                self._base + quote(path),
                preload_content=False,
                redirect=False,
                decode_content=False,
                headers=headers,
            )
        except urllib3.exceptions.HTTPError as error:
            raise UnavailableError(
                "repository-unreachable", f"{self._base}: {str(error)[:300]}"
            ) from None
        try:
            total, skip = _extent(answer, path, offset)
        except BaseException:
            answer.close()
            raise
        self._answer = answer
        return Transfer(total, _chunks(answer, path, skip, total - offset, self._monotonic))


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    return named and parts.scheme in ("http", "https") and not parts.query and not parts.fragment


def _extent(answer: Any, path: str, offset: int) -> tuple[int, int]:
    """Bytes of the whole file, and how many of the answer come before `offset`."""
    if answer.status in (403, 404, 410):
        raise UnavailableError(NO_SUCH_FILE, f"the repository has no {path}")
    if answer.status == 416:
        return offset, 0
    length = answer.headers.get("Content-Length", "")
    if answer.status == 200 and length.isdigit():
        return int(length), min(offset, int(length))
    if answer.status == 206:
        match = re.fullmatch(
            r"bytes (\d{1,15})-\d{1,15}/(\d{1,15})", answer.headers.get("Content-Range", "")
        )
        if match and int(match[1]) == offset:
            return int(match[2]), 0
    raise UnavailableError(
        "repository-unreachable", f"{path}: the server answered {answer.status} without its length"
    )


def _chunks(
    answer: Any, path: str, skip: int, wanted: int, monotonic: Callable[[], float]
) -> Iterator[bytes]:
    from urllib3.exceptions import HTTPError

    try:
        got = arrived = 0
        waited = 0.0
        while True:
            before = monotonic()
            # read1 gives what is there: a read of a fixed size would wait for all of it.
            chunk = answer.read1(CHUNK_BYTES)
            waited += monotonic() - before
            if not chunk:
                break
            arrived += len(chunk)
            if waited > GRACE_S and arrived < waited * MIN_BYTES_PER_S:
                raise UnavailableError(
                    "slow-retrieval", f"{path}: {arrived} bytes in {waited:.0f} s"
                )
            if skip:
                cut = min(skip, len(chunk))
                chunk = chunk[cut:]
                skip -= cut
            got += len(chunk)
            if chunk:
                yield chunk
        if got < wanted:
            raise UnavailableError("repository-unreachable", f"{path} ended early, at byte {got}")
    except (HTTPError, OSError) as error:
        raise UnavailableError("repository-unreachable", f"{path}: {str(error)[:300]}") from None
    finally:
        answer.close()
        answer.release_conn()
