"""Repository files over HTTP(S), with ranges, so that a download resumes at any byte.

A server may drip its bytes to hold a device up for ever. A socket's timeout is for each piece
alone, and :mod:`http.client` reads lines, heads, trailers and answers of ``100 Continue`` as long
as pieces come. So all that happens until an answer has its head, and each read of its body, has
a time by which it is over (:class:`_Deadline`); and a body has a least rate.
"""

from __future__ import annotations

import io
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from agent.system import unreachable
from agent.system.controller_clock import WRONG, certificate_time
from agent.update.fetch import NO_SUCH_FILE, TIMED, Transfer
from contracts import authorities
from contracts.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from email.message import Message
    from http.client import HTTPConnection, HTTPResponse

CONNECT_S: Final = 10.0
"""Seconds to connect to an address, and again for the handshake of TLS."""

READ_S: Final = 20.0
"""Seconds between two pieces of an answer."""

HEAD_S: Final = 30.0
"""Seconds from the first try to connect to the end of an answer's head."""

MIN_BYTES_PER_S: Final = 500
"""A server that is slower on average, after :data:`GRACE_S`, drips bytes to hold us up."""

GRACE_S: Final = 30.0
"""Seconds in which a body may be slower than :data:`MIN_BYTES_PER_S`, and the most for a piece."""

CHUNK_BYTES: Final = 64 * 1024

# int() refuses some of what isdigit() takes, and more than 4,300 digits.
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_RANGE: Final = re.compile(r"bytes ([0-9]{1,15})-[0-9]{1,15}/([0-9]{1,15})")


class _Deadline:
    """When what is under way must be over.

    Args:
        monotonic: seconds that never jump.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._seconds = self.began = 0.0

    def begin(self, seconds: float) -> None:
        """From now on there is so much time."""
        self._seconds = seconds
        self.began = self._monotonic()

    def left(self, most: float) -> float:
        """Seconds that are left, at most `most`.

        Raises:
            UnavailableError: ``slow-retrieval``; there are none.
        """
        left = self.began + self._seconds - self._monotonic()
        if left <= 0:
            raise UnavailableError(
                "slow-retrieval", f"the server took over {self._seconds:.0f} s to answer"
            )
        return min(left, most)


class _Socket:
    """What :mod:`http.client` needs of a socket, with an end to every read and write."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._socket = sock
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        self._socket.settimeout(self._deadline.left(READ_S))
        self._socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        del mode  # "rb"
        return io.BufferedReader(_Pieces(self._socket, self._deadline))

    def close(self) -> None:
        self._socket.close()  # once the last file of it is closed


class _Pieces(io.RawIOBase):
    """The bytes of a socket as they come."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._socket = sock
        self._stream = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(self._deadline.left(READ_S))
        try:
            return self._stream.readinto(buffer)
        except TimeoutError:
            self._deadline.left(READ_S)
            raise

    def close(self) -> None:
        self._stream.close()
        super().close()


class Http:
    """Reads below a base URL. Redirects are not followed, nothing is unpacked.

    The connection is kept, for one read after the other.

    Args:
        base_url: of the repository, ``http`` or ``https``.
        context: for ``https``, asked for each connection, so that it may hold another certificate
            than the last; gives None: the system's authorities.
        monotonic: seconds that never jump.
        heard: takes the server's time, and when it was asked.

    Raises:
        InputError: ``bad-url``.
    """

    def __init__(
        self,
        base_url: str,
        context: Callable[[], ssl.SSLContext | None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        heard: Callable[[float, float], None] = lambda at, sent: None,
    ) -> None:
        self._heard = heard
        if not _is_base_url(base_url):
            raise InputError("bad-url", f"{base_url[:200]!r} is not an http or https base URL")
        self._base = base_url.rstrip("/") + "/"
        parts = urlsplit(self._base)
        self._secure = parts.scheme == "https"
        self._address = parts.hostname or "", parts.port or (443 if self._secure else 80)
        self._folder = quote(parts.path, safe="/%:@!$&'()*+,;=~")
        self._context = context
        self._monotonic = monotonic
        self._deadline = _Deadline(monotonic)
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
        self._deadline.begin(HEAD_S)
        asked = self._deadline.began
        try:
            try:
                answer = self._ask(path, headers)
            except ConnectionError:
                if not kept:
                    raise
                self._drop()  # the server had closed it
                answer = self._ask(path, headers)
        except UnavailableError:
            self._drop()
            raise
        except (HTTPException, OSError, ValueError, InputError) as error:  # no name, no certificate
            self._drop()
            clock = certificate_time(error, time.time())
            raise UnavailableError(
                WRONG if clock else "repository-unreachable",
                f"{self._base}: {clock or self._why(error)}",
            ) from None
        self._answer = answer
        at = _date(answer.headers) if path == TIMED else None
        if at is not None:
            self._heard(at, asked)
        try:
            total, skip = _extent(answer, path, offset)
        except BaseException:
            self._drop()
            raise
        return Transfer(total, self._chunks(answer, path, skip, total - offset))

    def _why(self, error: Exception) -> str:
        said = unreachable.why(error, *self._address, server="the repository")
        return said or str(error)[:300]

    def _ask(self, path: str, headers: dict[str, str]) -> HTTPResponse:
        if self._connection is None or self._connection.sock is None:
            self._connection = self._connect()
        self._connection.request("GET", self._folder + quote(path, safe="/%"), headers=headers)
        return self._connection.getresponse()

    def _connect(self) -> HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        host, port = self._address
        sock = _reach(host, port, self._deadline)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._secure:
                context = self._context() or authorities.context()
                sock.settimeout(self._deadline.left(CONNECT_S))  # of the handshake as a whole
                sock = context.wrap_socket(sock, server_hostname=host)
                connection: HTTPConnection = HTTPSConnection(host, port, context=context)
            else:
                connection = HTTPConnection(host, port)
        except BaseException:
            sock.close()
            raise
        connection.sock = _Socket(sock, self._deadline)
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
                self._deadline.begin(GRACE_S)
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


def _reach(host: str, port: int, deadline: _Deadline) -> socket.socket:
    """A connection to the first address of a host that takes one; `OSError` if none does."""
    failure = OSError("it has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        try:
            with ExitStack() as unless_connected:
                sock = unless_connected.enter_context(socket.socket(family, kind, protocol))
                sock.settimeout(deadline.left(CONNECT_S))
                sock.connect(address)
                unless_connected.pop_all()
                return sock
        except OSError as error:
            failure = error
    raise failure


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    return named and parts.scheme in ("http", "https") and not parts.query and not parts.fragment


def _date(headers: Message) -> float | None:
    """The server's time; of an answer from a cache, its own time and its age there."""
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(headers.get("Date", "")[:64])
        age = _LENGTH.fullmatch(headers.get("Age", "0").strip())
        return date.timestamp() + (int(age[0]) if age else 0)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _extent(answer: HTTPResponse, path: str, offset: int) -> tuple[int, int]:
    """Bytes of the whole file, and how many of the answer come before `offset`."""
    if answer.status in (403, 404, 410):
        raise UnavailableError(NO_SUCH_FILE, f"the repository has no {path}")
    if answer.status == 416:
        return offset, 0
    if answer.status == 401:
        raise UnavailableError(
            "repository-unreachable",
            f"{path}: the repository does not take this device's certificate (401): it was "
            "revoked, or enrolled by another fleet",
        )
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
