"""``Idempotency-Key``: within the limits, without buffering, and for as long as a request runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import anyio
import msgspec
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.routing import APIRoute

from contracts.errors import RefusedError
from fleet.api import app as application
from fleet.api import idempotency
from fleet.api.auth import QUESTION, SHOWN_ONCE, Gatekeeper, Operator
from fleet.api.refusals import CHANGES
from fleet.api.stream import Stream
from fleet.controller import Controller
from fleet.folder import ApiConfig
from fleet.store import tokens
from fleet.store.schema import IDEMPOTENCY, METADATA, TOKEN
from tests.fleet.api.conftest import NOW, Signed, app_of

ROUTE = "/v1/test-stream"
ROLLOUT = {"bundle": "noise", "version": "1.0.0", "selector": "all"}


class Lookups:
    """Counts statements on the tokens of an engine."""

    def __init__(self, engine: sa.Engine) -> None:
        self.count = 0
        sa.event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.count += f"FROM {TOKEN.name}" in " ".join(statement.split())


def _kept(controller: Controller) -> list[Any]:
    with controller.store.read() as connection:
        return list(connection.execute(sa.select(IDEMPOTENCY)))


def test_wrong_tokens_with_a_key_are_slowed_as_all_others_are(
    controller: Controller, signed: Signed
) -> None:
    """Guessing costs the database no more than the limit, with the header or without."""
    client = signed("nobody")
    app_of(controller).state.gatekeeper = Gatekeeper(controller, lambda: 1000.0)
    lookups = Lookups(controller.store.engine)
    for headers in ({}, {"Idempotency-Key": "k"}):
        statuses = [
            client.post(
                "/v1/tokens",
                json={},
                headers={"Authorization": f"Bearer shoal_{i:012x}_" + "a" * 43, **headers},
            ).status_code
            for i in range(60)
        ]
        assert statuses.count(429) >= 40
    assert lookups.count <= 22


def test_a_known_token_costs_no_look_up_of_its_own(controller: Controller, signed: Signed) -> None:
    """What counts is read once in two seconds, whoever asks."""
    one, other = signed("viewer"), signed("operator")
    app_of(controller).state.gatekeeper = Gatekeeper(controller, lambda: 1000.0)
    lookups = Lookups(controller.store.engine)
    for _ in range(10):
        assert one.get("/v1/me").status_code == other.get("/v1/me").status_code == 200
    assert lookups.count == 1


def test_a_token_counts_as_soon_as_it_is_made(controller: Controller, signed: Signed) -> None:
    """Also where another process made it within the two seconds."""
    assert signed("viewer").get("/v1/me").status_code == 200
    app_of(controller).state.gatekeeper = Gatekeeper(controller, lambda: 1000.0)
    assert signed("viewer").get("/v1/me").status_code == 200
    assert signed("operator").get("/v1/me").json()["role"] == "operator"


def test_a_refused_request_takes_no_key(controller: Controller, signed: Signed) -> None:
    """A viewer who may not, and a body that is not valid, leave nothing in the database."""
    viewer, operator = signed("viewer"), signed("operator")
    for index in range(5):
        headers = {"Idempotency-Key": f"k{index}"}
        assert viewer.post("/v1/rollouts", json=ROLLOUT, headers=headers).status_code == 403
        assert operator.post("/v1/rollouts", json={}, headers=headers).status_code == 422
    assert _kept(controller) == []


def test_requests_with_a_key_are_limited_before_they_reach_the_database(
    controller: Controller, signed: Signed
) -> None:
    """The limit of a token holds for them, and counts each once."""
    client = signed("operator")
    controller.fleet.config = msgspec.structs.replace(
        controller.fleet.config, api=ApiConfig(requests_per_s=0.001, burst=3)
    )
    app_of(controller).state.gatekeeper = Gatekeeper(controller, lambda: 1000.0)
    statuses = [
        client.post(
            "/v1/rollouts/plan", json=ROLLOUT, headers={"Idempotency-Key": f"k{i}"}
        ).status_code
        for i in range(5)
    ]
    assert statuses == [200] * 3 + [429] * 2
    assert len(_kept(controller)) == 3


class Streaming:
    """The application with a route whose second piece waits until the first was received."""

    def __init__(self, controller: Controller) -> None:
        self.app: FastAPI = app_of(controller)
        self.went_on = asyncio.Event()
        self.runs = 0
        with controller.store.write() as connection:
            self.secret = tokens.create(connection, "streams", "operator", NOW)

        async def pieces() -> AsyncGenerator[bytes, None]:
            self.runs += 1
            yield b"one "
            await self.went_on.wait()
            yield b"two"

        def route(_token: Operator) -> Stream:
            return Stream(pieces(), "text/plain")

        self.app.add_api_route(ROUTE, route, methods=["POST"], response_model=None)

    async def post(
        self, key: str, *, leave_after: int = 100, go_on: bool = True
    ) -> tuple[int, dict[str, str], bytes]:
        """Sends a request; `leave_after` pieces the client is gone."""
        status, headers, body, pieces = 0, {}, b"", 0
        gone = asyncio.Event()
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            nonlocal status, headers, body, pieces
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {k.decode(): v.decode() for k, v in message["headers"]}
                return
            body += message.get("body", b"")
            pieces += 1
            if pieces >= leave_after:
                gone.set()
            elif go_on and body == b"one ":
                self.went_on.set()

        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1", "method": "POST", "path": ROUTE, "raw_path": ROUTE.encode(),
            "root_path": "", "query_string": b"", "scheme": "http", "client": ("127.0.0.1", 1),
            "server": None, "headers": [
                (b"authorization", f"Bearer {self.secret}".encode()),
                (b"idempotency-key", key.encode()),
            ],
        }  # fmt: skip
        with anyio.fail_after(20):
            await self.app(scope, receive, send)
        return status, headers, body


@pytest.fixture
def streaming(controller: Controller) -> Iterator[Streaming]:
    """A route that streams."""
    made = Streaming(controller)
    yield made
    made.app.router.routes = [r for r in made.app.router.routes if getattr(r, "path", "") != ROUTE]


def test_a_stream_with_a_key_goes_out_as_it_is_made(
    controller: Controller, streaming: Streaming
) -> None:
    """The first piece arrives before there is a second; later the whole is given again."""

    async def run() -> None:
        status, _, body = await streaming.post("k")
        assert (status, body) == (200, b"one two")
        status, headers, body = await streaming.post("k")
        assert (status, body) == (200, b"one two")
        assert headers["idempotent-replayed"] == "true"

    asyncio.run(run())
    assert streaming.runs == 1


def test_a_stream_that_broke_off_frees_its_key(
    controller: Controller, streaming: Streaming
) -> None:
    """Half an answer is no answer."""

    async def run() -> None:
        await streaming.post("k", leave_after=1)
        streaming.went_on.set()
        status, _, body = await streaming.post("k")
        assert (status, body) == (200, b"one two")

    asyncio.run(run())
    assert streaming.runs == 2


def test_a_key_is_taken_for_as_long_as_its_request_runs(
    controller: Controller, streaming: Streaming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that is; a minute after its process died it is free."""
    monkeypatch.setattr(idempotency, "TOUCH_S", 0.01)
    now = [NOW]
    controller.clock = lambda: now[0]

    async def run() -> None:
        first = asyncio.create_task(streaming.post("k", go_on=False))
        with anyio.fail_after(20):
            while not streaming.runs:
                await asyncio.sleep(0.01)
            for _ in range(4):
                now[0] += 40.0
                while (await asyncio.to_thread(_kept, controller))[0].at < now[0]:
                    await asyncio.sleep(0.01)
        status, _, body = await streaming.post("k")
        assert status == 409
        assert json.loads(body)["error"]["code"] == "idempotency-running"
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(run())
    assert streaming.runs == 1
    store = controller.store
    assert idempotency.take(store, "t", "dead", "digest", NOW) is None
    with pytest.raises(RefusedError):
        idempotency.take(store, "t", "dead", "digest", NOW + 59)
    assert idempotency.take(store, "t", "dead", "digest", NOW + 61) is None
    with pytest.raises(RefusedError):
        idempotency.take(store, "t", "dead", "digest", NOW + 62)


def test_no_secret_of_an_answer_is_stored_for_its_key(
    controller: Controller, signed: Signed
) -> None:
    """A webhook's secret is where deliveries are signed with it, and nowhere else."""
    client = signed("admin")
    secret = "S3CRET-S3CRET-S3CRET"
    body = {"url": "http://user:pass-word@example.org/hook/T0KEN-T0KEN?key=K3Y", "secret": secret}
    headers = {"Idempotency-Key": "wk"}
    assert client.post("/v1/webhooks", json=body, headers=headers).status_code == 201
    again = client.post("/v1/webhooks", json=body, headers=headers)
    assert again.status_code == 409
    assert secret not in again.text
    assert len(client.get("/v1/webhooks").json()["items"]) == 1
    with controller.store.read() as connection:
        for table in METADATA.sorted_tables:
            for row in connection.execute(table.select()):
                if table.name != "webhook":
                    for part in (secret, "pass-word", "T0KEN-T0KEN", "K3Y"):
                        assert part not in str(tuple(row)), table.name


def test_every_answer_with_a_secret_is_marked_as_shown_once() -> None:
    """A new route whose answer has a token, a secret or a key must say so."""
    routers = [part.ROUTER for part in vars(application).values() if hasattr(part, "ROUTER")]
    found = 0
    for route in (route for router in routers for route in router.routes):
        if not isinstance(route, APIRoute) or "POST" not in route.methods:
            continue
        model = route.response_model
        fields = set(getattr(model, "model_fields", {}))
        if fields & {"token", "secret", "key", "password"}:
            found += 1
            assert SHOWN_ONCE in route.dependencies, route.path
    assert found >= 3


READS = {"/v1/rollouts/plan"}
"""POST requests that only say what would be."""

CHANGES_WITH_TEXTS = {"/v1/lessons", "/v1/devices/{device}/logs"}
"""POST requests that are recorded as changes, and whose texts or answers are kept for no key."""


def test_every_question_to_devices_is_marked_as_one() -> None:
    """A new route by POST either changes something, or its answer is never stored for a key."""
    routers = [part.ROUTER for part in vars(application).values() if hasattr(part, "ROUTER")]
    changes = {path for method, path in CHANGES if method == "POST"}
    found = 0
    for route in (route for router in routers for route in router.routes):
        if not isinstance(route, APIRoute) or "POST" not in route.methods:
            continue
        asks = route.path not in (changes - CHANGES_WITH_TEXTS) | READS
        found += asks
        assert (QUESTION in route.dependencies) == asks, route.path
    assert found >= 4


def test_a_long_answer_is_not_made_twice(
    controller: Controller, streaming: Streaming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer beyond what is kept is said to have been given."""
    monkeypatch.setattr(idempotency, "_MAX_BODY", 5)

    async def run() -> None:
        status, _, body = await streaming.post("k")
        assert (status, body) == (200, b"one two")
        status, _, body = await streaming.post("k")
        assert status == 409
        assert json.loads(body)["error"]["code"] == "already-made"

    asyncio.run(run())
    assert streaming.runs == 1
