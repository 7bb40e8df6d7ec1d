"""A reader who takes nothing of a stream: the stream ends, and what it held is free again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from fastapi import FastAPI

from fleet.api import app as module
from fleet.api.stream import Stream
from fleet.controller import Controller
from tests.fleet.api.conftest import app_of


def test_a_stream_that_nobody_takes_ends(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through all layers of the application, whose buffers would wait with it."""
    monkeypatch.setattr(module, "STALL_S", 0.05)
    app: FastAPI = app_of(controller)
    ended = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x" * 1000
        finally:
            ended.set()

    route = "/v1/test-endless"
    app.add_api_route(route, lambda: Stream(endless(), "text/plain"), response_model=None)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    bodies = 0

    async def send(message: Any) -> None:
        nonlocal bodies
        if message["type"] == "http.response.body":
            bodies += 1
            if bodies > 3:
                await asyncio.Event().wait()

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": "GET", "path": route, "raw_path": route.encode(), "root_path": "",
        "query_string": b"", "headers": [], "scheme": "http", "client": None, "server": None,
    }  # fmt: skip

    async def run() -> None:
        with anyio.fail_after(20):
            await app(scope, receive, send)
        assert ended.is_set(), "left to the garbage collector"

    try:
        asyncio.run(run())
    finally:
        app.router.routes = [r for r in app.router.routes if getattr(r, "path", "") != route]
    assert bodies == 4
