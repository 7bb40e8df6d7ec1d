"""What an admin does in the browser, by keyboard, at a phone's width: alerts, access, timelines."""

from __future__ import annotations

import time

import httpx
from playwright.sync_api import BrowserContext, expect

from fleet.store import timeline
from tests.browser.conftest import choose, fits, keep, open_page, press, sign_in, tab_to, type_into
from tests.support.mail_server import MailServer
from tests.support.receiver import receiver
from tests.support.serving import Served

expect.set_options(timeout=60_000)


def test_a_rule_and_a_webhook_are_added_tested_and_removed_by_keyboard_on_a_phone(
    phone: BrowserContext, site: Served, mails: MailServer
) -> None:
    """The test reaches the webhook and the mail server; a wrong threshold is told."""
    page = sign_in(phone, site, "admin")
    open_page(page, site, "/alerts")
    rules = page.get_by_role("region", name="Rules")
    type_into(page, "Title, if not the kind's", "Attic away")
    type_into(page, "Devices of the rule (selector)", "site=lyon")
    type_into(page, "Threshold", "1")
    press(page, "Add the rule")
    expect(page.get_by_text("the threshold of offline is 30")).to_be_visible()
    open_page(page, site, "/alerts")
    type_into(page, "Title, if not the kind's", "Attic away")
    type_into(page, "Devices of the rule (selector)", "site=lyon")
    type_into(page, "Threshold", "7200")
    press(page, "Add the rule")
    expect(page.get_by_text("Attic away is looked for from now on.")).to_be_visible()
    expect(rules.get_by_role("row").filter(has_text="Attic away")).to_contain_text("7,200")
    with receiver() as (url, came):
        type_into(page, "URL of a webhook", url)
        press(page, "Add the webhook")
        told = page.get_by_role("region", name="Who is told")
        expect(told.get_by_text("is shown this once:")).to_be_visible()
        expect(told.get_by_role("row").filter(has_text=url).first).to_be_visible()
        type_into(page, "Addresses of the test", "night@example.org")
        press(page, "Send a test")
        expect(page.get_by_text("On its way to 1 webhooks and 1 addresses.")).to_be_visible()
        assert came.get(timeout=60) == "alert-test"
        assert mails.messages.get(timeout=60)["to"] == ["night@example.org"]
        expect(told.get_by_text("delivered").first).to_be_visible()
        fits(page)
        keep(page, "phone-alerts")
        press(page, f"Remove the webhook {url}")
        press(page, "Yes, remove it")
        expect(told.get_by_text("No webhook is told.")).to_be_visible()
    open_page(page, site, "/alerts")
    for button, said in (("Silence", "Nobody is told of it"), ("Tell again", "It is told again")):
        choose(page, "Rule", "Attic away")
        press(page, button)
        expect(page.get_by_text(said)).to_be_visible()
    press(page, "Remove")
    expect(page.get_by_text("Remove the rule?")).to_be_visible()
    press(page, "Yes, remove it")
    expect(rules.get_by_text("Attic away")).to_have_count(0)
    with site.client() as client:
        noted = {one.action for one in client.audit() if one.actor == "a admin"}
    assert noted >= {
        "alert.add", "alert.silence", "alert.test", "alert.remove", "webhook.create",
        "webhook.delete",
    }  # fmt: skip


def test_a_token_is_made_used_and_revoked_by_keyboard_on_a_phone(
    phone: BrowserContext, site: Served
) -> None:
    """It has the role that was chosen, is shown once, and ends at once; one's own stays."""
    page = sign_in(phone, site, "admin")
    press(page, "Access")
    expect(page.get_by_role("heading", name="Access", exact=True)).to_be_visible()
    page.wait_for_function("() => window.did_handshake === true")
    type_into(page, "Name of who gets it", "night watch")
    choose(page, "Role", "operator: asks devices, rolls out, labels")
    type_into(page, "Days that it lasts; 0: until it is revoked", "7")
    press(page, "Make the token")
    shown = page.get_by_label("The token", exact=True)
    expect(shown).to_contain_text("shoal_")
    secret = (shown.text_content() or "").strip()
    press(page, "Copy")
    expect(page.get_by_text("Copied.")).to_be_visible()
    fits(page)
    keep(page, "phone-access")
    bearer = {"Authorization": f"Bearer {secret}"}
    me = httpx.get(f"{site.url}/v1/me", headers=bearer).json()
    assert (me["name"], me["role"]) == ("night watch", "operator")
    row = page.get_by_role("region", name="Tokens").get_by_role("row")
    expect(row.filter(has_text="night watch")).to_contain_text("operator")
    expect(row.filter(has_text="yours")).to_have_count(1)
    expect(page.get_by_role("region", name="Accounts")).to_contain_text("set openid in fleet.yaml")
    open_page(page, site, "/access")
    assert secret not in page.content(), "it is shown once"
    press(page, "Revoke the token night watch")
    press(page, "Yes, revoke")
    expect(row.filter(has_text="night watch")).to_contain_text("revoked")
    deadline = time.monotonic() + 60
    while httpx.get(f"{site.url}/v1/me", headers=bearer).status_code != 401:
        assert time.monotonic() < deadline, "a revoked token is believed still"
    phone.clear_cookies()
    page = sign_in(phone, site, "operator")
    expect(page.get_by_role("link", name="Access")).to_have_count(0)
    open_page(page, site, "/access")
    expect(page.get_by_text("need the role admin")).to_be_visible()


def test_a_timeline_is_narrowed_and_paged_by_keyboard_on_a_phone(
    phone: BrowserContext, site: Served
) -> None:
    """Connections alone, and the page after; all of it again."""
    store = site.fleet.open_store()
    with store.write() as connection:
        for number in range(60):
            state = "online" if number % 2 else "offline"
            timeline.note_presence(connection, [("sim-00007", state)], 1000.0 + number)
    store.close()
    page = sign_in(phone, site, "viewer")
    open_page(page, site, "/devices/sim-00007")
    press(page, "connections")
    region = page.get_by_role("region", name="Timeline")
    expect(region.get_by_role("link", name="connections")).to_have_attribute("aria-current", "true")
    expect(region.get_by_role("listitem")).to_have_count(50)
    press(page, "Next page")
    expect(region.get_by_role("link", name="First page")).to_be_visible()
    assert region.get_by_role("listitem").count() < 50
    expect(region.get_by_text("1970-01-01 00:16:40")).to_be_visible()
    expect(region.get_by_role("link", name="connections")).to_have_attribute("aria-current", "true")
    fits(page)
    keep(page, "phone-timeline")
    press(page, "updates")
    expect(region.get_by_text("Nothing happened yet")).to_be_visible()


def test_groups_are_given_in_bulk_by_keyboard_on_a_phone(
    phone: BrowserContext, site: Served
) -> None:
    """All that a search finds, without a tick; and taken away again."""
    page = sign_in(phone, site, "operator")
    for action, count in (("Add to groups", 10), ("Take out of groups", 0)):
        open_page(page, site, "/devices?text=sim-0001")
        expect(page.get_by_text("1 to 10 of 10 devices found")).to_be_visible()
        choose(page, "Which devices", "all that the list finds")
        choose(page, "What to do", action)
        press(page, "Change")
        expect(page.get_by_text("name a label or a group to give")).to_be_visible()
        type_into(page, "Labels or groups, for example site=lyon", "night")
        press(page, "Change")
        expect(page.get_by_text("For 10 devices.")).to_be_visible()
        press(page, "Yes, change them")
        expect(page.get_by_text("10 of 10 changed.")).to_be_visible()
        with site.client() as client:
            assert len(list(client.devices("group=night"))) == count


def test_a_list_is_sorted_narrowed_and_paged_by_keyboard_on_a_phone(
    phone: BrowserContext, site: Served
) -> None:
    """With totals; the order and the words go along from page to page."""
    for number in range(55):
        site.fleet.enroll(f"shelf-{number:02}", "raspberry-pi-5")
    page = sign_in(phone, site, "viewer")
    open_page(page, site, "/devices")
    type_into(page, "Search", "shelf")
    tab_to(page, "Order")
    for key in ("Home", "ArrowDown"):
        page.keyboard.press(key)
    expect(page.get_by_label("Order")).to_have_value("-device")
    press(page, "Filter")
    expect(page.get_by_text("1 to 50 of 55 devices found")).to_be_visible()
    links = page.get_by_role("link", name="shelf-")
    expect(links.first).to_have_text("shelf-54")
    fits(page)
    press(page, "Next page")
    expect(page.get_by_text("51 to 55 of 55 devices found")).to_be_visible()
    expect(links).to_have_text([f"shelf-{number:02}" for number in range(4, -1, -1)])
    expect(page.get_by_label("Search")).to_have_value("shelf")
    fits(page)
    keep(page, "phone-device-list")
    press(page, "First page")
    expect(links.first).to_have_text("shelf-54")
