"""People sign in with a provider's account in a real browser, by keyboard, at a phone's width."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from contracts.config import MqttConfig
from fleet.openid.config import OpenIdConfig, Whom
from tests.browser.conftest import fits, keep, press
from tests.support.account_provider import account_provider
from tests.support.authorities import Pair
from tests.support.serving import Served, served

expect.set_options(timeout=60_000)
SIGN_IN = "Sign in with the company"


@pytest.fixture(scope="module")
def company(
    mosquitto_broker: MqttConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A controller that knows a provider, which runs in a process of its own."""
    folder = tmp_path_factory.mktemp("company")
    pair = Pair(folder, "provider")
    secret: Path = folder / "secret"
    secret.write_text("a client's secret\n")
    with account_provider(pair.server()) as issuer:
        openid = OpenIdConfig(
            issuer,
            "shoal",
            {"admin": Whom(groups=["fleet-admins"])},
            client_secret_file=str(secret),
            title=SIGN_IN,
            scopes=["openid", "email", "profile", "groups"],
            ca=str(pair.ca),
        )
        name = f"company-{uuid.uuid4().hex[:8]}"
        with served(folder / "fleet", mosquitto_broker, name=name, openid=openid) as running:
            yield running


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A phone whose owner has accepted the provider's certificate."""
    context = chromium.new_context(viewport={"width": 360, "height": 740}, ignore_https_errors=True)
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


def at_the_provider(page: Page, company: Served, path: str, account: str) -> None:
    """From a page that asks for a sign-in through the provider's own form."""
    page.goto(f"{company.url}{path}")
    fits(page)
    press(page, SIGN_IN)
    page.wait_for_url("https://127.0.0.1:*/**")
    field = page.locator("input[name=sub]")
    for _ in range(20):
        if field.evaluate("at => at === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.type(account)
    page.keyboard.press("Enter")


def test_an_account_signs_in_works_and_signs_out(page: Page, company: Served) -> None:
    """It is what its groups say, on the page that was asked for; the log names it."""
    at_the_provider(page, company, "/ui/access", "ann")
    expect(page.get_by_role("heading", name="Access", exact=True)).to_be_visible()
    assert page.url == f"{company.url}/ui/access"
    expect(page.get_by_title("Signed in as ann@example.org")).to_have_text("admin")
    expect(page.get_by_role("region", name="Accounts")).to_contain_text("fleet-admins")
    fits(page)
    keep(page, "phone-account")
    press(page, "Sign out")
    expect(page.get_by_role("link", name="Sign out at the provider too")).to_be_visible()
    fits(page)
    press(page, "Sign in again")
    expect(page.get_by_role("link", name=SIGN_IN)).to_be_visible()
    page.goto(f"{company.url}/ui/devices")
    expect(page.get_by_label("API token")).to_be_visible()
    with company.client() as client:
        found = [(one.actor, one.role) for one in client.audit() if one.action == "session.begin"]
    assert ("ann@example.org", "admin") in found


def test_an_account_without_a_role_is_told_so_and_sees_nothing(page: Page, company: Served) -> None:
    """It is known to the provider, and nobody here."""
    at_the_provider(page, company, "/ui/", "bob")
    expect(page.get_by_role("alert")).to_contain_text("role")
    expect(page.get_by_label("API token")).to_be_visible()
    fits(page)
    page.goto(f"{company.url}/ui/devices")
    expect(page.get_by_label("API token")).to_be_visible()
