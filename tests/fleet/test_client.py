"""What the client of the API asks for before it asks."""

from __future__ import annotations

import ssl

import pytest

from contracts import authorities
from contracts.errors import UnavailableError
from fleet.client import Client
from tests.support.tools import free_port


def test_a_plain_connection_reads_no_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take 20 ms of work; one over TLS is checked by them."""
    read: list[str] = []
    real = authorities.context

    def context() -> ssl.SSLContext:
        read.append("read")
        return real()

    monkeypatch.setattr(authorities, "context", context)
    port = free_port()
    for scheme, asked in (("http", []), ("https", ["read"])):
        with Client(f"{scheme}://127.0.0.1:{port}", "t") as client:
            with pytest.raises(UnavailableError):
                client.rollout("r1")
            assert read == asked
