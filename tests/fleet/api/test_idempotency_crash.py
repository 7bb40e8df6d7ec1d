"""``Idempotency-Key`` when the controller dies: what was changed once is not changed twice.

A child process serves the first request and is killed at one of its steps; a minute later another
controller on the same database gets the request again.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from contracts.errors import UnavailableError
from fleet.api import idempotency
from fleet.api.app import create_app
from fleet.api.idempotency import Taken
from fleet.controller import Controller
from fleet.folder import Fleet, FleetConfig
from fleet.store import tokens
from fleet.store.schema import AUDIT, IDEMPOTENCY
from tests.fleet.api.conftest import NOW, app_of

FORKS = multiprocessing.get_context("forkserver")
"""Forks a process that has imported this module: each child would else import for seconds."""
FORKS.set_forkserver_preload([__name__])
HEADERS = {"Idempotency-Key": "once"}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "token.create": ("/v1/tokens", {"name": "second", "role": "viewer"}),
    "webhook.create": ("/v1/webhooks", {"url": "http://127.0.0.1:1/hook"}),
    "rollout.create": (
        "/v1/rollouts",
        {"bundle": "noise", "version": "1.0.0", "selector": "all"},
    ),
    "device.revoke": ("/v1/devices/d1/revoke", {}),
    "device.retire": ("/v1/devices/d1/retire", {}),
}
"""An action of the audit log, and the request that makes it."""


def _die(*_: object, **__: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str) -> None:
    setattr(owner, name, _die)


def _after(owner: Any, name: str) -> None:
    real = getattr(owner, name)

    def run(*arguments: Any, **named: Any) -> Any:
        real(*arguments, **named)
        _die()

    setattr(owner, name, run)


STEPS: dict[str, Callable[[], None]] = {
    "before the key is taken": lambda: _before(idempotency, "take"),
    "when the key is taken": lambda: _after(idempotency, "take"),
    "in the change's transaction": lambda: _after(Taken, "note_change"),
    "after the change": lambda: _before(Taken, "_end"),
    "when the answer is kept": lambda: _after(Taken, "_end"),
}
CHANGED = ("after the change", "when the answer is kept")


def _serve(folder: str, config: FleetConfig, secret: str, step: str, action: str) -> None:
    """Serves one request and dies at a step of it."""
    controller = Controller(Fleet(Path(folder), config))
    controller.clock = lambda: NOW
    STEPS[step]()
    path, body = REQUESTS[action]
    client = TestClient(create_app(controller))
    client.headers["Authorization"] = f"Bearer {secret}"
    client.post(path, json=body, headers=HEADERS)


def _secret(controller: Controller) -> str:
    with controller.store.write() as connection:
        return tokens.create(connection, "crash", "admin", NOW)


def _client(controller: Controller, secret: str) -> TestClient:
    client = TestClient(app_of(controller), raise_server_exceptions=False)
    client.headers["Authorization"] = f"Bearer {secret}"
    return client


def _done(controller: Controller, action: str) -> int:
    """How often something was done, by the audit log, where `begun` counts as done."""
    with controller.store.read() as connection:
        found = connection.execute(
            sa.select(sa.func.count()).where(
                AUDIT.c.action == action, AUDIT.c.outcome.in_(["done", "begun"])
            )
        )
        return int(found.scalar_one())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "step"),
    [
        *(("rollout.create", step) for step in STEPS),
        *((action, "after the change") for action in REQUESTS if action != "rollout.create"),
    ],
)
def test_a_request_whose_controller_was_killed_changes_things_once(
    controller: Controller, action: str, step: str
) -> None:
    """At whatever step: carried out once, or told to be in doubt, and never both."""
    secret = _secret(controller)
    fleet = controller.fleet
    child = FORKS.Process(
        target=_serve, args=(str(fleet.folder), fleet.config, secret, step, action)
    )
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert _done(controller, action) == (step in CHANGED)

    path, body = REQUESTS[action]
    client = _client(controller, secret)
    if step not in ("before the key is taken", "when the answer is kept"):
        controller.clock = lambda: NOW + 59
        early = client.post(path, json=body, headers=HEADERS)
        assert early.json()["error"]["code"] == "idempotency-running"
    controller.clock = lambda: NOW + 61
    again = client.post(path, json=body, headers=HEADERS)
    assert _done(controller, action) == 1
    if step == "after the change":
        assert again.status_code == 409
        error = again.json()["error"]
        assert error["code"] == "in-doubt"
        assert "/v1/audit" in error["message"]
        controller.clock = lambda: NOW + 3600
        assert client.post(path, json=body, headers=HEADERS).json() == again.json()
    elif step == "when the answer is kept":
        assert again.headers["idempotent-replayed"] == "true"
    else:
        assert again.status_code in (200, 201), again.text
    assert _done(controller, action) == 1


def test_a_request_that_failed_after_it_changed_something_is_not_carried_out_again(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database went away between the change and the answer: 503, and then in doubt."""

    def gone(*_: object) -> None:
        raise UnavailableError("database", "gone")

    client = _client(controller, _secret(controller))
    path, body = REQUESTS["rollout.create"]
    with monkeypatch.context() as patch:
        patch.setattr("fleet.api.routes_rollouts._view", gone)
        assert client.post(path, json=body, headers=HEADERS).status_code == 503
    again = client.post(path, json=body, headers=HEADERS)
    assert again.status_code == 409
    assert again.json()["error"]["code"] == "in-doubt"
    assert _done(controller, "rollout.create") == 1


def test_a_request_that_failed_before_it_changed_anything_is_carried_out_again(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key is free at once."""

    def gone(*_: object) -> None:
        raise UnavailableError("database", "gone")

    client = _client(controller, _secret(controller))
    path, body = REQUESTS["rollout.create"]
    with monkeypatch.context() as patch:
        patch.setattr(controller.runner, "create", gone)
        assert client.post(path, json=body, headers=HEADERS).status_code == 503
    assert client.post(path, json=body, headers=HEADERS).status_code == 201
    assert _done(controller, "rollout.create") == 1


def test_a_request_that_stood_still_changes_nothing_once_another_took_its_key(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was stopped for over a minute goes on too late."""
    client = _client(controller, _secret(controller))
    path, body = REQUESTS["webhook.create"]
    times = [NOW]
    controller.clock = lambda: times[0]
    real = controller.webhook_hosts.resolve
    inner: list[int] = []

    def stand_still(host: str, port: int) -> Any:
        if not inner:
            inner.append(0)
            times[0] += 61
            inner.append(client.post(path, json=body, headers=HEADERS).status_code)
        return real(host, port)

    monkeypatch.setattr(controller.webhook_hosts, "resolve", stand_still)
    first = client.post(path, json=body, headers=HEADERS)
    assert inner == [0, 201]
    assert first.json()["error"]["code"] == "idempotency-lost"
    assert _done(controller, "webhook.create") == 1
    assert len(client.get("/v1/webhooks").json()["items"]) == 1


def test_a_word_that_a_request_still_runs_is_no_change(controller: Controller) -> None:
    """Else every long request that dies would be in doubt."""

    def read() -> Any:
        with controller.store.read() as connection:
            return connection.execute(sa.select(IDEMPOTENCY)).one()

    async def run() -> None:
        taken = Taken(controller, "t", "k", "me")
        context = idempotency.WITH_EACH_CHANGE.set(taken.note_change)
        beat = asyncio.create_task(taken._keep_telling())
        try:
            async with asyncio.timeout(20):
                while True:
                    row = await asyncio.to_thread(read)
                    if row.at > NOW:
                        break
                    await asyncio.sleep(0.01)
            assert not row.changed
        finally:
            idempotency.WITH_EACH_CHANGE.reset(context)
            for task in (beat, taken._beat):
                task.cancel()
            await asyncio.gather(beat, taken._beat, return_exceptions=True)

    assert idempotency.take(controller.store, "t", "k", "d", NOW, "me") is None
    controller.clock = lambda: NOW + 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(idempotency, "TOUCH_S", 0.01)
        asyncio.run(run())
