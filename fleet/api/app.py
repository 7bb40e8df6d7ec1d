"""The FastAPI application of a controller."""

from __future__ import annotations

from typing import Any, Final

import anyio
import structlog
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts import __version__
from fleet.api import (
    embeddings,
    errors,
    idempotency,
    models,
    openai,
    responses,
    routes_admin,
    routes_alerts,
    routes_devices,
    routes_field,
    routes_join,
    routes_lessons,
    routes_logs,
    routes_members,
    routes_operations,
    routes_pools,
    routes_queries,
    routes_rollouts,
    routes_samples,
)
from fleet.api.auth import Gatekeeper
from fleet.api.readers import Readers
from fleet.api.refusals import Refusals
from fleet.controller import Controller

MAX_BODY_BYTES: Final = 1024 * 1024
"""Bytes of one request's body."""

STALL_S: Final = 60.0
"""Seconds in which a reader must take what is sent, beyond what the system buffers for it."""

HSTS_S: Final = 365 * 24 * 3600
"""Seconds for which a browser that came by TLS comes by nothing else."""

_LOG: Final = structlog.get_logger("api")

_DESCRIPTION: Final = """\
Shoal's fleet controller. Bearer tokens with the roles viewer, operator and admin; lists are
paged by cursor; changes take `If-Match` with an ETag and `Idempotency-Key`; every error has the
shape `{"error": {"code", "message", "detail"}}`. A change whose answer was lost is not made twice:
sent again with its key, a minute after the controller died, it is `in-doubt`.
"""
_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": models.Error, "description": text}
    for status, text in (
        (400, "the request is wrong"),
        (401, "no valid token"),
        (403, "the token's role does not reach"),
        (404, "there is no such thing"),
        (409, "not possible as things are"),
        (412, "it has changed since it was read"),
        (413, "the body is too large"),
        (422, "a field of the request is wrong"),
        (429, "too many requests"),
        (503, "something needed is not there now"),
    )
}


class _BodyLimit:
    """Refuses bodies over the cap, also when no length was announced."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY_BYTES:
                raise errors.ApiError("too-large", f"a body has at most {MAX_BODY_BYTES} bytes")
            return message

        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and (len(length) > 15 or int(length) > MAX_BODY_BYTES):
            response = errors.body(413, "too-large", f"a body has at most {MAX_BODY_BYTES} bytes")
            await response(scope, receive, send)
            return
        await self._app(scope, limited, send)


class _StallLimit:
    """Ends a response whose reader takes nothing of it: a stream that waits holds its query."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        stalled = False

        async def timed(message: Message) -> None:
            nonlocal stalled
            try:
                with anyio.fail_after(STALL_S):
                    await send(message)
            except TimeoutError:
                stalled = True
                raise

        try:
            await self._app(scope, receive, timed)
        except Exception:
            if not stalled:
                raise
            _LOG.warning("a reader took nothing of its response", path=scope["path"][:200])


class _SecureHeaders:
    """What browsers and caches are told with every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                if scope["path"].startswith("/v1/"):
                    headers.setdefault("Cache-Control", "no-store")
                if scope["scheme"] == "https":
                    headers.setdefault("Strict-Transport-Security", f"max-age={HSTS_S}")
            await send(message)

        await self._app(scope, receive, with_headers)


def _operation_id(route: APIRoute) -> str:
    return route.name


def create_app(controller: Controller) -> FastAPI:
    """The application; the caller starts and stops the controller."""
    app = FastAPI(
        title="Shoal fleet",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        responses=_ERRORS,
        generate_unique_id_function=_operation_id,
    )
    app.state.controller = controller
    app.state.gatekeeper = Gatekeeper(controller)
    app.state.readers = Readers(controller)
    errors.install(app)
    idempotency.install(app)
    app.add_middleware(_SecureHeaders)
    app.add_middleware(_BodyLimit)
    app.add_middleware(_StallLimit)
    app.add_middleware(Refusals)
    for module in (
        routes_devices,
        routes_members,
        routes_join,
        routes_rollouts,
        routes_queries,
        routes_field,
        routes_pools,
        routes_samples,
        routes_lessons,
        routes_logs,
        openai,
        responses,
        embeddings,
        routes_alerts,
        routes_admin,
        routes_operations,
    ):
        app.include_router(module.ROUTER)
    app.include_router(routes_samples.NEXT)
    return app
