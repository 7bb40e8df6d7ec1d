"""Devices leave by the dashboard: an admin is asked once more, and told what was done."""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.browser.conftest import keep, sign_in
from tests.support.serving import Served

expect.set_options(timeout=60_000)


@pytest.mark.parametrize(
    ("button", "said"), [("Revoke", "is revoked."), ("Retire", "Its history is kept as")]
)
def test_an_admin_lets_a_device_go(
    window: BrowserContext, site: Served, button: str, said: str
) -> None:
    """It says what will happen; "No" changes nothing."""
    name = f"old-{button.lower()}"
    site.fleet.enroll(name, "raspberry-pi-5")
    page = sign_in(window, site, "admin")
    page.goto(f"{site.url}/ui/devices/{name}")
    page.wait_for_function("() => window.did_handshake === true")
    page.get_by_role("button", name=button, exact=True).click()
    expect(page.get_by_text(f"{button} {name}?")).to_be_visible()
    keep(page, f"device-{button.lower()}")
    page.get_by_role("button", name="No", exact=True).click()
    with site.client() as client:
        assert client.device(name).state == "unknown"
        page.get_by_role("button", name=button, exact=True).click()
        page.get_by_role("button", name=f"Yes, {button.lower()}").click()
        expect(page.get_by_text(said)).to_be_visible()
        left = {one.id: one.state for one in client.devices()}.get(name)
    assert left == ("revoked" if button == "Revoke" else None)
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("heading", name="Devices", exact=True)).to_be_visible()


def test_an_admin_renames_a_device(window: BrowserContext, site: Served) -> None:
    """The token for its new name is shown once; a name that is taken is told so."""
    site.fleet.enroll("old-name", "raspberry-pi-5")
    page = sign_in(window, site, "admin")
    page.goto(f"{site.url}/ui/devices/old-name")
    page.wait_for_function("() => window.did_handshake === true")
    page.get_by_role("button", name="Rename", exact=True).click()
    page.get_by_label("New name").fill("sim-00001")
    page.get_by_role("button", name="Yes, rename").click()
    expect(page.get_by_text("choose another name")).to_be_visible()
    page.get_by_role("button", name="Rename", exact=True).click()
    page.get_by_label("New name").fill("new-name")
    page.get_by_role("button", name="Yes, rename").click()
    expect(page.get_by_text("old-name is renamed to new-name")).to_be_visible()
    expect(page.get_by_text("shoal-agent enroll --url")).to_be_visible()
    with site.client() as client:
        assert client.device("new-name").board == "raspberry-pi-5"


def test_an_operator_has_no_such_buttons(window: BrowserContext, site: Served) -> None:
    """They ask devices, and let none go."""
    page = sign_in(window, site, "operator")
    page.goto(f"{site.url}/ui/devices/sim-00002")
    expect(page.get_by_role("button", name="Classify")).to_be_visible()
    for button in ("Revoke", "Retire", "Rename"):
        expect(page.get_by_role("button", name=button)).to_have_count(0)
