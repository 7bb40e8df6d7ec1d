"""The sockets that the API listens on: taken before anything else is done."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from typing import Final

from contracts.config import endpoint
from contracts.errors import InputError, UnavailableError

BACKLOG: Final = 512
"""Connections that wait until they are accepted; the system may hold it lower."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Listens on all addresses of a host; nobody is accepted yet.

    Args:
        host: a name or an address; empty: all of this machine.
        port: 0: a free one, the same for all addresses.

    Raises:
        UnavailableError: ``port-taken``, ``cannot-listen``.
        InputError: ``bad-host``.
    """
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise InputError(
            "bad-host", f"api.host: {host!r} is no address of this machine: {error}"
        ) from None
    sockets: list[socket.socket] = []
    with ExitStack() as stack:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                one = stack.enter_context(socket.socket(family, kind, protocol))
            except OSError:
                continue  # the system knows the address, and has no such network
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if port == 0 and sockets:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            try:
                one.bind(address)
                # At once: two that are bound may both begin to listen, and one of them fails then.
                one.listen(BACKLOG)
            except OSError as error:
                raise _refusal(host, port, error) from None
            one.setblocking(False)
            sockets.append(one)
        stack.pop_all()
    if not sockets:
        raise UnavailableError("cannot-listen", f"cannot listen on {endpoint(host, port)}")
    return sockets


def _refusal(host: str, port: int, error: OSError) -> UnavailableError:
    if error.errno == errno.EADDRINUSE:
        return UnavailableError(
            "port-taken",
            f"cannot listen on {host or 'all addresses'}, port {port}: another program does "
            "(another controller?); end it, or set api.port in fleet.yaml",
        )
    return UnavailableError(
        "cannot-listen", f"cannot listen on {endpoint(host, port)}: {error.strerror}"
    )
