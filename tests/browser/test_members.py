"""Devices leave by the dashboard, by keyboard, at a phone's width.

An admin is asked once more, and told what was done.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext, expect

from contracts.errors import RefusedError
from tests.browser.conftest import fits, keep, open_page, press, sign_in, type_into
from tests.support.serving import Served

expect.set_options(timeout=60_000)


@pytest.mark.parametrize(
    ("button", "said"), [("Revoke", "is revoked."), ("Retire", "Its history is kept as")]
)
def test_an_admin_lets_a_device_go_by_keyboard_on_a_phone(
    phone: BrowserContext, site: Served, button: str, said: str
) -> None:
    """It says what will happen; "No" changes nothing."""
    name = f"old-{button.lower()}"
    site.fleet.enroll(name, "raspberry-pi-5")
    page = sign_in(phone, site, "admin")
    open_page(page, site, f"/devices/{name}")
    press(page, button)
    expect(page.get_by_text(f"{button} {name}?")).to_be_visible()
    fits(page)
    keep(page, f"phone-{button.lower()}")
    press(page, "No")
    expect(page.get_by_text(f"{button} {name}?")).to_have_count(0)
    with site.client() as client:
        assert client.device(name).state == "unknown"
        press(page, button)
        press(page, f"Yes, {button.lower()}")
        expect(page.get_by_text(said)).to_be_visible()
        left = {one.id: one.state for one in client.devices()}.get(name)
    assert left == ("revoked" if button == "Revoke" else None)
    fits(page)
    press(page, "Close")
    expect(page.get_by_role("heading", name="Devices", exact=True)).to_be_visible()


def test_an_admin_renames_a_device_by_keyboard_on_a_phone(
    phone: BrowserContext, site: Served
) -> None:
    """The token for its new name is shown once; a name that is taken is told so."""
    site.fleet.enroll("old-name", "raspberry-pi-5")
    page = sign_in(phone, site, "admin")
    open_page(page, site, "/devices/old-name")
    press(page, "Rename")
    type_into(page, "New name", "sim-00001")
    press(page, "Yes, rename")
    expect(page.get_by_text("choose another name")).to_be_visible()
    press(page, "Rename")
    type_into(page, "New name", "new-name")
    press(page, "Yes, rename")
    expect(page.get_by_text("old-name is renamed to new-name")).to_be_visible()
    expect(page.get_by_text("shoal-agent enroll --url")).to_be_visible()
    fits(page)
    keep(page, "phone-rename")
    with site.client() as client:
        assert client.device("new-name").board == "raspberry-pi-5"


def test_a_board_is_replaced_by_keyboard_on_a_phone(phone: BrowserContext, site: Served) -> None:
    """The line takes the device's place, with its labels; a second line takes the first one's."""
    site.fleet.enroll("lost-card", "raspberry-pi-5", labels={"site": "graz"}, groups=["night"])
    page = sign_in(phone, site, "admin")
    open_page(page, site, "/devices/lost-card")
    press(page, "Replace its board")
    expect(page.get_by_role("heading", name="Enrol devices", exact=True)).to_be_visible()
    page.wait_for_function("() => window.did_handshake === true")
    expect(page.get_by_label("Name", exact=True)).to_have_value("lost-card")
    line = page.get_by_label("The line", exact=True)
    press(page, "Make the line")
    expect(line).to_contain_text("sudo python3 -c")
    first = (line.text_content() or "").split()[1]
    fits(page)
    keep(page, "phone-replace")
    press(page, "Make the line")
    expect(line).not_to_contain_text(first)
    expect(line).to_contain_text("sudo python3 -c")
    second = (line.text_content() or "").split()[1]
    identity = site.fleet.open_identity()
    with pytest.raises(RefusedError):
        identity.invited(first)
    made = identity.invited(second)
    assert made.replaces
    assert (made.profile.device, made.profile.labels) == ("lost-card", {"site": "graz"})
    assert made.profile.groups == ["night"]


def test_an_operator_has_no_such_buttons(phone: BrowserContext, site: Served) -> None:
    """They ask devices, and let none go."""
    page = sign_in(phone, site, "operator")
    open_page(page, site, "/devices/sim-00002")
    expect(page.get_by_role("button", name="Classify")).to_be_visible()
    for button in ("Revoke", "Retire", "Rename"):
        expect(page.get_by_role("button", name=button)).to_have_count(0)
    expect(page.get_by_role("link", name="Replace its board")).to_have_count(0)
