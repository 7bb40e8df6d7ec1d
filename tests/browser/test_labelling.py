"""Labelling by keyboard alone, at a phone's width: a key a label."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from contracts.bundle import Bundle
from contracts.messages import FieldSample
from fleet.store import samples
from tests.browser.conftest import DATA, HOSTILE, fits, keep, sign_in, tab_to
from tests.support.serving import Served

expect.set_options(timeout=60_000)
REF = Bundle.open(DATA / "tiny-classifier-1.0.0").ref


@pytest.fixture
def phone(chromium: Browser) -> Iterator[BrowserContext]:
    """A window as wide as a phone."""
    context = chromium.new_context(viewport={"width": 360, "height": 740})
    context.set_default_timeout(60_000)
    yield context
    context.close()


def give(site: Served, texts: dict[str, float]) -> None:
    """A device gave hard examples."""
    store = site.fleet.open_store()
    ask = samples.Ask("ask-1", REF.name, "all", 200, "", "ann", 1.0)
    with store.write() as connection:
        for number, (text, sure) in enumerate(texts.items()):
            one = FieldSample(f"{number:032x}", 1.0, text, "timer", sure, REF, ["low-confidence"])
            samples.add(store, connection, ask, "d1", [one], 1.0)
    store.close()


def said(site: Served) -> dict[str, list[str | None]]:
    """What people say of each text, as it is stored."""
    with site.client() as client:
        found = client.samples(REF.name).items
    return {one.text: [person.label for person in one.said] for one in found}


def test_texts_are_labelled_by_keyboard_alone(phone: BrowserContext, site: Served) -> None:
    """A digit, letters, pass over, take back, a new label; a text of a device is no markup."""
    give(
        site,
        {
            HOSTILE: 0.01,
            "illuminate the hall": 0.1,
            "ring in two hours": 0.2,
            "is a coat needed": 0.3,
            "raise the shutters": 0.4,
        },
    )
    page: Page = sign_in(phone, site, "operator")
    page.goto(f"{site.url}/ui/models")
    page.wait_for_function("() => window.did_handshake === true")
    tab_to(page, "Label texts")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Label texts", exact=True)).to_be_visible()
    page.wait_for_function("() => window.did_handshake === true")
    tab_to(page, f"{REF.name} (5)")
    page.keyboard.press("Enter")
    text = page.get_by_role("region", name="Text").get_by_role("status")
    expect(text).to_have_text(HOSTILE)
    page.wait_for_function("() => window.did_handshake === true")
    fits(page)
    keep(page, "phone-label")
    page.keyboard.press("0")
    expect(text).to_have_text("illuminate the hall")
    page.keyboard.type("lights-on")
    expect(text).to_have_text("ring in two hours")
    page.keyboard.press("1")
    expect(text).to_have_text("is a coat needed")
    page.keyboard.press("Backspace")
    expect(text).to_have_text("ring in two hours")
    page.keyboard.press("1")
    expect(text).to_have_text("is a coat needed")
    page.keyboard.press("w")
    expect(text).to_have_text("raise the shutters")
    page.keyboard.press("+")
    expect(page.get_by_label("New label", exact=True).last).to_be_focused()
    page.keyboard.type("blinds")
    page.keyboard.press("Enter")
    expect(text).to_have_text("Nothing is left to label.")
    assert said(site) == {
        HOSTILE: [None],
        "illuminate the hall": ["lights-on"],
        "ring in two hours": ["timer"],
        "is a coat needed": ["weather"],
        "raise the shutters": ["blinds"],
    }
    with site.client() as client:
        noted = [one for one in client.audit() if one.action.startswith("samples.")]
    assert len(noted) == 7 and {one.actor for one in noted} == {"a operator"}
    assert page.title() != "1"
    phone.clear_cookies()
    viewer = sign_in(phone, site, "viewer")
    viewer.goto(f"{site.url}/ui/label/{REF.name}")
    expect(viewer.get_by_text("need the role operator")).to_be_visible()
    assert "illuminate" not in viewer.content()
