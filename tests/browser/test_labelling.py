"""Labelling by keyboard alone, at a phone's width: a key a label."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from contracts import codec
from contracts.answers import FieldSample
from contracts.bundle import Bundle
from fleet.improve.verdict import Answered, compare, judge
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


def give(site: Served, texts: dict[str, float], first: int = 0) -> None:
    """A device gave hard examples."""
    store = site.fleet.open_store()
    ask = samples.Ask("ask-1", REF.name, "all", 200, "", "ann", 1.0)
    with store.write() as connection:
        for number, (text, sure) in enumerate(texts.items(), first):
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
    expect(text).not_to_be_empty()
    order = [text.inner_text()]  # which one comes next is the queue's to say

    def another() -> str:
        """The text that comes after the last one."""
        expect(text).not_to_have_text(order[-1])
        return text.inner_text()

    page.wait_for_function("() => window.did_handshake === true")
    fits(page)
    keep(page, "phone-label")
    page.keyboard.press("0")
    order.append(another())
    page.keyboard.type("lights-on")
    order.append(another())
    page.keyboard.press("1")
    order.append(another())
    page.keyboard.press("Backspace")
    expect(text).to_have_text(order[2])
    page.keyboard.press("1")
    expect(text).to_have_text(order[3])
    page.keyboard.press("w")
    order.append(another())
    page.keyboard.press("+")
    expect(page.get_by_label("New label", exact=True).last).to_be_focused()
    page.keyboard.type("blinds")
    page.keyboard.press("Enter")
    expect(text).to_have_text("Nothing is left to label.")
    assert HOSTILE in order
    assert said(site) == dict(
        zip(order, [[None], ["lights-on"], ["timer"], ["weather"], ["blinds"]], strict=True)
    )
    with site.client() as client:
        noted = [one for one in client.audit() if one.action.startswith("samples.")]
    assert len(noted) == 7 and {one.actor for one in noted} == {"a operator"}
    assert page.title() != "1"
    phone.clear_cookies()
    viewer = sign_in(phone, site, "viewer")
    viewer.goto(f"{site.url}/ui/label/{REF.name}")
    expect(viewer.get_by_text("need the role operator")).to_be_visible()
    assert "illuminate" not in viewer.content()


def test_suggestions_and_what_people_say_differently_stand_beside_the_text(
    phone: BrowserContext, site: Served
) -> None:
    """Of the newest version and a teacher, the surer first among the keys; two people disagree."""
    give(site, {"ring the gong in an hour": 0.1, "light up the porch": 0.3}, 100)
    store = site.fleet.open_store()
    with store.write() as connection:
        first, other = (
            samples.key_of(t) for t in ("ring the gong in an hour", "light up the porch")
        )
        samples.hint(connection, REF.name, "version 1.0.0", {first: ("weather", 0.6)})
        samples.hint(connection, REF.name, "teacher <b>x</b>", {first: ("lights-off", 0.9)})
        for person, label in (("bo", "timer"), ("cy", "lights-on")):
            samples.say(store, connection, REF.name, other, person, label, 1.0)
    store.close()
    page = sign_in(phone, site, "operator")
    page.goto(f"{site.url}/ui/label/{REF.name}")
    page.wait_for_function("() => window.did_handshake === true")
    region = page.get_by_role("region", name="Text")
    text = region.get_by_role("status")
    # A dispute comes first.
    expect(text).to_have_text("light up the porch")
    expect(region.get_by_role("alert")).to_have_text("People disagree: your word decides.")
    expect(region).to_contain_text("bo says timer; cy says lights-on")
    page.keyboard.press("2")
    expect(text).to_have_text("ring the gong in an hour")
    expect(region.get_by_role("alert")).to_have_text("")
    expect(region).to_contain_text(
        "teacher <b>x</b>: lights-off (90%), version 1.0.0: weather (60%)"
    )
    fits(page)
    page.keyboard.press("1")
    expect(text).to_have_text("Nothing is left to label.")
    found = said(site)
    assert found["light up the porch"] == ["timer", "lights-on", "lights-on"]
    assert found["ring the gong in an hour"] == ["lights-off"]


def test_the_next_version_is_made_by_a_button_and_its_report_is_shown(
    phone: BrowserContext, site: Served
) -> None:
    """How far it is, why it stopped, how it compares; only an admin may, and it asks first."""
    page = sign_in(phone, site, "admin")
    page.goto(f"{site.url}/ui/improve/{REF.name}")
    page.wait_for_function("() => window.did_handshake === true")
    expect(page.get_by_text("There was none yet")).to_be_visible()
    tab_to(page, "Make the next version")
    page.keyboard.press("Enter")
    tab_to(page, "Make it")
    page.keyboard.press("Enter")
    expect(page.get_by_text("is not known here yet")).to_be_visible()
    # One that a program makes meanwhile.
    home = site.fleet.folder / "improve" / REF.name
    made = home / "1.1.0"
    made.mkdir(parents=True)
    state = {"name": REF.name, "version": "1.1.0", "against": "1.0.0"}
    (home / "improve.log").write_text("building <i>1.1.0</i> from 12 more texts\n{}\n")
    (made / "state.json").write_text(json.dumps({**state, "step": "begun"}))
    expect(page.get_by_role("list", name="Steps").locator("[aria-current]")).to_contain_text(
        "it is built"
    )
    expect(page.get_by_text("building <i>1.1.0</i> from 12 more texts")).to_be_visible()
    compared = compare("field", [Answered("timer", "timer", "weather")] * 3)
    (made / "verdict.json").write_bytes(codec.encode(judge([compared], 0.02)))
    stopped = {"step": "stopped", "stops": ["worse on kept-out texts"]}
    (made / "state.json").write_text(json.dumps({**state, **stopped}))
    expect(page.get_by_role("alert").first).to_have_text("worse on kept-out texts")
    row = page.get_by_role("row").filter(has_text="kept out of the field")
    expect(row.get_by_role("cell").nth(3)).to_have_text("0")
    fits(page)
    keep(page, "phone-improve")
    phone.clear_cookies()
    other = sign_in(phone, site, "operator")
    other.goto(f"{site.url}/ui/improve/{REF.name}")
    expect(other.get_by_text("worse on kept-out texts").first).to_be_visible()
    expect(other.get_by_text("Make the next version", exact=True)).to_have_count(0)
