"""The HTTP API: roles, one error shape, pages, ETags, idempotency, audit, limits.

Over 400 lines: all tests share one server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from fleet.api.auth import Gatekeeper, Limiter
from fleet.controller import Controller
from fleet.store import audit, tokens
from fleet.store.schema import METADATA
from tests.fleet.api.conftest import NOW, Signed, app_of

ROLLOUT = {"bundle": "noise", "version": "1.0.0"}
OPEN = {
    "/healthz", "/readyz", "/v1/certificates/renew", "/v1/claim", "/v1/enroll", "/v1/join",
    "/repo/{path:path}",
}  # fmt: skip
"""What needs no bearer token: liveness, signed files, one-time tokens, requests signed by a key."""


def _error(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    document: dict[str, Any] = response.json()
    assert set(document) == {"error"}
    assert document["error"]["code"] == code, document
    assert document["error"]["message"]
    detail: dict[str, Any] = document["error"].get("detail", {})
    return detail


def _routes(controller: Controller) -> list[tuple[str, str]]:
    app = app_of(controller)
    schema = app.openapi()
    return [
        (method.upper(), path) for path, methods in schema["paths"].items() for method in methods
    ]


def _fill(path: str) -> str:
    for name, value in (
        ("device", "d0"), ("rollout", "r1"), ("command", "pause"), ("name", "noise"),
        ("version", "1.0.0"), ("identifier", "x"), ("webhook", "w1"), ("path:path", "x"),
    ):  # fmt: skip
        path = path.replace(f"{{{name}}}", value)
    return path


def test_no_token_no_data(controller: Controller, signed: Signed) -> None:
    """Every route but the open ones answers 401 without a token, and with a wrong one."""
    client = signed("nobody")
    checked = 0
    for method, path in _routes(controller):
        if path in OPEN:
            continue
        answer = client.request(method, _fill(path), json={})
        # So many wrong guesses in a row are slowed down.
        limited = answer.status_code == 429
        _error(answer, 429 if limited else 401, "rate-limited" if limited else "unauthorized")
        checked += 1
    assert checked >= 25


class StoppedClock:
    """Seconds that pass only when a test says so: how slow the machine is does not matter."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_wrong_token_is_refused_and_guessing_is_slowed(
    controller: Controller, signed: Signed
) -> None:
    """After 20 wrong tokens one address has to wait; it may try five more a second later."""
    clock = StoppedClock()
    client = signed("nobody")
    app_of(controller).state.gatekeeper = Gatekeeper(controller, clock)
    client.headers["Authorization"] = "Bearer shoal_000000000000_" + "a" * 43
    statuses = [client.get("/v1/me").status_code for _ in range(25)]
    assert statuses == [401] * 20 + [429] * 5
    clock.now += 1.0
    statuses = [client.get("/v1/me").status_code for _ in range(8)]
    assert statuses == [401] * 5 + [429] * 3
    assert client.get("/v1/me").headers["Retry-After"] == "1"


def test_a_flood_of_wrong_tokens_does_not_lock_out_the_right_one(
    controller: Controller, signed: Signed
) -> None:
    """Users behind one address share it with whoever guesses there."""
    guesser, viewer = signed("nobody"), signed("viewer")
    app_of(controller).state.gatekeeper = Gatekeeper(controller, StoppedClock())
    guesser.headers["Authorization"] = "Bearer shoal_000000000000_" + "a" * 43
    assert [guesser.get("/v1/me").status_code for _ in range(30)][-1] == 429
    assert viewer.get("/v1/me").status_code == 200


def test_a_revoked_token_is_believed_for_two_seconds_at_most(
    controller: Controller, signed: Signed
) -> None:
    """Also where the token was revoked by another process, which can't say so here."""
    clock = StoppedClock()
    viewer = signed("viewer")
    app_of(controller).state.gatekeeper = Gatekeeper(controller, clock)
    assert viewer.get("/v1/me").status_code == 200
    with controller.store.write() as connection:
        for token in tokens.every(connection):
            tokens.revoke(connection, token.id, NOW)
    clock.now += 1.9
    assert viewer.get("/v1/me").status_code == 200
    clock.now += 0.2
    _error(viewer.get("/v1/me"), 401, "unauthorized")


def test_a_viewer_can_change_nothing(
    controller: Controller, signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every route that changes something answers 403 to a viewer, and the log says so alone."""
    # There are more routes than entries of failures in a minute.
    monkeypatch.setattr(audit, "MAX_A_MINUTE", 100)
    client = signed("viewer")
    harmless = {"/v1/rollouts/plan", "/v1/certificates/renew", "/v1/enroll", "/v1/join",
                "/v1/claim"}  # fmt: skip
    bodies: dict[str, Any] = {
        "/v1/rollouts": ROLLOUT,
        "/v1/queries": {"selector": "all", "text": "hello"},
        "/v1/tokens": {"name": "x", "role": "viewer"},
        "/v1/webhooks": {"url": "http://127.0.0.1:1/"},
        "/v1/devices/{device}": {"labels": {}},
    }
    checked = 0
    for method, path in _routes(controller):
        if method in ("GET", "HEAD") or path in harmless:
            continue
        _error(client.request(method, _fill(path), json=bodies.get(path)), 403, "forbidden")
        checked += 1
    assert checked >= 8
    with controller.store.read() as connection:
        changes = audit.page(connection, None, 10, audit.Filter(failed=False))[0]
        refused = audit.page(connection, None, 100, audit.Filter(failed=True))[0]
    assert [one.action for one in changes if one.actor != "controller"] == []
    # Queries change nothing: that they were forbidden is known by their path.
    assert sum(one.times for one in refused) == checked
    assert {(one.actor, one.outcome) for one in refused} == {("the viewer", "forbidden")}


def test_a_webhook_to_a_private_address_is_refused(signed: Signed) -> None:
    """Unless the fleet's settings name it; the error says where."""
    client = signed("admin")
    for url in ("http://10.0.0.1/", "https://[::1]:8443/x", "http://169.254.169.254/latest/"):
        answer = client.post("/v1/webhooks", json={"url": url})
        _error(answer, 409, "private-address")
        assert "webhook_hosts" in answer.json()["error"]["message"]
    for url in ("http://127.0.0.1:99999/", "http://[::1/", "http:///x"):
        _error(client.post("/v1/webhooks", json={"url": url}), 400, "bad-url")
    assert client.get("/v1/webhooks").json()["items"] == []


def test_an_operator_may_steer_but_not_administrate(signed: Signed) -> None:
    """Tokens and webhooks are for admins alone."""
    client = signed("operator")
    assert client.post("/v1/rollouts", json=ROLLOUT).status_code == 201
    _error(client.get("/v1/tokens"), 403, "forbidden")
    _error(client.post("/v1/webhooks", json={"url": "http://127.0.0.1:1/"}), 403, "forbidden")


def test_every_change_of_an_operator_is_in_the_audit_log(signed: Signed) -> None:
    """Who, what, on what, newest first."""
    client = signed("operator")
    rollout = client.post("/v1/rollouts", json=ROLLOUT).json()["id"]
    client.post(f"/v1/rollouts/{rollout}/pause")
    client.post(f"/v1/rollouts/{rollout}/resume")
    client.patch("/v1/devices/d1", json={"labels": {"site": "rome"}})
    client.post(f"/v1/rollouts/{rollout}/abort")
    admin = signed("admin")
    admin.post("/v1/tokens", json={"name": "new", "role": "viewer"})
    hook = admin.post("/v1/webhooks", json={"url": "http://127.0.0.1:1/"}).json()["id"]
    admin.delete(f"/v1/webhooks/{hook}")
    items = client.get("/v1/audit?actor=the").json()["items"]
    assert [(i["actor"], i["action"]) for i in reversed(items)] == [
        ("the operator", "rollout.create"),
        ("the operator", "rollout.pause"),
        ("the operator", "rollout.resume"),
        ("the operator", "device.change"),
        ("the operator", "rollout.abort"),
        ("the admin", "token.create"),
        ("the admin", "webhook.create"),
        ("the admin", "webhook.delete"),
    ]


def test_a_refused_change_is_in_the_audit_log_as_refused(signed: Signed) -> None:
    """Under the error's code; repeated in a minute, it is counted."""
    client = signed("operator")
    _error(client.post("/v1/rollouts/r9/pause"), 404, "no-such-rollout")
    _error(client.post("/v1/rollouts", json=ROLLOUT | {"version": "9.9.9"}), 404, "no-such-bundle")
    _error(client.post("/v1/rollouts/r9/pause"), 404, "no-such-rollout")
    items = client.get("/v1/audit?actor=the operator").json()["items"]
    assert [(i["action"], i["target"], i["outcome"], i["times"]) for i in items] == [
        ("rollout.create", "", "no-such-bundle", 1),
        ("rollout.pause", "r9", "no-such-rollout", 2),
    ]
    assert client.get("/v1/audit?actor=the operator&failed=false").json()["items"] == []


def test_lists_come_in_pages_that_hold_each_thing_once(signed: Signed) -> None:
    """Following `next` gives every device once, in order."""
    client = signed("viewer")
    found: list[str] = []
    cursor = None
    while True:
        page = client.get(
            "/v1/devices", params={"limit": 2, **({"cursor": cursor} if cursor else {})}
        ).json()
        found += [item["id"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert found == [f"d{index}" for index in range(5)]


def test_a_page_of_a_selector_is_full_or_the_last(signed: Signed) -> None:
    """Devices between the matching ones do not shorten a page."""
    client = signed("viewer")
    page = client.get("/v1/devices", params={"selector": "site=graz", "limit": 2}).json()
    assert [item["id"] for item in page["items"]] == ["d0", "d2"]
    page = client.get(
        "/v1/devices", params={"selector": "site=graz", "limit": 2, "cursor": page["next"]}
    ).json()
    assert [item["id"] for item in page["items"]] == ["d4"]
    assert page["next"] is None


def test_a_change_with_an_old_etag_is_refused(signed: Signed) -> None:
    """Two people who read the same state cannot overwrite one another."""
    client = signed("operator")
    first = client.get("/v1/devices/d1")
    etag = first.headers["ETag"]
    done = client.patch("/v1/devices/d1", json={"labels": {"a": "b"}}, headers={"If-Match": etag})
    assert done.status_code == 200
    assert done.json()["labels"] == {"a": "b"}
    again = client.patch("/v1/devices/d1", json={"labels": {}}, headers={"If-Match": etag})
    _error(again, 412, "changed-meanwhile")
    rollout = client.post("/v1/rollouts", json=ROLLOUT)
    etag = rollout.headers["ETag"]
    path = rollout.headers["Location"]
    assert client.post(f"{path}/pause", headers={"If-Match": etag}).status_code == 200
    _error(client.post(f"{path}/resume", headers={"If-Match": etag}), 412, "changed-meanwhile")
    _error(client.post(f"{path}/resume", headers={"If-Match": "soon"}), 400, "bad-etag")


def test_a_post_that_is_sent_again_with_its_key_is_done_once(signed: Signed) -> None:
    """The second answer is the first one; another request under the same key is refused."""
    client = signed("operator")
    headers = {"Idempotency-Key": "k1"}
    first = client.post("/v1/rollouts", json=ROLLOUT, headers=headers)
    second = client.post("/v1/rollouts", json=ROLLOUT, headers=headers)
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()
    assert second.headers["Idempotent-Replayed"] == "true"
    assert len(client.get("/v1/rollouts").json()["items"]) == 1
    other = client.post("/v1/rollouts/plan", json=ROLLOUT, headers=headers)
    _error(other, 422, "idempotency-mismatch")
    theirs = signed("operator").post("/v1/rollouts/plan", json=ROLLOUT, headers=headers)
    assert theirs.status_code == 200, "a key belongs to its token"


def test_a_secret_is_shown_once_and_is_nowhere_stored(
    signed: Signed, controller: Controller
) -> None:
    """A request for a token that is sent again makes no second one, and shows no secret."""
    client = signed("admin")
    headers = {"Idempotency-Key": "k2"}
    body = {"name": "ci", "role": "viewer"}
    first = client.post("/v1/tokens", json=body, headers=headers)
    assert first.status_code == 201
    secret = first.json()["token"]
    _error(client.post("/v1/tokens", json=body, headers=headers), 409, "already-made")
    assert len([t for t in client.get("/v1/tokens").json()["items"] if t["name"] == "ci"]) == 1
    with controller.store.read() as connection:
        for table in METADATA.sorted_tables:
            for row in connection.execute(table.select()):
                assert secret not in str(tuple(row)), table.name


def test_overlapping_rollouts_are_refused_or_queued(signed: Signed) -> None:
    """Never two at once on a device; the queued one says what it waits for."""
    client = signed("operator")
    assert client.post("/v1/rollouts", json=ROLLOUT).json()["status"] == "running"
    detail = _error(client.post("/v1/rollouts", json=ROLLOUT | {"selector": "d1"}), 409,
                    "devices-busy")  # fmt: skip
    assert detail["rollouts"] == ["r1"]
    queued = client.post("/v1/rollouts", json=ROLLOUT | {"selector": "d1", "if_busy": "queue"})
    assert queued.json()["status"] == "queued"


def test_a_queued_rollout_starts_when_the_other_has_ended(
    controller: Controller, signed: Signed
) -> None:
    """The engine takes it from the queue by itself."""
    client = signed("operator")
    client.post("/v1/rollouts", json=ROLLOUT)
    client.post("/v1/rollouts", json=ROLLOUT | {"selector": "d1", "if_busy": "queue"})
    controller.runner.tick()
    assert "r1" in client.get("/v1/rollouts/r2").json()["waiting"]
    client.post("/v1/rollouts/r1/abort")
    controller.runner.tick()
    controller.runner.tick()
    assert client.get("/v1/rollouts/r1").json()["status"] == "aborted"
    assert client.get("/v1/rollouts/r2").json()["status"] == "running"
    (before,) = client.post("/v1/rollouts/plan", json=ROLLOUT).json()["setbacks"]
    assert (before["rollout"], before["status"], before["wave"]) == ("r1", "aborted", 0)
    assert before["reason"]["code"] == "aborted"
    # It is asked for twice, by the rule of the dashboard and the command line.
    client.post("/v1/rollouts/r2/abort")
    controller.runner.tick()
    detail = _error(client.post("/v1/rollouts", json=ROLLOUT), 409, "stopped-before")
    assert detail["rollouts"] == ["r2", "r1"]
    again = client.post("/v1/rollouts", json=ROLLOUT, params={"again": True})
    assert again.status_code == 201
    with controller.store.read() as connection:
        newest = audit.page(connection, None, 1)[0][0]
    assert newest.detail["stopped_before"] == ["r2", "r1"]


def test_a_plan_says_what_would_happen_and_does_nothing(signed: Signed) -> None:
    """Waves with devices; the real rollout then takes the same ones."""
    client = signed("operator")
    spec = ROLLOUT | {"selector": "site=graz", "waves": [{"count": 1}, {"percent": 100}]}
    plan = client.post("/v1/rollouts/plan", json=spec).json()
    assert plan["moving"] == 3
    assert [wave["adds"] for wave in plan["waves"]] == [1, 2]
    assert client.get("/v1/rollouts").json()["items"] == []


@pytest.mark.parametrize(
    "change",
    [
        {"waves": []},
        {"waves": [{"count": 1, "percent": 5}]},
        {"waves": [{"percent": 50}, {"percent": 10}]},
        {"selector": "site in lyon"},
        {"gates": {"max_failure_rate": 2}},
        {"version": "1.0"},
        {"unknown": 1},
        {"windows": [{"start": "25:00", "end": "01:00"}]},
        {"windows": [{"start": "01:00", "end": "02:00", "timezone": "../../etc/passwd"}]},
        {"bake_s": -1},
        {"bundle": "x" * 65},
    ],
)
def test_a_wrong_rollout_is_refused_with_the_place_of_the_error(
    signed: Signed, change: dict[str, Any]
) -> None:
    """422, and nothing is created."""
    client = signed("operator")
    detail = _error(client.post("/v1/rollouts", json=ROLLOUT | change), 422, "bad-request")
    assert detail["errors"]
    assert client.get("/v1/rollouts").json()["items"] == []


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not-found"),
        ("GET", "/v1/devices/unknown", 404, "no-such-device"),
        ("GET", "/v1/devices/..%2f", 404, "not-found"),
        ("PUT", "/v1/devices", 405, "method-not-allowed"),
        ("GET", "/v1/devices?cursor=%F0%9F", 400, "bad-cursor"),
        ("GET", "/v1/devices?limit=0", 422, "bad-request"),
        ("GET", "/v1/devices?selector=a%3D", 400, "bad-selector"),
        ("GET", "/v1/rollouts?cursor=ZHg", 400, "bad-cursor"),
        ("GET", "/v1/bundles/noise/9.9.9", 404, "no-such-bundle"),
        ("GET", "/v1/bundles/noise/1.0.0/report", 404, "no-such-report"),
        ("GET", "/repo/../fleet.yaml", 404, "not-found"),
        ("GET", "/repo/%2e%2e/fleet.yaml", 404, "no-such-path"),
        ("GET", "/repo/metadata/../../keys/root.pem", 404, "no-such-path"),
        ("POST", "/v1/queries", 422, "bad-request"),
        ("DELETE", "/v1/tokens/none", 404, "no-such-token"),
        ("DELETE", "/v1/webhooks/none", 404, "no-such-webhook"),
    ],
)
def test_every_error_has_the_one_shape(
    signed: Signed, method: str, path: str, status: int, code: str
) -> None:
    """Whatever goes wrong, a program finds the code in the same place."""
    response = signed("admin").request(method, path)
    if path.startswith(("/repo/..", "/repo/metadata/..")):
        assert response.status_code == 404
        assert "error" in response.json()
        return
    _error(response, status, code)


def test_a_body_over_the_cap_is_refused(signed: Signed) -> None:
    """Before it is read into memory; one without a length is cut off at the cap."""
    client = signed("operator")
    big = b'{"bundle": "' + b"x" * 1_100_000 + b'"}'
    headers = {"Content-Type": "application/json"}
    _error(client.post("/v1/rollouts", content=big, headers=headers), 413, "too-large")
    parts = (big[at : at + 50_000] for at in range(0, len(big), 50_000))
    _error(client.post("/v1/rollouts", content=parts, headers=headers), 400, "bad-request")


def test_a_length_of_more_digits_than_an_int_takes_is_over_the_cap(signed: Signed) -> None:
    """Python reads at most 4,300."""
    headers = {"Content-Type": "application/json", "Content-Length": "9" * 5000}
    _error(signed("operator").post("/v1/rollouts", headers=headers), 413, "too-large")


def test_the_repository_is_served_with_ranges_and_without_a_token(
    controller: Controller, signed: Signed
) -> None:
    """A download can go on where it broke off."""
    client = signed("nobody")
    blob = next((controller.repository.folder / "blobs").iterdir())
    whole = client.get(f"/repo/blobs/{blob.name}")
    assert whole.content == blob.read_bytes()
    part = client.get(f"/repo/blobs/{blob.name}", headers={"Range": "bytes=10-19"})
    assert part.status_code == 206
    assert part.content == whole.content[10:20]
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(whole.content)}"
    assert client.get("/repo/metadata/timestamp.json").headers["Cache-Control"] == "no-cache"


def test_browsers_that_come_by_tls_are_told_to_stay_there(
    controller: Controller, signed: Signed
) -> None:
    """Errors say so too; without TLS nobody does."""
    plain = signed("nobody")
    assert "Strict-Transport-Security" not in plain.get("/healthz").headers
    secure = TestClient(app_of(controller), base_url="https://fleet.example")
    for path in ("/healthz", "/v1/me", "/nowhere"):
        assert secure.get(path).headers["Strict-Transport-Security"] == "max-age=31536000"
    secure.close()


def test_health_is_about_the_process_and_readiness_about_its_needs(signed: Signed) -> None:
    """Without a broker the process lives but is not ready."""
    client = signed("nobody")
    assert client.get("/healthz").json() == {"status": "ok"}
    answer = client.get("/readyz")
    assert answer.status_code == 503
    parts = {"database": True, "broker": False, "owner": False, "disk": True}
    assert answer.json() == {"ready": False, "parts": parts}


def test_prometheus_reads_the_metrics(signed: Signed) -> None:
    """Figures of the process and of the fleet, for a viewer's token."""
    text = signed("viewer").get("/metrics").text
    assert 'shoal_devices{state="unknown"} 5.0' in text
    assert "shoal_ingest_messages_total 0.0" in text


def test_a_revoked_token_ends_at_once(signed: Signed) -> None:
    """Not when some cache forgets it."""
    admin, viewer = signed("admin"), signed("viewer")
    assert viewer.get("/v1/me").json() == {"fleet": "home", "name": "the viewer", "role": "viewer"}
    tokens = {t["name"]: t["id"] for t in admin.get("/v1/tokens").json()["items"]}
    assert admin.delete(f"/v1/tokens/{tokens['the viewer']}").status_code == 204
    _error(viewer.get("/v1/me"), 401, "unauthorized")
    _error(admin.delete(f"/v1/tokens/{tokens['the admin']}"), 409, "own-token")


def test_a_query_of_an_unreachable_broker_says_so(signed: Signed) -> None:
    """503: it may work later. A device that is offline answers for itself."""
    client = signed("operator")
    answer = client.post("/v1/queries", json={"selector": "all", "text": "hello"}).json()
    assert answer["answered"] == 0
    assert {a["error"]["code"] for a in answer["answers"]} == {"device-offline"}
    _error(client.post("/v1/queries", json={"devices": ["nope"], "text": "x"}), 404,
           "no-such-device")  # fmt: skip
    _error(client.post("/v1/queries", json={"text": "x"}), 400, "bad-query")
    _error(client.post("/v1/queries", json={"selector": "all"}), 400, "bad-message")
    options = {"selector": "all", "text": "x", "options": {"top_k": 99}}
    _error(client.post("/v1/queries", json=options), 400, "bad-message")


def test_the_limiter_lets_a_burst_through_and_then_the_rate() -> None:
    """Four at once, then two a second."""
    limiter = Limiter(2.0, 4)
    assert [limiter.take("a", 0.0) for _ in range(4)] == [0.0] * 4
    assert limiter.take("a", 0.0) == pytest.approx(0.5)
    assert limiter.take("b", 0.0) == 0.0
    assert limiter.take("a", 0.6) == 0.0
    assert limiter.take("a", 0.6) > 0


def test_every_operation_is_described(controller: Controller) -> None:
    """OpenAPI has a text for each route, and the error shape for each error."""
    app = app_of(controller)
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description") or operation.get("summary"), (method, path)
            assert operation["responses"]["401"]["content"]["application/json"]["schema"][
                "$ref"
            ].endswith("/Error")
    assert all(route.name for route in app.routes if isinstance(route, APIRoute))


def test_secrets_are_shown_once(signed: Signed, tmp_path: Path) -> None:
    """Webhook secrets and tokens appear in the answer that makes them, and never again."""
    admin: TestClient = signed("admin")
    made = admin.post("/v1/webhooks", json={"url": "http://127.0.0.1:1/"}).json()
    assert len(made["secret"]) >= 16
    token = admin.post("/v1/tokens", json={"name": "n", "role": "viewer"}).json()["token"]
    secret = token.split("_", 2)[2]
    for path in ("/v1/webhooks", "/v1/tokens", "/v1/audit"):
        text = admin.get(path).text
        assert made["secret"] not in text
        assert secret not in text


@pytest.mark.parametrize(
    "path", ["/api/chat", "/api/tags", "/chat/completions", "/completion", "/v1/v1/models"]
)
def test_clients_of_other_servers_are_told_where_to_ask(signed: Signed, path: str) -> None:
    """Ollama's and llama.cpp's own ways, and base URLs that are half an address or twice one."""
    answer = signed("admin").post(path, json={"model": "all"})
    assert answer.status_code == 404
    assert "a base URL that ends in /v1" in answer.json()["error"]["message"]
