"""The dashboard's work by keyboard, at a phone's width: what a fleet's owner does in a day."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from fleet.joining import invitations
from tests.browser.conftest import fits, keep, sign_in, tab_to, type_into
from tests.support.serving import Served

expect.set_options(timeout=60_000)


@pytest.fixture
def phone(chromium: Browser) -> Iterator[BrowserContext]:
    """A window as wide as a phone."""
    context = chromium.new_context(viewport={"width": 360, "height": 740})
    context.set_default_timeout(60_000)
    yield context
    context.close()


def _open(page: Page, site: Served, path: str) -> None:
    page.goto(f"{site.url}/ui{path}")
    # The page is drawn before its connection to the server stands.
    page.wait_for_function("() => window.did_handshake === true")


def test_a_device_is_enrolled_by_keyboard_on_a_phone(phone: BrowserContext, site: Served) -> None:
    """The line, its QR code, the list of open lines; shown once; taken back."""
    page = sign_in(phone, site, "admin")
    _open(page, site, "/devices")
    tab_to(page, "Enrol devices")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Enrol devices", exact=True)).to_be_visible()
    page.wait_for_function("() => window.did_handshake === true")
    type_into(page, "Name", "attic")
    type_into(page, "Labels, for example site=lyon, floor=2", "site=lyon, floor=2")
    type_into(page, "Groups, for example kitchen, night", "night")
    tab_to(page, "Make the line")
    page.keyboard.press("Enter")
    line = page.get_by_label("The line", exact=True)
    expect(line).to_contain_text("sudo python3 -c")
    expect(line).to_contain_text("https://fleet.example.org")
    expect(page.get_by_label("QR code of the line of attic").locator("svg")).to_be_visible()
    expect(page.get_by_text("shoal fleet agent fetch --platform raspberry-pi-5")).to_be_visible()
    tab_to(page, "Copy")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Copied.")).to_be_visible()
    fits(page)
    keep(page, "phone-enrol")
    listed = page.get_by_role("region", name="Open lines")
    expect(listed).to_contain_text("attic")
    expect(listed).to_contain_text("floor=2")
    (made,) = [one for one in invitations.every(site.fleet) if one.profile.device == "attic"]
    assert made.profile.labels == {"site": "lyon", "floor": "2"}
    assert made.profile.groups == ["night"]
    secret = (line.text_content() or "").split()[1]
    _open(page, site, "/enrol")
    expect(page.get_by_role("region", name="Open lines")).to_contain_text("attic")
    assert secret not in page.content(), "it is shown once"
    tab_to(page, "Take back the line of attic")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Take the line of attic back?")).to_be_visible()
    tab_to(page, "Yes, take it back")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Open lines")).not_to_contain_text("attic")
    with site.client() as client:
        entries = [(one.action, one.actor) for one in client.audit()]
    assert ("device.token", "a admin") in entries
    assert ("device.token-revoke", "a admin") in entries
    assert secret not in str(entries)


_SWAP = """() => {
  const region = document.querySelector("section[aria-label=Devices] .live");
  const copy = region.cloneNode(true), rows = copy.querySelectorAll("tbody tr");
  rows[0].parentNode.insertBefore(rows[1], rows[0]);
  shoalPatch(region.id, copy.innerHTML);
  return [...document.querySelectorAll(".pick:checked")].map((box) => box.value);
}"""


def test_many_devices_get_a_label_by_keyboard_on_a_phone(
    phone: BrowserContext, site: Served
) -> None:
    """Found by words, ticked, changed together; a tick stays with its device, not with its row."""
    page = sign_in(phone, site, "operator")
    _open(page, site, "/devices")
    type_into(page, "Search", "sim-0001")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 to 10 of 10 devices found")).to_be_visible()
    page.wait_for_function("() => window.did_handshake === true")
    for name in ("sim-00010", "sim-00012"):
        tab_to(page, f"Choose {name}")
        page.keyboard.press("Space")
    assert page.evaluate(_SWAP) == ["sim-00010", "sim-00012"]
    type_into(page, "Labels or groups, for example site=lyon", "shelf=upper")
    tab_to(page, "Change")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Give labels: shelf=upper?")).to_be_visible()
    keep(page, "phone-devices-change")
    tab_to(page, "Yes, change them")
    page.keyboard.press("Enter")
    expect(page.get_by_text("2 of 2 changed.")).to_be_visible()
    expect(page.locator(".live").get_by_text("shelf=upper")).to_have_count(2)
    fits(page)
    with site.client() as client:
        assert [one.id for one in client.devices("shelf=upper")] == ["sim-00010", "sim-00012"]
    page.goto(f"{site.url}/ui/devices?sort=-device")
    expect(page.get_by_role("checkbox").first).to_have_attribute("value", "sim-00023")
    expect(page.get_by_role("option", name="Revoke")).to_have_count(0)
