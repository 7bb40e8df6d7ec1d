"""People sign in with accounts of a provider that is not ours, and are what their groups say."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from contracts.config import MqttConfig
from contracts.errors import InputError, UnavailableError
from fleet.api.app import create_app
from fleet.config import check
from fleet.controller import Controller
from fleet.dashboard import mount
from fleet.dashboard.session import COOKIE, Sessions
from fleet.folder import Fleet, FleetConfig
from fleet.openid.config import OpenIdConfig, Whom
from fleet.openid.flow import MAX_PENDING, Pending
from fleet.openid.provider import Provider
from fleet.store import audit, tokens
from fleet.store.audit import Entry
from tests.support.account_provider import account_provider, sign_in
from tests.support.authorities import Pair

NODE = os.environ.get("OIDC_NODE_FOLDER")
"""A folder into which npm installed `oidc-provider`: the certified one is tried, too."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """An authority and a server's certificate."""
    return Pair(tmp_path_factory.mktemp("pair"), "provider")


@pytest.fixture(scope="module", params=["mock", *(["node"] if NODE else [])])
def issuer(request: pytest.FixtureRequest, pair: Pair) -> Iterator[str]:
    """A provider in a process of its own."""
    node = Path(NODE) if NODE and request.param == "node" else None
    with account_provider(pair.server(), node=node) as url:
        yield url


@pytest.fixture(scope="module")
def controller(
    issuer: str, pair: Pair, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Controller]:
    """A controller that is not connected, with the provider."""
    config = FleetConfig(
        "home",
        mqtt=MqttConfig(port=1),
        openid=OpenIdConfig(
            issuer,
            "shoal",
            {
                "admin": Whom(groups=["fleet-admins"]),
                "viewer": Whom(emails=["ann@example.org", "*@example.com"]),
            },
            client_secret_file="secret",
            scopes=["openid", "email", "profile", "groups"],
            ca="provider.pem",
        ),
    )
    fleet = Fleet.init(tmp_path_factory.mktemp("signed") / "fleet", config)
    (fleet.folder / "secret").write_text("a client's secret\n")
    shutil.copyfile(pair.ca, fleet.folder / "provider.pem")
    made = Controller(fleet)
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def application(controller: Controller) -> object:
    """The API with the dashboard."""
    app = create_app(controller)

    @app.get("/ui/who")
    def who() -> str:
        return "signed in"

    mount(app, controller)
    return app


@pytest.fixture
def browser(application: Callable[..., object]) -> Iterator[TestClient]:
    """A browser that came by TLS."""
    with_tls = "https://fleet.test"
    client = TestClient(application, base_url=with_tls, follow_redirects=False)  # type: ignore[arg-type]
    yield client
    client.close()


def entries(controller: Controller) -> list[Entry]:
    """The audit log, newest first."""
    controller.attempts.write()
    with controller.store.read() as connection:
        return audit.page(connection, None, 100)[0]


def way_back(browser: TestClient, pair: Pair, name: str, following: str = "") -> str:
    """To the provider, through its pages, and where it sends the browser."""
    begun = browser.get("/ui/login/account", params={"next": following})
    assert begun.status_code == 303, begun.text
    asked = parse_qs(urlsplit(begun.headers["location"]).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["response_type"] == ["code"]
    assert {"state", "nonce", "code_challenge"} <= set(asked)
    return sign_in(begun.headers["location"], name, pair.ca_text)


def come_back(browser: TestClient, url: str) -> int:
    """The browser follows the way back; the status."""
    parts = urlsplit(url)
    assert parts.path == "/ui/login/back"
    return browser.get(f"{parts.path}?{parts.query}").status_code


def test_who_has_a_role_signs_in_and_out(
    browser: TestClient, pair: Pair, controller: Controller, issuer: str
) -> None:
    """By a cookie that scripts, other sites and plain HTTP never see; and it is in the log."""
    url = way_back(browser, pair, "ann", "/ui/devices")
    parts = urlsplit(url)
    answer = browser.get(f"{parts.path}?{parts.query}")
    assert answer.status_code == 200, answer.text
    assert 'content="0; url=/ui/devices"' in answer.text
    (cookie,) = [c for c in answer.headers.get_list("set-cookie") if c.startswith(COOKIE)]
    for word in ("HttpOnly", "Secure", "SameSite=strict", "Path=/ui"):
        assert word.lower() in cookie.lower()
    newest = entries(controller)[0]
    assert (newest.actor, newest.role) == ("ann@example.org", "admin")
    assert (newest.action, newest.outcome) == ("session.begin", "done")
    assert browser.get("/ui/who").status_code == 200
    left = browser.post("/ui/logout", headers={"Origin": "https://fleet.test"})
    # The account stays signed in at its provider: where that has a page to sign out, it is offered.
    offers = (
        httpx.get(
            f"{issuer}/.well-known/openid-configuration",
            verify=ssl.create_default_context(cadata=pair.ca_text),
        )
        .json()
        .get("end_session_endpoint", "")
    )
    assert left.status_code == (200 if offers else 303)
    assert (f'href="{offers}?client_id=' in left.text) == bool(offers)
    assert browser.get("/ui/who").is_redirect
    assert entries(controller)[0].action == "session.end"


def test_an_answer_counts_once_and_in_the_browser_that_began(
    browser: TestClient, application: Callable[..., object], pair: Pair
) -> None:
    """One that is sent again, or by somebody else's link, signs nobody in."""
    url = way_back(browser, pair, "ann")
    parts = urlsplit(url)
    other = TestClient(application, base_url="https://fleet.test", follow_redirects=False)  # type: ignore[arg-type]
    assert other.get(f"{parts.path}?{parts.query}").status_code == 400
    other.get("/ui/login/account")
    assert other.get(f"{parts.path}?{parts.query}").status_code == 400
    assert COOKIE not in other.cookies
    other.close()
    assert come_back(browser, url) == 200
    browser.cookies.delete(COOKIE)
    assert come_back(browser, url) == 400
    assert COOKIE not in browser.cookies


@pytest.mark.parametrize("name", ["bob", "eve"])
def test_who_has_no_role_is_told_so(
    browser: TestClient, pair: Pair, controller: Controller, name: str
) -> None:
    """Another group; an address that nobody verified, though it is an admin's."""
    assert come_back(browser, way_back(browser, pair, name)) == 403
    assert COOKIE not in browser.cookies
    newest = entries(controller)[0]
    assert (newest.action, newest.outcome, newest.role) == ("session.begin", "no-role", "nobody")


def test_tokens_sign_in_as_ever(
    browser: TestClient, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the provider cannot be reached, which the page says."""
    page = browser.get("/ui/login?next=/ui/devices").text
    assert 'href="/ui/login/account?next=/ui/devices"' in page
    assert 'name="token"' in page
    with controller.store.write() as connection:
        secret = tokens.create(connection, "ci", "viewer", controller.clock())
    monkeypatch.setattr(Provider, "address", _unreachable)
    answer = browser.get("/ui/login/account")
    assert answer.status_code == 503
    assert "away. Sign in with a token." in answer.text
    form = browser.post("/ui/login", data={"token": secret})
    assert form.status_code == 303
    assert browser.get("/ui/who").status_code == 200


def _unreachable(*_: object) -> str:
    raise UnavailableError("provider-unreachable", "The provider is away.")


@pytest.mark.parametrize(
    "query",
    ["", "?code=x", "?state=x&code=x", "?error=access_denied&state=x", "?code=" + 9000 * "x"],
)  # fmt: skip
def test_an_answer_of_no_sign_in_is_refused(browser: TestClient, query: str) -> None:
    """Whatever it says."""
    assert browser.get(f"/ui/login/back{query}").status_code == 400


def test_a_refusal_of_the_provider_is_told(browser: TestClient) -> None:
    """And nothing of it is taken for markup."""
    begun = browser.get("/ui/login/account")
    state = parse_qs(urlsplit(begun.headers["location"]).query)["state"][0]
    answer = browser.get("/ui/login/back", params={"state": state, "error": "<b>denied"})
    assert answer.status_code == 400
    assert "The provider says: &lt;b&gt;denied" in answer.text


def test_sign_ins_under_way_are_bounded_and_end() -> None:
    """Whoever begins ever more of them, and never comes back."""
    now = 0.0
    pending = Pending(lambda: now)
    first = pending.begin("/ui/")
    second = pending.begin("/ui/")
    for _ in range(MAX_PENDING - 1):
        pending.begin("")
    assert pending.take(first.state, first.browser) is None
    assert pending.take(second.state, "other") is None
    assert pending.take(second.state, second.browser) == second
    assert pending.take(second.state, second.browser) is None  # once
    third = pending.begin("")
    now = 601.0
    assert pending.take(third.state, third.browser) is None


def test_a_session_of_an_account_ends_after_its_hours() -> None:
    """Though no token of the fleet is behind it."""
    now = 0.0

    async def nobody(_secret: str) -> None:
        raise AssertionError

    sessions = Sessions(nobody, lambda: now)
    ann = tokens.Token("openid-1", "ann", "admin", 0.0, None, None)
    cookie = sessions.begin_as(ann, 60.0)
    assert asyncio.run(sessions.token(cookie)) == ann
    now = 61.0
    assert asyncio.run(sessions.token(cookie)) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": "http://login.example.org"},
        {"issuer": "login.example.org"},
        {"roles": {}},
        {"roles": {"admin": Whom()}},
        {"scopes": ["email"]},
        {"client_secret_file": "a", "client_secret_env": "b"},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, object]) -> None:
    """A provider without TLS, or one that lets nobody in."""
    given = {"issuer": "https://p.example", "client_id": "x", "roles": {"admin": Whom(["a@b"])}}
    with pytest.raises(InputError):
        check(FleetConfig("home", openid=OpenIdConfig(**(given | wrong))))  # type: ignore[arg-type]
