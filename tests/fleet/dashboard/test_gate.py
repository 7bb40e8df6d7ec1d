"""Pages of other sites reach nothing of the dashboard, also where somebody is signed in."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fleet.dashboard.install import Gate
from fleet.dashboard.session import COOKIE, Sessions
from fleet.store.tokens import Token


class Behind:
    """What is behind the gate: notes that it was reached."""

    def __init__(self) -> None:
        self.reached = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers whatever was asked."""
        self.reached += 1
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def knock(kind: str, origin: str | None, *, host: str = "fleet.example:8080") -> bool:
    """Whether somebody who is signed in is let through."""

    async def find(_secret: str) -> Token:
        return Token("0" * 12, "v", "viewer", 0.0, None, None)

    sessions = Sessions(find)
    cookie = sessions.begin("secret")
    behind = Behind()
    gate = Gate(behind, sessions, "https://outside.example")
    headers = [(b"host", host.encode()), (b"cookie", f"{COOKIE}={cookie}".encode())]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    websocket = kind == "websocket"
    scope = {
        "type": "websocket" if websocket else "http",
        "scheme": "ws" if websocket else "http",
        "method": kind,
        "path": "/ui/_nicegui_ws/socket.io/",
        "query_string": b"",
        "headers": headers,
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect" if websocket else "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(gate(scope, receive, send))
    let_in = behind.reached == 1
    if not let_in:
        assert sent[0].get("code") == 4403 or sent[0].get("status") == 403
    return let_in


@pytest.mark.parametrize("kind", ["websocket", "POST"])
def test_a_page_of_another_site_is_refused(kind: str) -> None:
    """Whatever its name looks like."""
    for origin in (
        "http://evil.example", "http://evil.example:8080", "http://fleet.example",
        "http://fleet.example:8081", "null", "", "http://fleet.example:8080.evil.example",
        "http://outside.example", "http://[", "http://x@evil.example",
    ):  # fmt: skip
        assert not knock(kind, origin), origin


@pytest.mark.parametrize("kind", ["websocket", "POST", "GET"])
def test_our_own_pages_and_programs_are_let_in(kind: str) -> None:
    """By the name that was asked for, and by the fleet's own behind a proxy."""
    for origin in ("http://fleet.example:8080", "https://outside.example", None):
        assert knock(kind, origin), origin
    assert knock(kind, "http://fleet.example", host="fleet.example")
