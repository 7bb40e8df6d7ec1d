"""Every route that changes something leaves an entry in the audit log, refused or done.

The routes are those of the application, so that a new one is either listed here or fails.

Over 400 lines: one table of all routes that change something.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute, Mount

from agent.certificates.device import new_request
from contracts.answers import Answer, FieldSample, Logged, LogLine
from contracts.bundle import pack
from contracts.errors import ShoalError
from contracts.messages import BundleRef
from contracts.release import ReleaseArchive
from contracts.renewal import signed_bytes
from fleet import improvements
from fleet.api.app import create_app
from fleet.api.refusals import CHANGES
from fleet.controller import Controller
from fleet.dashboard import mount
from fleet.folder import Fleet
from fleet.identity.claims import new_secret
from fleet.repository import releases
from fleet.samples import collect
from fleet.store import audit, samples
from fleet.store.audit import Entry
from fleet.store.entries import Actor
from tests.fleet.api.conftest import Signed, app_of
from tests.support.bundles import noise_bundle
from tests.support.wheels import make_release

Route = tuple[str, str]

CHANGES_NOTHING: dict[Route, str] = {
    ("POST", "/v1/rollouts/plan"): "says what a rollout would do",
    ("POST", "/v1/queries"): "asks devices; neither question nor answer is kept",
    ("POST", "/v1/feedback"): "a device counts a verdict; whose it was is not kept",
    ("POST", "/v1/embeddings"): "asks a device; neither text nor vector is kept",
    ("POST", "/v1/chat/completions"): "asks a device; neither question nor answer is kept",
    ("POST", "/v1/completions"): "asks a device; neither question nor answer is kept",
    ("POST", "/v1/responses"): "asks a device; neither question nor answer is kept",
}
"""Routes that are no reads by their method, and why they need no entry."""

OF_THE_LIBRARY = ("/_nicegui", "/socket.io")
"""Where the dashboard's library has files and its websocket: what is done over that is noted by
``Data``, whose methods are tested in tests/fleet/dashboard/test_data.py."""

SPEC = {"bundle": "noise", "version": "1.0.0", "selector": "d1", "waves": [{"count": 1}]}


def routes_of(routes: Iterable[BaseRoute], prefix: str = "") -> Iterator[Route]:
    """Every route with each of its methods, also of applications inside."""
    for route in routes:
        path = prefix + str(getattr(route, "path", ""))
        if isinstance(route, Mount):
            yield from routes_of(route.routes or [], path)
            continue
        inside = getattr(getattr(route, "original_router", None), "routes", None)
        if inside is not None:
            yield from routes_of(inside, path)
        for method in getattr(route, "methods", None) or ():
            yield method, path


def changing(found: Iterable[Route]) -> set[Route]:
    """Those that are no reads by their method."""
    return {
        (method, path)
        for method, path in found
        if method not in ("GET", "HEAD", "OPTIONS") and not path.startswith(OF_THE_LIBRARY)
    }


def entries(controller: Controller) -> list[Entry]:
    """The audit log, newest first."""
    controller.attempts.write()
    with controller.store.read() as connection:
        return audit.page(connection, None, 1000)[0]


def test_every_route_that_may_change_something_is_known_here(controller: Controller) -> None:
    """A new one is in the table of entries, or among those that change nothing, with a reason."""
    app = create_app(controller)
    mount(app, controller)
    found = changing(routes_of(app.routes))
    assert len(found) > 10
    assert found == set(CHANGES) | set(CHANGES_NOTHING)
    assert not set(CHANGES) & set(CHANGES_NOTHING)


def path_of(path: str) -> str:
    """A path with values of devices and rollouts that are not there."""
    for name, value in (
        ("{device}", "nobody"), ("{rollout}", "r-0"), ("{command}", "pause"),
        ("{identifier}", "9999"), ("{webhook}", "9999"), ("{ask}", "ask-0"),
        ("{rule}", "nobody"), ("{serial}", "nobody"),
    ):  # fmt: skip
        path = path.replace(name, value)
    return path


OPEN = ("/v1/enroll", "/v1/join", "/v1/claim", "/v1/certificates/renew")
OVER_HTTP = sorted(route for route in CHANGES if not route[1].startswith("/ui/"))


@pytest.mark.parametrize(("method", "path"), OVER_HTTP)
def test_every_change_that_is_refused_leaves_an_entry(
    controller: Controller, signed: Signed, method: str, path: str
) -> None:
    """Without a token, beyond the role, and where there is nothing to change."""
    action = CHANGES[method, path].format(command="pause")
    open_to_all = path in OPEN
    body: dict[str, Any] = {"token": "t", "request": "r", "certificate": "c", "signature": "s"}
    if path == "/v1/join":
        body = {"token": "t", "choices": [["aarch64", "cp313"]]}
    for role in ("nobody", "viewer", "admin"):
        before = {one.id: one.times for one in entries(controller)}
        answer = signed(role).request(method, path_of(path), json=body)
        assert answer.status_code >= 400
        new = [one for one in entries(controller) if before.get(one.id) != one.times]
        assert [one.times - before.get(one.id, 0) for one in new] == [1], new
        assert new[0].outcome not in (audit.DONE, audit.BEGUN)
        wanted = "login" if role == "nobody" and not open_to_all else action
        assert new[0].action == wanted


def login(client: TestClient, _controller: Controller) -> None:
    """Signs in at the dashboard."""
    secret = client.headers["Authorization"].removeprefix("Bearer ")
    assert client.post("/ui/login", data={"token": secret}, follow_redirects=False).is_redirect


def logout(client: TestClient, controller: Controller) -> None:
    """Signs out again."""
    login(client, controller)
    assert client.post("/ui/logout", follow_redirects=False).is_redirect


def uploads(client: TestClient, controller: Controller) -> None:
    """Publishes a bundle's file from the dashboard."""
    login(client, controller)
    with TemporaryDirectory() as folder:
        bundle, file = (
            noise_bundle(Path(folder) / "made", version="2.0.0"),
            Path(folder) / "n.shoal",
        )
        pack(bundle.path, file)
        data = file.read_bytes()
    asked = {"name": file.name, "size": len(data)}
    assert "published" in made(client.post("/ui/upload", params=asked, content=data))


def made(answer: Any) -> Any:
    """The body of an answer that says that it is done."""
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def command(client: TestClient, _controller: Controller) -> None:
    """Pauses a rollout."""
    rollout = made(client.post("/v1/rollouts", json=SPEC))
    made(client.post(f"/v1/rollouts/{rollout['id']}/pause"))


def revoke_token(client: TestClient, _controller: Controller) -> None:
    """Makes a token and revokes it."""
    made(client.post("/v1/tokens", json={"name": "ci", "role": "viewer"}))
    (token,) = [one for one in client.get("/v1/tokens").json()["items"] if one["name"] == "ci"]
    made(client.delete(f"/v1/tokens/{token['id']}"))


HOOK = {"url": "https://example.org/x", "events": ["*"]}


def delete_webhook(client: TestClient, _controller: Controller) -> None:
    """Makes a webhook and removes it."""
    hook = made(client.post("/v1/webhooks", json=HOOK))
    made(client.delete(f"/v1/webhooks/{hook['id']}"))


def sends_test(client: TestClient, _controller: Controller) -> None:
    """Sends a test message to a webhook."""
    made(client.post("/v1/webhooks", json=HOOK))
    made(client.post("/v1/alerts/test", json={}))


def enroll(client: TestClient, controller: Controller) -> None:
    """A device enrols itself with a token."""
    secret = controller.fleet.new_token("self", "raspberry-pi-5", labels={}, groups=[], seconds=60)
    made(client.post("/v1/enroll", json={"token": secret, "request": new_request(None)[1]}))


def join(client: TestClient, controller: Controller) -> None:
    """A board with a token asks what to install."""
    with TemporaryDirectory() as folder:
        archive = make_release(Path(folder), "0.9.0", platform="aarch64", python="cp313")
        releases.publish(controller.repository, ReleaseArchive.open(archive))
    secret = controller.fleet.new_token("self", "raspberry-pi-5", labels={}, groups=[], seconds=60)
    made(client.post("/v1/join", json={"token": secret, "choices": [["aarch64", "cp313"]]}))


def renew(client: TestClient, controller: Controller) -> None:
    """A device's certificate is renewed; its current key signs the request."""
    secret = controller.fleet.new_token("self", "raspberry-pi-5", labels={}, groups=[], seconds=60)
    key, request = new_request(None)
    controller.fleet.redeem(secret, request.encode())
    (certificate,) = controller.fleet.open_identity().certificates("self")
    following = new_request("self")[1]
    current = load_pem_private_key(key.encode(), None)
    assert isinstance(current, ec.EllipticCurvePrivateKey)
    signature = current.sign(signed_bytes(following.encode()), ec.ECDSA(hashes.SHA256()))
    body = {
        "certificate": certificate.pem,
        "request": following,
        "signature": base64.b64encode(signature).decode(),
    }
    made(client.post("/v1/certificates/renew", json=body))


def leaves(
    what: str, body: dict[str, str] | None = None
) -> Callable[[TestClient, Controller], None]:
    """A device leaves, or gets another name."""

    def act(client: TestClient, controller: Controller) -> None:
        controller.fleet.enroll("kitchen", "raspberry-pi-5")
        made(client.post(f"/v1/devices/kitchen/{what}", json=body))

    return act


ASK = {"model": "noise", "selector": "d1"}
LESSON = {
    "devices": ["d1"], "model": "noise", "lesson": "one", "label": "x", "texts": ["y"],
    "timeout_s": 0.1,
}  # fmt: skip


def sample(controller: Controller) -> dict[str, str]:
    """A device gave a hard example: its model and key."""
    one = FieldSample("0" * 32, 1.0, "a text", "x", 0.3, BundleRef("noise", "1.0.0", "0" * 64), [])
    ask = samples.Ask("ask-1", "noise", "all", 5, "", "ann", controller.clock())
    with controller.store.write() as connection:
        samples.add(controller.store, connection, ask, "d1", [one], controller.clock())
    return {"model": "noise", "key": samples.key_of("a text")}


def says(client: TestClient, controller: Controller) -> None:
    """Labels a text."""
    made(client.post("/v1/samples/labels", json={**sample(controller), "label": "y"}))


def takes_back(client: TestClient, controller: Controller) -> None:
    """Labels a text, and takes it back."""
    given = sample(controller)
    made(client.post("/v1/samples/labels", json={**given, "label": "y"}))
    made(client.delete("/v1/samples/labels", params=given))


def improves(client: TestClient, controller: Controller) -> None:
    """Starts a program for a model whose recipe is known."""
    folder = controller.fleet.folder / improvements.FOLDER / "noise" / "1.1.0"
    folder.mkdir(parents=True)
    state = {"name": "noise", "version": "1.1.0", "against": "1.0.0", "step": "stopped"}
    (folder / improvements.STATE).write_text(json.dumps(state))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(improvements.interpreter, "module", lambda *_: ["true"])
        answer = made(client.post("/v1/improvements", json={"model": "noise"}))
    assert [(one["version"], one["step"]) for one in answer["items"]] == [("1.1.0", "stopped")]


def collects(client: TestClient, controller: Controller) -> None:
    """Asks a device again, which gives something."""
    ask = made(client.post("/v1/samples/asks", json=ASK))["name"]

    async def gives(*_: object) -> list[collect.Gave]:
        found = [collect.Gave("d1", 1, 1)]
        (known,) = await asyncio.to_thread(collect.open_asks, controller)
        by = Actor("the admin", "admin")
        await asyncio.to_thread(collect._note, controller, known, by, found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "collect", gives)
        made(client.post(f"/v1/samples/asks/{ask}/collect"))


BOARDS = {"boards": [{"serial": "10000000ABCD", "name": "self", "board": "raspberry-pi-5"}]}


def claims(client: TestClient, controller: Controller) -> None:
    """A board on the list names itself."""
    made(client.post("/v1/serials", json=BOARDS))
    with controller.fleet.open_identity().registry.transaction() as transaction:
        secret = new_secret(transaction, time.time(), 60)
    body = {"token": secret, "serial": "10000000abcd", "machine": "m" * 32}
    made(client.post("/v1/claim", json=body))


def makes_line(client: TestClient, controller: Controller) -> None:
    """The line for all boards, of a fleet with an address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fleet, "api_url", "https://fleet.example.org")
        assert "claim_" in made(client.post("/v1/serials/line", json={}))["command"]


def forgets_serial(client: TestClient, _controller: Controller) -> None:
    """A board is taken off the list."""
    made(client.post("/v1/serials", json=BOARDS))
    made(client.delete("/v1/serials/10000000abcd"))


def reads_log(client: TestClient, controller: Controller) -> None:
    """A device gives lines of its log."""
    line = LogLine(0, 1.0, "info", "ready")

    async def gives(*_: object, **__: object) -> AsyncGenerator[Answer, None]:
        yield Answer(id="q", device="d1", logged=Logged("b", [line], 0))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(controller.asker, "ask", gives)
        answer = made(client.post("/v1/devices/d1/logs", json={}))
    assert [one["event"] for one in answer["lines"]] == ["ready"]


DONE: dict[Route, Callable[[TestClient, Controller], object]] = {
    ("PATCH", "/v1/devices"): lambda client, _: made(
        client.patch("/v1/devices", json={"selector": "site=lyon", "labels": {"a": "b"}})
    ),
    ("PATCH", "/v1/devices/{device}"): lambda client, _: made(
        client.patch("/v1/devices/d1", json={"labels": {"a": "b"}})
    ),
    ("POST", "/v1/devices/{device}/revoke"): leaves("revoke"),
    ("POST", "/v1/devices/{device}/retire"): leaves("retire"),
    ("POST", "/v1/devices/{device}/rename"): leaves("rename", {"name": "hall"}),
    ("POST", "/v1/devices/{device}/logs"): reads_log,
    ("POST", "/v1/claim"): claims,
    ("POST", "/v1/serials"): lambda client, _: made(client.post("/v1/serials", json=BOARDS)),
    ("POST", "/v1/serials/line"): makes_line,
    ("DELETE", "/v1/serials/{serial}"): forgets_serial,
    ("POST", "/v1/rollouts"): lambda client, _: made(client.post("/v1/rollouts", json=SPEC)),
    ("POST", "/v1/rollouts/{rollout}/{command}"): command,
    ("POST", "/v1/improvements"): improves,
    ("POST", "/v1/lessons"): lambda client, _: made(client.post("/v1/lessons", json=LESSON)),
    ("POST", "/v1/lessons/undo"): lambda client, _: made(
        client.post("/v1/lessons/undo", json={"devices": ["d1"], "lesson": "one", "timeout_s": 0.1})
    ),
    ("POST", "/v1/samples/asks"): lambda client, _: made(client.post("/v1/samples/asks", json=ASK)),
    ("POST", "/v1/samples/asks/{ask}/collect"): collects,
    ("DELETE", "/v1/samples"): lambda client, _: made(
        client.delete("/v1/samples", params={"model": "noise"})
    ),
    ("POST", "/v1/samples/labels"): says,
    ("DELETE", "/v1/samples/labels"): takes_back,
    ("POST", "/v1/tokens"): lambda client, _: made(
        client.post("/v1/tokens", json={"name": "ci", "role": "viewer"})
    ),
    ("DELETE", "/v1/tokens/{identifier}"): revoke_token,
    ("POST", "/v1/alerts/rules"): lambda client, _: made(
        client.post("/v1/alerts/rules", json={"kind": "offline"})
    ),
    ("DELETE", "/v1/alerts/rules/{rule}"): lambda client, _: made(
        client.delete("/v1/alerts/rules/offline")
    ),
    ("POST", "/v1/alerts/rules/{rule}/silence"): lambda client, _: made(
        client.post("/v1/alerts/rules/offline/silence", json={"seconds": 60})
    ),
    ("POST", "/v1/alerts/test"): sends_test,
    ("POST", "/v1/webhooks"): lambda client, _: made(client.post("/v1/webhooks", json=HOOK)),
    ("DELETE", "/v1/webhooks/{webhook}"): delete_webhook,
    ("POST", "/v1/enroll"): enroll,
    ("POST", "/v1/join"): join,
    ("POST", "/v1/certificates/renew"): renew,
    ("POST", "/ui/login"): login,
    ("POST", "/ui/logout"): logout,
    ("POST", "/ui/upload"): uploads,
}


def test_every_change_is_done_by_a_test() -> None:
    """A new one needs an action below, or a test of its own."""
    assert set(DONE) == set(CHANGES)


@pytest.mark.parametrize(("method", "path"), sorted(DONE))
def test_every_change_that_is_done_leaves_an_entry(
    controller: Controller, signed: Signed, method: str, path: str
) -> None:
    """By whom, and as done."""
    client = signed("admin")
    if path.startswith("/ui/"):
        app = create_app(controller)
        mount(app, controller)
        headers = client.headers
        client = TestClient(app)
        client.headers["Authorization"] = headers["Authorization"]
    DONE[method, path](client, controller)
    newest = entries(controller)[0]
    assert newest.action == CHANGES[method, path].format(command="pause")
    assert newest.outcome == audit.DONE
    assert newest.actor == ("the admin" if path not in OPEN else "self")


def test_a_change_that_cannot_be_noted_is_not_made(
    controller: Controller, signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry is in the change's own transaction."""

    def fails(*_: object, **__: object) -> None:
        raise ShoalError("full", "no entry can be written")

    admin = signed("admin")
    monkeypatch.setattr(audit, "note", fails)
    monkeypatch.setattr(audit, "note_by", fails)
    for request in (
        lambda: admin.patch("/v1/devices/d1", json={"labels": {"a": "b"}}),
        lambda: admin.post("/v1/rollouts", json=SPEC),
        lambda: admin.post("/v1/tokens", json={"name": "ci", "role": "viewer"}),
        lambda: admin.post("/v1/webhooks", json=HOOK),
    ):
        assert request().status_code >= 400
    monkeypatch.undo()
    assert admin.get("/v1/devices/d1").json()["labels"] == {"site": "lyon"}
    for path in ("rollouts", "webhooks"):
        assert admin.get(f"/v1/{path}").json()["items"] == []
    assert "ci" not in [one["name"] for one in admin.get("/v1/tokens").json()["items"]]
    assert app_of(controller)
