"""What a stranger may use up of the HTTP server: real sockets over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.api.auth import Limiter
from fleet.api.listening import listen
from fleet.api.places import YOUNG_S, Places
from fleet.api.server import MAX_HEAD_BYTES, Limits, Server, configure, raised
from tests.support.authorities import Pair

FAST = Limits(connections=12, per_address=8, handshake_s=0.5, head_s=0.5, body_s=0.8)


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with who asks; ``/slow`` takes for ever; a body is read whole."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    if scope["path"] == "/slow":
        await receive()
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        if not message.get("more_body"):
            break
    body = f"{scope['client'][0]} {scope['scheme']}".encode()
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body})


class Running:
    """A server on a port of its own, in a thread."""

    def __init__(self, limits: Limits, **configured: Any) -> None:
        (self._socket,) = listen("127.0.0.1", 0)
        self.port: int = self._socket.getsockname()[1]
        started = threading.Event()
        config = configure(_app, **configured)
        self.server = Server(config, started.set, limits, configured.get("proxies", ()))
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self.server.serve([self._socket])), daemon=True
        )
        self._thread.start()
        assert started.wait(20)

    def connect(self, sent: bytes = b"") -> socket.socket:
        """A connection on which something was sent."""
        made = socket.create_connection(("127.0.0.1", self.port), 10)
        if sent:
            made.sendall(sent)
        return made

    def stop(self) -> None:
        """Stops the server."""
        self.server.should_exit = True
        self._thread.join(20)
        self._socket.close()
        assert not self._thread.is_alive()


@contextlib.contextmanager
def running(limits: Limits = FAST, **configured: Any) -> Iterator[Running]:
    """A server that is stopped at the end."""
    made = Running(limits, **configured)
    try:
        yield made
    finally:
        made.stop()


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def ended(connection: socket.socket, within_s: float = 10.0) -> bool:
    """Whether the other side ends a connection, which is read up to there."""
    connection.settimeout(within_s)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def answers(connection: socket.socket) -> bool:
    """Whether a request on a connection is answered well."""
    connection.settimeout(10)
    try:
        connection.sendall(GET)
        return b" 200 " in connection.recv(65536)
    except OSError:
        return False


def until(holds: Any, within_s: float = 10.0) -> bool:
    """Whether something comes to hold; the server tells nobody of it."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-1: " + b"a" * 8000 + b"\r\n"),
        (b"GET / HTTP/1.1\r\nX: ", b"a" * 8000),
        (b"GET /", b"a" * 8000),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
         b"X-1: " + b"a" * 8000 + b"\r\n"),
    ],
    ids=["headers", "one header", "target", "trailers"],
)  # fmt: skip
def test_a_head_without_end_is_cut_off(first: bytes, more: bytes) -> None:
    """After some tens of kilobytes; what the system buffers is all that a sender gets rid of."""
    with running(Limits()) as server, server.connect(first) as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 64 * 1024 * 1024:
                stranger.sendall(more)
                sent += len(more)
        assert sent < 16 * 1024 * 1024
        assert ended(stranger)
        with server.connect() as friend:
            assert answers(friend)


def test_a_long_head_within_the_limit_is_served() -> None:
    """A selector and a few cookies fit."""
    with running() as server, server.connect() as friend:
        friend.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (MAX_HEAD_BYTES // 2))
        friend.sendall(b"\r\n\r\n")
        assert b" 200 " in friend.recv(65536)


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HTTP/1.1\r\nX-A: ", GET[:-2], (b"POST / HTTP/1.1\r\nHost: x\r\n"
     b"Content-Length: 100\r\n\r\nhalf"), GET + b"GET / HT"],
    ids=["nothing", "half a header", "no end", "half a body", "half a second request"],
)  # fmt: skip
def test_what_is_not_finished_is_ended_however_it_dribbles(sent: bytes) -> None:
    """Time counts from its beginning: a byte now and then gives no more of it."""
    with running() as server, server.connect(sent) as stranger:
        over = threading.Event()

        def dribble() -> None:
            with contextlib.suppress(OSError):
                while sent and not over.wait(0.1):
                    stranger.sendall(b"a")

        thread = threading.Thread(target=dribble)
        thread.start()
        try:
            assert ended(stranger)
        finally:
            over.set()
            thread.join()
        assert until(lambda: server.server.places.count == 0)


def test_an_answer_that_takes_long_is_not_cut_off() -> None:
    """The limits are for what a stranger has to send, not for our work."""
    with running() as server, server.connect(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n") as friend:
        assert not ended(friend, 2.0)


def test_a_thousand_half_open_requests_starve_nobody() -> None:
    """Who comes after them is served, at once, over and over; also from the same address."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    limits = Limits(connections=100, per_address=60)
    with running(limits) as server, contextlib.ExitStack() as stack:
        for _ in range(1100):
            with contextlib.suppress(OSError):
                stack.enter_context(server.connect(b"GET / HTTP/1.1\r\nX-A: "))
        began = time.monotonic()
        served = 0
        while time.monotonic() - began < 3 * YOUNG_S:
            with server.connect() as friend:
                served += answers(friend)
        assert served > 20
        assert server.server.places.count <= 60
        assert server.server.places.refused > 0


def test_a_handshake_that_nobody_finishes_holds_no_place(tmp_path: Path) -> None:
    """Neither does a connection over TLS on which nothing is asked."""
    pair = Pair(tmp_path, "fleet")
    with running(files=(pair.server(), pair.server())) as server:
        context = ssl.create_default_context(cafile=str(pair.ca))
        with server.connect() as silent, server.connect(b"\x16\x03\x01") as half:
            assert until(lambda: server.server.places.count == 2)
            assert ended(silent)
            assert ended(half)
        with context.wrap_socket(server.connect(), server_hostname="127.0.0.1") as idle:
            assert ended(idle)
        assert until(lambda: server.server.places.count == 0)
        with context.wrap_socket(server.connect(), server_hostname="127.0.0.1") as friend:
            assert answers(friend)


def test_a_websocket_takes_its_place_along_and_gives_it_back() -> None:
    """A dashboard is a connection like any other."""
    upgrade = (
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with running() as server:
        with server.connect(upgrade) as browser:
            assert b" 101 " in browser.recv(65536)
            assert not ended(browser, 1.5), "it is not a request that never ends"
            assert server.server.places.count == 1
        assert until(lambda: server.server.places.count == 0)


def test_nobody_says_for_another_where_a_request_is_from() -> None:
    """Unless `fleet.yaml` names the proxy that does."""
    claim = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 10.1.2.3\r\nX-Forwarded-Proto: https"
    for proxies, expected in (((), b"127.0.0.1 http"), (("127.0.0.1",), b"10.1.2.3 https")):
        with running(proxies=proxies) as server, server.connect(claim + b"\r\n\r\n") as stranger:
            data = b""
            while b"\r\n\r\n" not in data or not data.partition(b"\r\n\r\n")[2]:
                data += stranger.recv(65536)
            assert data.endswith(expected)


def test_sockets_of_the_api_leave_low_numbers_to_the_broker() -> None:
    """The library for the broker waits with `select`, which knows no number above 1023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    one, other = socket.socketpair()
    with raised(one) as high, other:
        assert high.fileno() >= 1024
        other.sendall(b"x")
        assert until(lambda: high.recv(1) == b"x")


class _Ended:
    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str) -> Any:
        return lambda: self.names.append(name)


def test_the_connection_that_waited_longest_makes_room() -> None:
    """One that is at work stays; a new one is left alone for a moment."""
    now, ended_ = [0.0], _Ended()
    places = Places(10, 3, monotonic=lambda: now[0])
    first = places.enter("a", ended_("first"))
    assert first is not None
    places.mark(first, busy=True)
    places.enter("a", ended_("second"))
    places.enter("a", ended_("third"))
    assert places.enter("a", ended_("too soon")) is None
    now[0] += YOUNG_S
    fourth = places.enter("a", ended_("fourth"))
    assert fourth is not None
    assert ended_.names == ["second"]
    assert places.enter("b", ended_("other")) is not None
    assert places.count == 4


def test_who_holds_most_gives_up_for_who_holds_less() -> None:
    """Though all of theirs are at work; among equals the newcomer has to go."""
    now, ended_ = [0.0], _Ended()
    places = Places(6, 4, monotonic=lambda: now[0])
    for address, count in (("a", 4), ("b", 2)):
        for index in range(count):
            place = places.enter(address, ended_(f"{address}{index}"))
            assert place is not None
            places.mark(place, busy=True)
    for name in ("c0", "c1", "c2"):
        made = places.enter("c", ended_(name))
        if made is not None:
            places.mark(made, busy=True)
    assert ended_.names == ["a0", "a1"]
    assert places.count == 6
    assert places.refused == 1


def test_a_proxy_has_no_share_of_its_own() -> None:
    """All connections of its users are from one address."""
    places = Places(6, 2, ["p"])
    assert all(places.enter("p", lambda: None) for _ in range(6))


def test_the_limiter_forgets_nobody_for_ever_more_addresses() -> None:
    """Who was slowed stays slowed, whoever else comes; strangers beyond all share one count."""
    limiter = Limiter(1.0, 5)
    assert [limiter.take("guesser", 0.0) > 0 for _ in range(6)] == [False] * 5 + [True]
    let_in = sum(limiter.take(f"address {i}", 0.001) == 0.0 for i in range(20_000))
    assert let_in < 10_010
    assert limiter.take("guesser", 0.002) > 0
    assert limiter.take("guesser", 3.0) == 0.0
    assert limiter.take("later", 10.0) == 0.0, "buckets that are full again make room"
