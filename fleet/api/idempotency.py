"""``Idempotency-Key``: a POST that is sent again gets the first answer again.

The key belongs to its token. It is taken in the database before the request is handled, so
that two controllers, or a retry after a crash, cannot both do the work; a key whose request
died with its process is free again after a minute.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import sqlalchemy as sa
from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool

from contracts import codec
from contracts.errors import ErrorBody, ErrorInfo, InputError, RefusedError
from fleet.api import errors
from fleet.controller import Controller
from fleet.store import Store
from fleet.store.documents import dump, load
from fleet.store.schema import IDEMPOTENCY

_KEY: Final = re.compile(r"[\x21-\x7e]{1,128}")
_KEEP_S: Final = 24 * 3600.0
_STUCK_S: Final = 60.0
_SECRET: Final = frozenset({"/v1/tokens"})
"""Paths whose answers hold a secret: it is shown once, and never stored."""

_SHOWN_ONCE: Final = codec.encode(
    ErrorBody(
        ErrorInfo(
            "already-made",
            "this request was carried out, and its secret was shown then: it is not stored; "
            "delete what was made and make another when it was lost",
        )
    )
)
_MAX_BODY: Final = 2 * 1024 * 1024


class Kept(msgspec.Struct, frozen=True):
    """An answer that was given."""

    status: int
    headers: dict[str, str]
    body: bytes


def take(store: Store, token: str, key: str, digest: str, now: float) -> Kept | None:
    """Takes a key.

    Returns:
        None: the caller does the work and calls :func:`keep` or :func:`drop`; else the answer.

    Raises:
        RefusedError: ``idempotency-mismatch``, ``idempotency-running``.
    """
    mine = (IDEMPOTENCY.c.token == token) & (IDEMPOTENCY.c.key == key)
    with store.write() as connection:
        connection.execute(IDEMPOTENCY.delete().where(IDEMPOTENCY.c.at < now - _KEEP_S))
        inserted = connection.execute(
            store.insert(IDEMPOTENCY)
            .values(token=token, key=key, request_sha256=digest, at=now)
            .on_conflict_do_nothing()
            .returning(IDEMPOTENCY.c.key)
        )
        if inserted.first() is not None:
            return None
        row = connection.execute(sa.select(IDEMPOTENCY).where(mine)).one()
        if row.request_sha256 != digest:
            raise RefusedError(
                "idempotency-mismatch", "this Idempotency-Key was used for another request"
            )
        if row.status is not None:
            return Kept(row.status, load(row.headers, dict[str, str]), row.body)
        if row.at > now - _STUCK_S:
            raise RefusedError(
                "idempotency-running", "the first request with this Idempotency-Key still runs"
            )
        connection.execute(IDEMPOTENCY.update().where(mine).values(at=now))
        return None


def keep(store: Store, token: str, key: str, answer: Kept) -> None:
    """Stores the answer of a taken key."""
    with store.write() as connection:
        connection.execute(
            IDEMPOTENCY.update()
            .where(IDEMPOTENCY.c.token == token, IDEMPOTENCY.c.key == key)
            .values(status=answer.status, headers=dump(answer.headers), body=answer.body)
        )


def drop(store: Store, token: str, key: str) -> None:
    """Frees a taken key: the work failed and may be tried again."""
    with store.write() as connection:
        connection.execute(
            IDEMPOTENCY.delete().where(IDEMPOTENCY.c.token == token, IDEMPOTENCY.c.key == key)
        )


async def middleware(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Handles the header on POSTs of the API."""
    key = request.headers.get("idempotency-key")
    if key is None or request.method != "POST" or not request.url.path.startswith("/v1/"):
        return await call_next(request)
    try:
        return await _once(request, call_next, key)
    except (InputError, RefusedError) as error:
        info = error.info
        return errors.body(errors.status_of(error), info.code, info.message, info.detail)


async def _once(
    request: Request, call_next: Callable[[Request], Awaitable[Response]], key: str
) -> Response:
    if not _KEY.fullmatch(key):
        raise InputError("bad-key", "Idempotency-Key is 1 to 128 printable ASCII characters")
    controller: Controller = request.app.state.controller
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    token = request.app.state.gatekeeper.find(secret) if scheme.lower() == "bearer" else None
    if token is None:
        return await call_next(request)
    digest = hashlib.sha256(
        f"{request.method} {request.url.path}?{request.url.query}\n".encode() + await request.body()
    ).hexdigest()
    kept = await run_in_threadpool(
        take, controller.store, token.id, key, digest, controller.clock()
    )
    if kept is not None:
        return Response(kept.body, kept.status, {**kept.headers, "Idempotent-Replayed": "true"})
    try:
        response = await call_next(request)
        chunks = [chunk async for chunk in response.body_iterator]  # type: ignore[attr-defined]
    except BaseException:
        await run_in_threadpool(drop, controller.store, token.id, key)
        raise
    body = b"".join(chunks)
    headers = {
        name: value
        for name, value in response.headers.items()
        if name in ("content-type", "etag", "location")
    }
    if response.status_code < 500 and response.status_code != 429 and len(body) <= _MAX_BODY:
        answer = Kept(response.status_code, headers, body)
        if request.url.path in _SECRET and response.status_code < 400:
            answer = Kept(409, {"content-type": "application/json"}, _SHOWN_ONCE)
        await run_in_threadpool(keep, controller.store, token.id, key, answer)
    else:
        await run_in_threadpool(drop, controller.store, token.id, key)
    return Response(body, response.status_code, dict(response.headers))
