"""The HTTP server: uvicorn with h11, and a limit to everything that a stranger may use up.

Bytes of a request's head, the time for a handshake, a head and a body, connections altogether and
of one address. uvicorn has no such limits but h11's for the size of a head.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import resource
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import h11
import msgspec
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fleet.api.places import Place, Places
from fleet.api.refusals import network

MAX_HEAD_BYTES: Final = 32 * 1024
"""Bytes of a request line with its headers."""

MAX_MESSAGE_BYTES: Final = 1024 * 1024
"""Bytes of one message of a browser to the dashboard."""

FILES: Final = 4096
"""Open files that a controller asks the system for."""

_NO_CHECK_TIME: Final = 0x200000
"""Of OpenSSL: `X509_V_FLAG_NO_CHECK_TIME`, which Python has no name for."""

_SPARE_FILES: Final = 256
_HIGH: Final = 1024
_REST_S: Final = 0.5
_LOG: Final = structlog.get_logger("api")


class Limits(msgspec.Struct, frozen=True):
    """What one stranger, and all together, may use.

    Attributes:
        connections: at once.
        per_address: of one address; of IPv6, one network.
        handshake_s: seconds for TLS.
        head_s: seconds from the connection, or the last answer, to the end of a request's head.
        body_s: seconds from there to the end of its body.
    """

    connections: int = 600
    per_address: int = 200
    handshake_s: float = 10.0
    head_s: float = 10.0
    body_s: float = 60.0


def allow_files(connections: int) -> int:
    """Raises this process's limit of open files; returns how many connections fit into it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(FILES, 2 * connections + _SPARE_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return connections
    # A connection may need a file beside its socket.
    fit = max(8, (soft - _SPARE_FILES) // 2)
    if fit < connections:
        _LOG.warning(
            "fewer connections than configured: the system allows too few open files",
            connections=fit,
            files=soft,
        )
    return min(fit, connections)


def raised(sock: socket.socket) -> socket.socket:
    """The same socket under a high number, where the system allows that.

    Below 1024 there must be room for the connections to the broker: their library waits with
    ``select``, which knows no higher numbers.
    """
    try:
        number = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, _HIGH)
    except OSError:
        return sock
    sock.close()
    high = socket.socket(fileno=number)
    high.setblocking(False)
    return high


class Protocol(H11Protocol):
    """A connection that is given only so much time, and only one place."""

    def __init__(
        self, *args: Any, places: Places, place: Place, limits: Limits, **named: Any
    ) -> None:
        super().__init__(*args, **named)
        self._places, self._place, self._limits = places, place, limits
        self._phase = ""
        self._timer: asyncio.TimerHandle | None = None
        base = self.ws_protocol_class

        def websocket(**given: Any) -> asyncio.Protocol:
            """Takes the place along, and gives it back."""
            assert base is not None
            made = base(**given)
            lost = made.connection_lost

            def connection_lost(error: Exception | None) -> None:
                places.leave(place)
                lost(error)

            made.connection_lost = connection_lost  # type: ignore[assignment, method-assign]
            return made

        if base is not None:
            self.ws_protocol_class = cast(Any, websocket)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The handshake is over."""
        super().connection_made(transport)
        self._place.end = transport.abort
        tls = transport.get_extra_info("ssl_object")
        shown = tls.getpeercert(binary_form=True) if tls is not None else None
        # What the peer proved with its private key; in `request.state` of each of its requests.
        self.app_state = {**self.app_state, "certificate": shown}
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Bytes came: perhaps the end of what is waited for."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """The next request may come."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        super().connection_lost(exc)
        self._set("lost", None)
        self._places.leave(self._place)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """The connection is no longer this protocol's."""
        super().handle_websocket_upgrade(event)
        self._phase = "websocket"
        if self._timer is not None:
            self._timer.cancel()
        self._places.mark(self._place, busy=True)

    def _watch(self) -> None:
        if self._phase in ("websocket", "lost"):
            return
        running = self.cycle is not None and not self.cycle.response_complete
        if self.conn.their_state is h11.SEND_BODY:
            self._set("body", self._limits.body_s)
        elif running:
            self._set("busy", None)
        else:
            self._set("head", self._limits.head_s)
        self._places.mark(self._place, busy=running)

    def _set(self, phase: str, seconds: float | None) -> None:
        """Begins to wait for something; that a part of it came is no reason to begin again."""
        if phase == self._phase:
            return
        self._phase = phase
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        self.transport.abort()


class Acceptor:
    """Accepts connections of one socket while there are places for them.

    Args:
        sock: that listens.
        places: of all sockets of the server.
        make: a protocol for the connection of a place.
        tls: of the server, if it has TLS.
        handshake_s: seconds for a handshake.
    """

    def __init__(
        self,
        sock: socket.socket,
        places: Places,
        make: Callable[[Place], asyncio.Protocol],
        tls: ssl.SSLContext | None,
        handshake_s: float,
    ) -> None:
        self._places, self._make = places, make
        self._tls, self._handshake_s = tls, handshake_s
        self._loop = asyncio.get_running_loop()
        self._starting: set[asyncio.Task[None]] = set()
        self._accepting = self._loop.create_task(self._run(sock))

    async def _run(self, sock: socket.socket) -> None:
        while True:
            try:
                connection, peer = await self._loop.sock_accept(sock)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    _LOG.error("no connection can be accepted", reason=str(error))
                    await asyncio.sleep(_REST_S)
                elif sock.fileno() < 0:
                    return
                continue  # else: it had ended before it was accepted
            place = self._places.enter(network(str(peer[0])), lambda: None)
            if place is None:
                connection.close()
                continue
            task = self._loop.create_task(self._begin(raised(connection), place))
            place.end = task.cancel
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _begin(self, connection: socket.socket, place: Place) -> None:
        seconds = self._handshake_s if self._tls is not None else None
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._make(place),
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=seconds,
            )
        except BaseException as error:
            self._places.leave(place)
            connection.close()
            if not isinstance(error, OSError | asyncio.CancelledError):
                raise

    def close(self) -> None:
        """Accepts no more."""
        self._accepting.cancel()
        for task in self._starting:
            task.cancel()

    async def wait_closed(self) -> None:
        """Returns once nothing is accepted any more."""
        with contextlib.suppress(asyncio.CancelledError):
            await self._accepting
        await asyncio.gather(*self._starting, return_exceptions=True)


class Server(uvicorn.Server):
    """uvicorn's server on our acceptors.

    Args:
        config: uvicorn's; made by :func:`configure`.
        told: called once it listens.
        limits: of strangers.
        proxies: addresses that speak for others: they have no share of their own.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        told: Callable[[], None] = lambda: None,
        limits: Limits = Limits(),  # noqa: B008
        proxies: Sequence[str] = (),
    ) -> None:
        super().__init__(config)
        self._told = told
        self._limits = limits
        self.places = Places(
            allow_files(limits.connections),
            limits.per_address,
            [network(one) for one in proxies],
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts from the sockets; then tells that it does."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise SystemExit(1)
        acceptors = [
            Acceptor(one, self.places, self._protocol, self.config.ssl, self._limits.handshake_s)
            for one in sockets or ()
        ]
        self.servers = cast(Any, acceptors)
        self.started = True
        self._told()

    def _protocol(self, place: Place) -> asyncio.Protocol:
        return Protocol(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            places=self.places,
            place=place,
            limits=self._limits,
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to the caller: uvicorn raises them again, which cuts a stop short."""
        yield


def configure(
    app: Any,
    *,
    files: tuple[Path, Path] | None = None,
    ca: Path | None = None,
    proxies: Sequence[str] = (),
) -> uvicorn.Config:
    """The configuration of uvicorn.

    Args:
        app: what answers.
        files: certificate and key of the server; None: no TLS.
        ca: whose certificates clients may show; None: they are asked for none.
        proxies: addresses whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed.
    """
    config = uvicorn.Config(
        app,
        http=Protocol,
        loop="asyncio",
        ssl_certfile=files[0] if files else None,
        ssl_keyfile=files[1] if files else None,
        ssl_ca_certs=str(ca) if files and ca else None,
        ssl_cert_reqs=ssl.CERT_OPTIONAL if files and ca else ssl.CERT_NONE,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ws_max_size=MAX_MESSAGE_BYTES,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=10,
        lifespan="on",
        server_header=False,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        # Who shows a certificate that has run out is told so, in words, by who judges it.
        config.ssl.verify_flags = ssl.VerifyFlags(config.ssl.verify_flags | _NO_CHECK_TIME)
    return config
