"""Repository files over HTTP(S), with ranges, so that a download resumes at any byte."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from agent.update.fetch import NO_SUCH_FILE, Transfer
from contracts.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

CONNECT_S: Final = 10.0
"""Seconds to connect."""

READ_S: Final = 20.0
"""Seconds between two pieces of an answer."""

MIN_BYTES_PER_S: Final = 500
"""A server that is slower on average, after :data:`GRACE_S`, drips bytes to hold us up."""

GRACE_S: Final = 30.0
"""Seconds in which an answer may be slower than :data:`MIN_BYTES_PER_S`."""

CHUNK_BYTES: Final = 64 * 1024

# int() refuses some of what isdigit() takes, and more than 4,300 digits.
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_RANGE: Final = re.compile(r"bytes ([0-9]{1,15})-[0-9]{1,15}/([0-9]{1,15})")


class Http:
    """Reads below a base URL. Redirects are not followed, nothing is unpacked.

    The connection is kept, for one read after the other.

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
        parts = urlsplit(self._base)
        self._secure = parts.scheme == "https"
        self._address = parts.hostname or "", parts.port
        self._folder = quote(parts.path, safe="/%:@!$&'()*+,;=~")
        self._context = context
        self._monotonic = monotonic
        self._connection: HTTPConnection | None = None
        self._answer: HTTPResponse | None = None

    def __del__(self) -> None:
        if hasattr(self, "_connection"):  # not if the URL was refused
            self._drop()

    def open(self, path: str, offset: int = 0) -> Transfer:
        """As :meth:`agent.update.fetch.Fetcher.open`."""
        from http.client import HTTPException  # not needed by a device that does not update

        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        if self._answer is not None and not self._answer.isclosed():
            self._drop()  # a read that was never begun or never ended
        self._answer = None
        kept = self._connection is not None
        try:
            try:
                answer = self._ask(path, headers)
            except ConnectionError:
                if not kept:
                    raise
                self._drop()  # the server had closed it
                answer = self._ask(path, headers)
        except (HTTPException, OSError, ValueError) as error:  # a name that is none, too
            self._drop()
            raise UnavailableError(
                "repository-unreachable", f"{self._base}: {str(error)[:300]}"
            ) from None
        self._answer = answer
        try:
            total, skip = _extent(answer, path, offset)
        except BaseException:
            self._drop()
            raise
        return Transfer(total, self._chunks(answer, path, skip, total - offset))

    def _ask(self, path: str, headers: dict[str, str]) -> HTTPResponse:
        if self._connection is None or self._connection.sock is None:
            self._connection = self._connect()
        self._connection.request("GET", self._folder + quote(path), headers=headers)
        return self._connection.getresponse()

    def _connect(self) -> HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        host, port = self._address
        connection = (
            HTTPSConnection(host, port, timeout=CONNECT_S, context=self._context)
            if self._secure
            else HTTPConnection(host, port, timeout=CONNECT_S)
        )
        connection.connect()
        connection.sock.settimeout(READ_S)
        return connection

    def _drop(self) -> None:
        if self._answer is not None:
            self._answer.close()
        if self._connection is not None:
            self._connection.close()
        self._connection = self._answer = None

    def _chunks(self, answer: HTTPResponse, path: str, skip: int, wanted: int) -> Iterator[bytes]:
        from http.client import HTTPException

        try:
            got = arrived = 0
            waited = 0.0
            while True:
                before = self._monotonic()
                # read1 gives what is there: a read of a fixed size would wait for all of it.
                chunk = answer.read1(CHUNK_BYTES)
                waited += self._monotonic() - before
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
                raise UnavailableError(
                    "repository-unreachable", f"{path} ended early, at byte {got}"
                )
        except (HTTPException, OSError) as error:
            raise UnavailableError(
                "repository-unreachable", f"{path}: {str(error)[:300]}"
            ) from None
        finally:
            if answer.length == 0:
                answer.close()  # whole, which read1 does not notice: the connection is free
            elif answer is self._answer and not answer.isclosed():
                self._drop()


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    return named and parts.scheme in ("http", "https") and not parts.query and not parts.fragment


def _extent(answer: HTTPResponse, path: str, offset: int) -> tuple[int, int]:
    """Bytes of the whole file, and how many of the answer come before `offset`."""
    if answer.status in (403, 404, 410):
        raise UnavailableError(NO_SUCH_FILE, f"the repository has no {path}")
    if answer.status == 416:
        return offset, 0
    if answer.status == 200:
        match = _LENGTH.fullmatch(answer.headers.get("Content-Length", ""))
        if match:
            return int(match[0]), min(offset, int(match[0]))
    if answer.status == 206:
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if match and int(match[1]) == offset:
            return int(match[2]), 0
    raise UnavailableError(
        "repository-unreachable", f"{path}: the server answered {answer.status} without its length"
    )
