"""Repository files over HTTP from servers that misbehave."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from agent.update.fetch import read_all
from agent.update.http import Http
from contracts.errors import InputError, RefusedError, UnavailableError

if TYPE_CHECKING:
    from typing_extensions import Self

PATIENCE_S = 90.0


class Handler(BaseHTTPRequestHandler):
    """Answers by the first part of the path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """One case a path."""
        case = self.path.strip("/").split("/")[-1]
        body = b"hello"
        match case:
            case "ok":
                self.answer(200, body)
            case "port":
                self.answer(200, b"%d" % self.client_address[1])
            case "leaving":
                self.answer(200, body)
                self.close_connection = True  # without a word
            case "missing":
                self.answer(404, b"")
            case "broken":
                self.answer(500, body)
            case "elsewhere":
                self.answer(302, b"", Location="/repo/ok")
            case "packed":
                self.answer(200, gzip.compress(b"x" * 10_000), **{"Content-Encoding": "gzip"})
            case "short":
                self.answer(200, body, **{"Content-Length": "100"})
                self.close_connection = True
            case "endless":
                self.answer(200, b"", **{"Content-Length": str(10**12)})
                with contextlib.suppress(OSError):
                    while True:
                        self.wfile.write(b"x" * 1024)
            case "unmeasured":
                self.answer(200, b"", **{"Transfer-Encoding": "chunked"})
            case "noise":
                self.wfile.write(b"\x00\x01 not http\r\n\r\n")
                self.close_connection = True

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        """A plain answer."""
        self.send_response(status)
        if not headers.keys() & {"Content-Length", "Transfer-Encoding"}:
            self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server that misbehaves on request."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/repo"
    server.shutdown()
    server.server_close()


def test_a_file_is_read_whole(url: str) -> None:
    """With and without a slash at the end of the base URL, exactly at the cap."""
    assert read_all(Http(url), "ok", 5) == b"hello"
    assert read_all(Http(url + "/"), "ok", 5) == b"hello"


def test_a_connection_is_kept_from_read_to_read(url: str) -> None:
    """As long as every read was ended."""
    http = Http(url)
    ports = [read_all(http, "port", 5) for _ in range(3)]
    assert len(set(ports)) == 1
    http.open("port")  # never read
    assert read_all(http, "port", 5) != ports[0]


def test_a_connection_that_the_server_closed_is_made_again(url: str) -> None:
    """A server does that with one that was idle for a while."""
    http = Http(url)
    for _ in range(3):
        assert read_all(http, "leaving", 5) == b"hello"


def test_a_base_url_may_hold_any_character(url: str) -> None:
    """It is quoted, as the path is."""
    assert read_all(Http(url + "/blätter und mehr"), "ok", 5) == b"hello"


@pytest.mark.parametrize(
    ("path", "error", "code"),
    [
        ("missing", UnavailableError, "no-such-path"),
        ("broken", UnavailableError, "repository-unreachable"),
        ("elsewhere", UnavailableError, "repository-unreachable"),
        ("short", UnavailableError, "repository-unreachable"),
        ("unmeasured", UnavailableError, "repository-unreachable"),
        ("noise", UnavailableError, "repository-unreachable"),
        ("endless", RefusedError, "endless-data"),
    ],
)
def test_a_server_that_misbehaves_gives_one_clear_error(
    url: str, path: str, error: type[Exception], code: str
) -> None:
    """Missing, failing, redirecting, cut, not HTTP, and without end."""
    with pytest.raises(error) as caught:
        read_all(Http(url), path, 100_000)
    assert caught.value.code == code  # type: ignore[attr-defined]


class Raw:
    """A server that writes to its connections what no library for servers would.

    Args:
        write: gets each connection once a request came.

    Attributes:
        url: of the server.
        left: set when a client left a connection that was still written to.
    """

    def __init__(self, write: Callable[[socket.socket], None]) -> None:
        self.left = threading.Event()
        self._write = write
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connection.recv(4096)
                    try:
                        self._write(connection)
                    except ConnectionError:
                        self.left.set()


@pytest.mark.parametrize(
    "head",
    [
        b"200 OK\r\nContent-Length: \xb2",  # a digit to Python's str, not to its int
        b"200 OK\r\nContent-Length: " + b"9" * 5000,  # more digits than int takes
        b"200 OK\r\nContent-Length: " + b"9" * 16,
        b"200 OK\r\nContent-Length: -5",
        b"200 OK\r\nContent-Length: 1_0",
        b"206 Partial Content\r\nContent-Range: bytes 1-4/\xb2",
        b"206 Partial Content\r\nContent-Range: bytes 1-4/" + b"9" * 5000,
    ],
)
def test_a_length_that_is_no_number_is_an_error_of_the_way(head: bytes) -> None:
    """It never leaves the module as another exception, which would end the updater."""
    answer = b"HTTP/1.1 " + head + b"\r\n\r\nhello"
    with Raw(lambda connection: connection.sendall(answer)) as server:
        with pytest.raises(UnavailableError) as caught:
            Http(server.url).open("x", offset=1)
        assert caught.value.code == "repository-unreachable"


def test_a_file_over_its_cap_is_refused(url: str) -> None:
    """One byte is enough."""
    with pytest.raises(RefusedError) as caught:
        read_all(Http(url), "ok", 4)
    assert caught.value.code == "endless-data"


def test_a_packed_answer_is_not_unpacked(url: str) -> None:
    """Nobody asked for it, and a small one could become a large one."""
    assert len(read_all(Http(url), "packed", 1000)) < 1000


def test_slow_retrieval_is_cut_off(url: str) -> None:
    """A clock that jumps 20 seconds at each look into the body: 5 bytes are too few by then."""
    now = step = 0.0

    def monotonic() -> float:
        nonlocal now
        now += step
        return now

    transfer = Http(url, monotonic=monotonic).open("ok")
    step = 20.0
    with pytest.raises(UnavailableError, match="5 bytes in") as caught:
        list(transfer.chunks)
    assert caught.value.code == "slow-retrieval"


def fast() -> float:
    """A clock by which half a minute is over in 0.3 seconds."""
    return 100 * time.monotonic()


def drip(start: bytes, piece: bytes, seconds: float = 2) -> Callable[[socket.socket], None]:
    """Writes `start`, and then `piece` again and again; for some seconds at most."""

    def write(connection: socket.socket) -> None:
        connection.sendall(start)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection.sendall(piece)
            time.sleep(0.005)

    return write


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"", b"H"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (CHUNKED, b"0"),
        (CHUNKED + b"5;", b"x"),
        (CHUNKED, b"1\r\nx\r\n"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", b"X: x\r\n"),
    ],
    ids=["status", "continue", "header", "size", "extension", "chunks", "trailer"],
)
def test_a_server_that_drips_is_cut_off_wherever_it_does(start: bytes, piece: bytes) -> None:
    """Every byte comes in time, and there would be no end; the connection is closed at once."""
    with Raw(drip(start, piece)) as server:
        http = Http(server.url, monotonic=fast)
        with pytest.raises(UnavailableError) as caught:
            read_all(http, "x", 1000)
        assert caught.value.code == "slow-retrieval"
        assert server.left.wait(PATIENCE_S)


def test_a_handshake_of_tls_that_drips_is_cut_off() -> None:
    """A clock that leaves it 0.2 of the 30 seconds; by itself it has ten."""
    clock = itertools.chain([0.0], itertools.repeat(29.8))
    with Raw(drip(b"\x16\x03\x03\x40\x00", b"\x02", seconds=40)) as server:
        http = Http(server.url.replace("http", "https"), monotonic=lambda: next(clock))
        began = time.monotonic()
        with pytest.raises(UnavailableError) as caught:
            http.open("x")
        assert time.monotonic() - began < 8, "while it drips, and before the ten seconds"
        assert caught.value.code == "repository-unreachable"
        assert server.left.wait(PATIENCE_S)


def test_a_name_with_very_many_addresses_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever answers for a name can give thousands, each of which takes its ten seconds."""
    dead = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 9))
    tried = itertools.count()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [dead] * 1000)
    with pytest.raises(UnavailableError) as caught:
        Http("http://many.example", monotonic=lambda: 10.0 * next(tried)).open("x")
    assert caught.value.code == "slow-retrieval"
    assert next(tried) < 5


def test_nothing_listens(url: str) -> None:
    """The port of a server that is gone."""
    with pytest.raises(UnavailableError) as caught:
        read_all(Http("http://127.0.0.1:9/repo"), "ok", 5)
    assert caught.value.code == "repository-unreachable"


def test_a_certificate_that_cannot_be_used_is_an_error_of_the_way(url: str) -> None:
    """A full disk, too, may be why: another way may be open."""

    def context() -> ssl.SSLContext:
        raise InputError("bad-certificate", "the TLS settings cannot be used")

    with pytest.raises(UnavailableError, match="TLS settings") as caught:
        Http(url.replace("http", "https"), context).open("ok")
    assert caught.value.code == "repository-unreachable"


@pytest.mark.parametrize(
    "bad",
    ["", "ftp://x/", "file:///etc", "http://", "x", "http://h/?q=1", "http://[::1", "http://h:x/"],
)
def test_a_base_url_must_be_http(bad: str) -> None:
    """Other schemes are no repositories."""
    with pytest.raises(InputError) as caught:
        Http(bad)
    assert caught.value.code == "bad-url"
