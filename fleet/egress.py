"""Connections to addresses that somebody else named: to public ones, and those that we allow.

Whoever may add a webhook must not reach with it what only the controller reaches: its own ports,
a router, a cloud's metadata. A name is resolved once; all addresses that it has are checked, and
the connection is made to one of these. What the name means later, or to others, changes nothing.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Any, Final

import httpcore
import httpx

from contracts.errors import InputError, RefusedError

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Allowed:
    """Which addresses that are not public may be connected to.

    Args:
        hosts: names, addresses and networks (``192.168.0.0/16``). A name is allowed with whatever
            address it has.

    Raises:
        InputError: ``bad-config``; one of them is none of that.
    """

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        self._names: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for host in hosts:
            try:
                self._networks.append(ipaddress.ip_network(host.strip("[]")))
            except ValueError:
                if "/" in host or ":" in host or not host:
                    raise InputError(
                        "bad-config",
                        f"webhook_hosts: {host[:100]!r} is no name, address or network "
                        "(192.168.7.0/24)",
                    ) from None
                self._names.add(_plain(host))

    def resolve(self, host: str, port: int) -> list[str]:
        """The addresses of a host; all of them may be connected to.

        Raises:
            RefusedError: ``private-address``.
            OSError: the name has no address.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise OSError(f"{host[:253]!r} is no name of a host: {error}") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if _plain(host) not in self._names:
            for text in addresses:
                if not self._may(ipaddress.ip_address(text.partition("%")[0])):
                    instead = "" if text == host else f" is {text}, which"
                    raise RefusedError(
                        "private-address",
                        f"{host[:253]}{instead} is no public address: name the host in "
                        "webhook_hosts of fleet.yaml when that is meant",
                    )
        return addresses

    def _may(self, address: _Address) -> bool:
        return _is_public(address) or any(address in network for network in self._networks)


def _plain(host: str) -> str:
    return host.rstrip(".").lower()


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(inner)
        if address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


class _Backend(httpcore.NetworkBackend):
    """Resolves and checks, then connects to what was checked."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self._real = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address that takes one."""
        try:
            addresses = self._allowed.resolve(host, port)
        except RefusedError as error:
            raise httpcore.ConnectError(str(error)) from None
        except OSError as error:
            raise httpcore.ConnectError(f"{host}: {error}") from None
        return self._first(addresses[:4], port, timeout, local_address, socket_options)

    def _first(
        self, addresses: Sequence[str], port: int, timeout: float | None, *rest: Any
    ) -> httpcore.NetworkStream:
        for address in addresses[:-1]:
            try:
                return self._real.connect_tcp(address, port, timeout, *rest)
            except httpcore.ConnectError:
                continue
        return self._real.connect_tcp(addresses[-1], port, timeout, *rest)

    def sleep(self, seconds: float) -> None:
        """Waits."""
        self._real.sleep(seconds)


class Transport(httpx.BaseTransport):
    """What an ``httpx.Client`` connects with; no proxy and no redirect leads around the check.

    Args:
        context: of TLS; the certificate is checked against the host's name.
        allowed: beside public addresses.
    """

    def __init__(self, context: ssl.SSLContext, allowed: Allowed) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=context, network_backend=_Backend(allowed), max_keepalive_connections=0
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request; of the answer only the head is read."""
        assert isinstance(request.stream, httpx.SyncByteStream)
        url = request.url
        inner = httpcore.Request(
            request.method,
            httpcore.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        try:
            answer = self._pool.handle_request(inner)
            answer.close()
        except httpcore.TimeoutException as error:
            raise httpx.TimeoutException(str(error), request=request) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError) as error:
            raise httpx.NetworkError(str(error), request=request) from error
        return httpx.Response(answer.status, headers=answer.headers)

    def close(self) -> None:
        """Ends what is open."""
        self._pool.close()
