"""``Idempotency-Key``: a POST that is sent again gets the first answer again.

The key belongs to its token. It is taken in the database once the request was let in, and before
it is handled, so that two controllers, or a retry after a crash, cannot both do the work. The
process that handles it says so every few seconds; a key whose process died is free again after a
minute, unless the request had changed something: each change and the note that there was one are
one transaction. What was changed is not done twice then: the answer is ``in-doubt``. An answer goes
out as it is made, and is kept when all of it was made. Answers of devices are never kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import secrets
from typing import Any, Final

import anyio
import msgspec
import sqlalchemy as sa
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts import codec
from contracts.errors import ErrorBody, ErrorInfo, InputError, RefusedError, ShoalError
from fleet.controller import Controller
from fleet.store import Store
from fleet.store.database import WITH_EACH_CHANGE
from fleet.store.documents import dump, load
from fleet.store.schema import IDEMPOTENCY

_KEY: Final = re.compile(r"[\x21-\x7e]{1,128}")
_KEEP_S: Final = 24 * 3600.0
_STUCK_S: Final = 60.0
TOUCH_S: Final = 15.0
"""Seconds between two words of a request that it is still being handled."""

_MAX_BODY: Final = 2 * 1024 * 1024
_LOG: Final = structlog.get_logger("api")

_NOT_HANDLED: Final = frozenset({401, 403, 413, 422, 429})
"""Answers to requests that were refused before any work was done."""


def _told(code: str, message: str) -> bytes:
    return codec.encode(ErrorBody(ErrorInfo(code, message)))


_SHOWN_ONCE: Final = _told(
    "already-made",
    "this request was carried out, and its secret was shown then: it is not stored; "
    "delete what was made and make another when it was lost",
)
_TOO_LONG: Final = _told(
    "already-made",
    f"this request was carried out; its answer had over {_MAX_BODY} bytes and was not stored",
)


_IN_DOUBT: Final = (
    "the first request with this Idempotency-Key changed something, and how it ended was lost: it "
    "is not carried out again. `GET /v1/audit` (`shoal fleet audit`) has what was changed; what is "
    "missing can be asked for with a new key"
)


class Kept(msgspec.Struct, frozen=True):
    """An answer that was given."""

    status: int
    headers: dict[str, str]
    body: bytes


class Replay(Exception):  # noqa: N818
    """Not an error: the request was handled before, and this was its answer."""

    def __init__(self, kept: Kept) -> None:
        super().__init__("handled before")
        self.kept = kept


def take(
    store: Store, token: str, key: str, digest: str, now: float, owner: str = ""
) -> Kept | None:
    """Takes a key for `owner`, which nobody else is called.

    Returns:
        None: the caller does the work and keeps its answer, or frees the key; else the answer.

    Raises:
        RefusedError: ``idempotency-mismatch``, ``idempotency-running``, ``in-doubt``.
    """
    mine = (IDEMPOTENCY.c.token == token) & (IDEMPOTENCY.c.key == key)
    with store.write() as connection:
        connection.execute(IDEMPOTENCY.delete().where(IDEMPOTENCY.c.at < now - _KEEP_S))
        inserted = connection.execute(
            store.insert(IDEMPOTENCY)
            .values(token=token, key=key, request_sha256=digest, at=now, owner=owner)
            .on_conflict_do_nothing()
            .returning(IDEMPOTENCY.c.key)
        )
        if inserted.first() is not None:
            return None
        row = connection.execute(sa.select(IDEMPOTENCY).where(mine)).first()
        if row is not None and row.request_sha256 != digest:
            raise RefusedError(
                "idempotency-mismatch", "this Idempotency-Key was used for another request"
            )
        if row is not None and row.status is not None:
            return Kept(row.status, load(row.headers, dict[str, str]), row.body)
        if row is not None and row.changed and row.at <= now - _STUCK_S:
            raise RefusedError("in-doubt", _IN_DOUBT)
        # Of two that see a dead request at once, one changes the row.
        freed = connection.execute(
            IDEMPOTENCY.update()
            .where(
                mine,
                IDEMPOTENCY.c.status.is_(None),
                IDEMPOTENCY.c.at <= now - _STUCK_S,
                ~IDEMPOTENCY.c.changed,
            )
            .values(at=now, owner=owner)
        )
        if freed.rowcount != 1:
            raise RefusedError(
                "idempotency-running", "the first request with this Idempotency-Key still runs"
            )
        return None


class Taken:
    """A key whose request is being handled, and what was answered so far.

    Args:
        controller: whose database holds the key.
        token, key: whose key, and which.
        owner: as whom this request took it; another owner means that another took it since.
    """

    def __init__(self, controller: Controller, token: str, key: str, owner: str) -> None:
        self._store = controller.store
        self._clock = controller.clock
        self._token, self._key, self._owner = token, key, owner
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._long = False
        self.shown_once = False
        self.ended = False
        self._beat = asyncio.create_task(self._keep_telling())

    async def _keep_telling(self) -> None:
        WITH_EACH_CHANGE.set(None)  # in this task's own context: a word is no change
        while True:
            await asyncio.sleep(TOUCH_S)
            try:
                await run_in_threadpool(self._touch)
            except ShoalError as error:
                _LOG.warning("an idempotency key was not renewed", reason=str(error))

    def _mine(self) -> Any:
        return sa.and_(
            IDEMPOTENCY.c.token == self._token,
            IDEMPOTENCY.c.key == self._key,
            IDEMPOTENCY.c.owner == self._owner,
        )

    def note_change(self, connection: sa.Connection) -> None:
        """Notes in a change's own transaction that the request has changed something.

        Raises:
            RefusedError: ``idempotency-lost``; there is no change then.
        """
        if self.ended:
            return
        found = connection.execute(IDEMPOTENCY.update().where(self._mine()).values(changed=True))
        if found.rowcount != 1:
            raise RefusedError(
                "idempotency-lost",
                "this request stood still for over a minute and its Idempotency-Key was taken by "
                "another since: it changes nothing more",
            )

    def _touch(self) -> None:
        with self._store.write() as connection:
            connection.execute(IDEMPOTENCY.update().where(self._mine()).values(at=self._clock()))

    def add(self, message: Message) -> bool:
        """Notes what is answered; True: it is the last of it."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in message["headers"]
                if name.lower() in (b"content-type", b"etag", b"location")
            }
            return False
        if message["type"] != "http.response.body":
            return False
        if len(self._body) + len(message.get("body", b"")) > _MAX_BODY:
            self._long = True
            self._body.clear()
        if not self._long:
            self._body += message.get("body", b"")
        return not message.get("more_body", False)

    async def end(self, whole: bool) -> None:
        """Keeps the answer, or frees the key when nothing was done or the answer broke off."""
        if self.ended:
            return
        self.ended = True
        with anyio.CancelScope(shield=True):
            self._beat.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._beat
            try:
                await run_in_threadpool(self._end, whole)
            except ShoalError as error:
                _LOG.warning("an answer was not kept for its key", reason=str(error))

    def _end(self, whole: bool) -> None:
        lost = not whole or self._status >= 500
        if lost or self._status in _NOT_HANDLED:
            with self._store.write() as connection:
                unchanged = self._mine() & ~IDEMPOTENCY.c.changed
                if connection.execute(IDEMPOTENCY.delete().where(unchanged)).rowcount:
                    return
        answer = Kept(self._status, self._headers, bytes(self._body))
        if lost:
            answer = Kept(409, {"content-type": "application/json"}, _told("in-doubt", _IN_DOUBT))
        elif self.shown_once and self._status < 400:
            answer = Kept(409, {"content-type": "application/json"}, _SHOWN_ONCE)
        elif self._long:
            answer = Kept(409, {"content-type": "application/json"}, _TOO_LONG)
        with self._store.write() as connection:
            connection.execute(
                IDEMPOTENCY.update()
                .where(self._mine())
                .values(status=answer.status, headers=dump(answer.headers), body=answer.body)
            )


async def begin(request: Request, token: str) -> None:
    """Takes the key of a request that was let in, when it has one.

    Raises:
        InputError: ``bad-key``.
        RefusedError: as :func:`take`.
        Replay: it was handled before.
    """
    key = request.headers.get("idempotency-key")
    if key is None or request.method != "POST" or not hasattr(request.state, "once"):
        return
    if not _KEY.fullmatch(key):
        raise InputError("bad-key", "Idempotency-Key is 1 to 128 printable ASCII characters")
    if getattr(request.state, "question", False):
        return
    controller: Controller = request.app.state.controller
    digest = hashlib.sha256(
        f"{request.method} {request.url.path}?{request.url.query}\n".encode() + await request.body()
    ).hexdigest()
    owner = secrets.token_hex(16)
    kept = await run_in_threadpool(
        take, controller.store, token, key, digest, controller.clock(), owner
    )
    if kept is not None:
        raise Replay(kept)
    taken = Taken(controller, token, key, owner)
    taken.shown_once = getattr(request.state, "shown_once", False)
    request.state.once = taken


def shown_once(request: Request) -> None:
    """A dependency of routes whose answers hold a secret: it is shown once, and never stored."""
    request.state.shown_once = True


def question(request: Request) -> None:
    """A dependency of routes that ask devices: nothing is changed, and no text is to be stored.

    A question with a key that is sent again is asked again.
    """
    request.state.question = True


class Once:
    """Keeps answers of requests that took a key, as they go by."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http" or not any(n == b"idempotency-key" for n, _ in scope["headers"]):
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["once"] = None

        async def noted(message: Message) -> None:
            taken: Taken | None = state["once"]
            if taken is not None and taken.add(message):
                # Before its last piece goes out: who has all of it may send the request again.
                await taken.end(whole=True)
            await send(message)

        def beside(connection: sa.Connection) -> None:
            taken: Taken | None = state["once"]
            if taken is not None:
                taken.note_change(connection)

        context = WITH_EACH_CHANGE.set(beside)
        try:
            await self._app(scope, receive, noted)
        finally:
            WITH_EACH_CHANGE.reset(context)
            taken: Taken | None = state["once"]
            if taken is not None:
                await taken.end(whole=False)


def install(app: FastAPI) -> None:
    """Answers a request that was handled before as it was answered then."""
    app.add_middleware(Once)

    @app.exception_handler(Replay)
    async def _again(_request: Request, again: Replay) -> Response:
        kept = again.kept
        return Response(kept.body, kept.status, {**kept.headers, "Idempotent-Replayed": "true"})
