"""The dashboard in Chromium: what people do, from signing in to aborting a rollout."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Browser, BrowserContext, Request, Response, expect

from fleet.rollout.spec import RolloutSpec
from fleet.store import tokens
from tests.browser.conftest import (
    DEVICES,
    HOSTILE,
    fits,
    keep,
    open_page,
    press,
    sign_in,
    tab_to,
    type_into,
)
from tests.support.serving import Served
from tests.support.tools import until

expect.set_options(timeout=60_000)


def _spec(version: str, **more: object) -> RolloutSpec:
    document = {"bundle": "tiny-classifier", "version": version, "waves": [{"percent": 100}],
                "bake_s": 0, "trial": {"seconds": 0}, **more}  # fmt: skip
    return RolloutSpec.model_validate(document)


def _have_installed(site: Served, version: str) -> None:
    """Rolls a version out to all devices, where it is not there."""
    with site.client() as client:
        slots = [d.slots.get("classify") for d in client.devices()]
        if all(s and s.active and s.active.version == version for s in slots):
            return
        rollout = client.create_rollout(_spec(version), again=True).id
        until(lambda: client.rollout(rollout).status == "succeeded")


def test_nobody_sees_anything_before_signing_in(window: BrowserContext, site: Served) -> None:
    """Every page leads to the sign-in; a wrong token is told so and shows nothing."""
    page = window.new_page()
    for path in ("/", "/ui/", "/ui/devices", "/ui/devices/sim-00000", "/ui/audit"):
        page.goto(site.url + path)
        expect(page.get_by_label("API token")).to_be_visible()
        assert "sim-0" not in page.content().replace("/ui/devices/sim-00000", "")
    page.get_by_label("API token").fill("shoal_000000000000_" + "x" * 43)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("not valid")


def test_signing_in_leads_to_the_page_that_was_asked_for(
    window: BrowserContext, site: Served
) -> None:
    """And never to another site."""
    page = window.new_page()
    page.goto(f"{site.url}/ui/devices?q=state%3Donline")
    page.get_by_label("API token").fill(site.token("viewer"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Devices", exact=True)).to_be_visible()
    assert page.url.endswith("/ui/devices?q=state%3Donline")
    window.clear_cookies()
    other = window.new_page()
    other.goto(f"{site.url}/ui/login?next=//example.org/")
    other.get_by_label("API token").fill(site.token("viewer"))
    other.keyboard.press("Enter")
    expect(other.get_by_role("heading", name="Overview", exact=True)).to_be_visible()
    assert other.url.startswith(f"{site.url}/ui/")


def test_the_overview_counts_the_fleet(window: BrowserContext, site: Served) -> None:
    """Live figures of all devices."""
    _have_installed(site, "1.0.0")
    page = sign_in(window, site, "viewer")
    expect(page.get_by_role("link", name=re.compile("Devices online"))).to_contain_text(
        f"{DEVICES}/ {DEVICES}"
    )
    running = page.get_by_role("region", name="Running now")
    expect(running).to_contain_text(re.compile(rf"tiny-classifier 1\.0\.0\s*{DEVICES}"))
    expect(page.locator("canvas")).to_have_count(1)
    keep(page, "overview")


def test_a_rollout_is_started_by_keyboard_and_watched_until_it_succeeds(
    window: BrowserContext, site: Served
) -> None:
    """No mouse: tab, type, enter. Progress appears without a reload."""
    _have_installed(site, "1.0.0")
    page = sign_in(window, site, "operator")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    tab_to(page, "Rollouts")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Rollouts", exact=True).first).to_be_visible()
    tab_to(page, "Start a rollout")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Start a rollout")).to_be_visible()
    page.wait_for_function("() => window.did_handshake === true")
    expect(page.get_by_text(f"{DEVICES} of {DEVICES} devices would move")).to_be_visible()
    type_into(page, "Waves, each counted from the start", "1,50%,100%")
    type_into(page, "Trial on each device (seconds)", "1")
    type_into(page, "Watch each wave for (seconds)", "1")
    expect(page.get_by_text("Wave 3: 12 devices")).to_be_visible()
    expect(page.get_by_text("tries it for 1 second")).to_be_visible()
    keep(page, "rollout-form")
    tab_to(page, "Start")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/ui/rollouts/r\d+$"))
    expect(page.get_by_role("heading", name="tiny-classifier 1.1.0")).to_be_visible()
    keep(page, "rollout-running")
    expect(page.get_by_text("succeeded", exact=True)).to_be_visible(timeout=180_000)
    expect(page.get_by_text(f"{DEVICES} have the version").first).to_be_visible()
    keep(page, "rollout-succeeded")


def test_an_operator_aborts_a_rollout_and_the_devices_go_back(
    phone: BrowserContext, site: Served
) -> None:
    """Asked once more, then the rollout ends and its devices have their old version."""
    _have_installed(site, "1.0.0")
    with site.client() as client:
        rollout = client.create_rollout(_spec("1.1.0", bake_s=3600), again=True).id
        until(lambda: client.rollout(rollout).phases.get("confirmed") == DEVICES)
        page = sign_in(phone, site, "operator")
        open_page(page, site, f"/rollouts/{rollout}")
        press(page, "Abort")
        expect(page.get_by_text(f"Abort rollout {rollout}?")).to_be_visible()
        press(page, "Yes, abort")
        expect(page.get_by_text("aborted", exact=True)).to_be_visible()
        expect(page.get_by_text("aborted by a operator").first).to_be_visible()
        expect(page.get_by_role("button", name="Abort")).to_be_hidden()
        fits(page)
        keep(page, "phone-rollout-aborted")
        until(lambda: client.rollout(rollout).phases.get("undone") == DEVICES)
        versions = {d.slots["classify"].active.version for d in client.devices()}
        assert versions == {"1.0.0"}
        page.goto(f"{site.url}/ui/audit")
        row = page.get_by_role("row").filter(has_text="rollout.abort")
        expect(row.first).to_contain_text("a operator")
        keep(page, "audit")


def test_a_rollout_is_approved_paused_and_resumed(phone: BrowserContext, site: Served) -> None:
    """The buttons that make sense appear as the state changes."""
    _have_installed(site, "1.0.0")
    with site.client() as client:
        waves = [{"percent": 100, "approval": True}]
        spec = _spec("1.1.0", bake_s=3600, waves=waves)
        rollout = client.create_rollout(spec, again=True).id
        page = sign_in(phone, site, "operator")
        open_page(page, site, f"/rollouts/{rollout}")
        for button, sure, status in (
            ("Approve wave", "Yes, approve", "running"),
            ("Pause", "Yes, pause", "paused"),
            ("Resume", "Yes, resume", "running"),
        ):
            expect(page.get_by_role("button", name=button)).to_be_visible()
            press(page, button)
            press(page, sure)
            expect(page.get_by_text(status, exact=True)).to_be_visible()
            fits(page)
        client.command_rollout(rollout, "abort")
        until(lambda: client.rollout(rollout).status == "aborted")


def test_a_device_is_asked_to_classify(phone: BrowserContext, site: Served) -> None:
    """The console shows the label, its confidence and the time on the device."""
    _have_installed(site, "1.0.0")
    page = sign_in(phone, site, "operator")
    open_page(page, site, "/devices/sim-00001")
    answer = page.get_by_role("region", name="Console").get_by_role("status")
    type_into(page, "Text", "turn on the lights")
    press(page, "Classify")
    expect(answer).to_contain_text("ms on the device")
    expect(answer).to_contain_text("tiny-classifier 1.0.0")
    history = page.get_by_role("region", name="Update history")
    expect(history).to_contain_text("committed")
    expect(history.get_by_role("link", name=re.compile(r"^r\d+$")).first).to_be_visible()
    fits(page)
    keep(page, "phone-device")
    open_page(page, site, "/devices/sim-00001")
    press(page, "Classify")
    expect(page.get_by_text("Type a text first.")).to_be_visible()


def test_a_generated_text_streams_in_word_by_word(phone: BrowserContext, site: Served) -> None:
    """Part of the text is on the page before the rest was generated."""
    with site.client() as client:
        spec = _spec("1.0.0", bundle="words", slot="generate", selector="sim-00002")
        rollout = client.create_rollout(spec).id
        until(lambda: client.rollout(rollout).status == "succeeded")
    page = sign_in(phone, site, "operator")
    open_page(page, site, "/devices/sim-00002")
    answer = page.get_by_role("region", name="Console").get_by_role("status")
    type_into(page, "Text", "Once upon a time")
    page.evaluate(
        """() => {
          window.seen = [];
          const target = document.querySelector("[aria-label=Console] [role=status]");
          new MutationObserver(() => window.seen.push(target.innerText))
            .observe(target, {subtree: true, childList: true, characterData: true});
        }"""
    )
    press(page, "Generate")
    expect(answer).to_contain_text("tokens/s")
    seen = page.evaluate("window.seen")
    lengths = {len(text) for text in seen if "tokens/s" not in text}
    assert len(lengths) > 5, seen
    fits(page)
    keep(page, "phone-generated")


def test_a_viewer_sees_figures_but_no_buttons(window: BrowserContext, site: Served) -> None:
    """No command, no console, no audit."""
    _have_installed(site, "1.0.0")
    with site.client() as client:
        rollout = client.rollouts()[0].id
    page = sign_in(window, site, "viewer")
    expect(page.get_by_role("link", name="Audit")).to_have_count(0)
    for path in ("/ui/rollouts", f"/ui/rollouts/{rollout}", "/ui/devices/sim-00001"):
        page.goto(site.url + path)
        expect(page.get_by_role("heading", level=1).first).to_be_visible()
        expect(page.get_by_role("link", name="Start a rollout")).to_have_count(0)
        for name in ("Abort", "Pause", "Approve wave", "Classify", "Generate"):
            expect(page.get_by_role("button", name=name, include_hidden=True)).to_have_count(0)
    page.goto(f"{site.url}/ui/rollouts/new")
    expect(page.get_by_text("needs the role operator")).to_be_visible()
    expect(page.get_by_role("button", name="Start", include_hidden=True)).to_have_count(0)
    page.goto(f"{site.url}/ui/audit")
    expect(page.get_by_text("needs the role operator")).to_be_visible()
    expect(page.get_by_role("table")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone_in_light_and_dark(chromium: Browser, site: Served, scheme: str) -> None:
    """At 360 px nothing scrolls sideways, and the system's scheme is followed."""
    _have_installed(site, "1.0.0")
    with site.client() as client:
        rollout = client.rollouts()[0].id
    context = chromium.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    try:
        page = sign_in(context, site, "operator")
        paths = ["/", "/devices", "/devices/sim-00001", "/models", "/models/tiny-classifier/1.0.0",
                 "/rollouts", f"/rollouts/{rollout}", "/rollouts/new", "/audit",
                 "/compare/tiny-classifier"]  # fmt: skip
        for path in paths:
            page.goto(f"{site.url}/ui{path}")
            expect(page.get_by_role("heading", level=1).first).to_be_visible()
            dark = page.locator("body.body--dark")
            expect(dark).to_have_count(1 if scheme == "dark" else 0)
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= 360, f"{path} is {width} px wide"
            keep(page, f"phone-{scheme}{path.replace('/', '-')}")
    finally:
        context.close()


def test_the_theme_that_was_chosen_stays(phone: BrowserContext, site: Served) -> None:
    """The button changes it, whatever is drawn again; the next page has it too."""
    page = sign_in(phone, site, "viewer")
    press(page, "Light or dark")
    for _ in range(3):
        expect(page.locator("body.body--dark")).to_have_count(1)
        page.evaluate("() => { for (let n = 0; n < 500; n++) getElement(n)?.$forceUpdate?.() }")
        page.wait_for_timeout(100)
    expect(page.locator("body.body--dark")).to_have_count(1)
    page.goto(f"{site.url}/ui/devices")
    expect(page.locator("body.body--dark")).to_have_count(1)
    keep(page, "devices-dark")


def test_what_devices_say_is_text_and_never_markup(window: BrowserContext, site: Served) -> None:
    """A label that is an HTML element is shown as it is written, on every page."""
    page = sign_in(window, site, "operator")
    for path in ("/devices", "/devices/sim-00001"):
        page.goto(f"{site.url}/ui{path}")
        expect(page.get_by_text(f"note={HOSTILE}").first).to_be_visible()
        assert page.locator("img[src='x']").count() == 0
        assert "Shoal" in page.title()
    page.goto(f"{site.url}/ui/devices?q={HOSTILE}")
    expect(page.get_by_text("This cannot be shown")).to_be_visible()
    assert page.locator("img[src='x']").count() == 0


def test_no_page_asks_another_host_for_anything(window: BrowserContext, site: Served) -> None:
    """Everything comes from the controller; the policy forbids the rest; nothing is missing."""
    asked: list[Request] = []
    problems: list[str] = []

    def answered(response: Response) -> None:
        if response.status >= 400:
            problems.append(f"{response.status} {response.url}")

    window.on("request", lambda request: asked.append(request))
    window.on("response", answered)
    window.on("weberror", lambda found: problems.append(str(found.error)))
    page = sign_in(window, site, "operator")
    for path in ("/", "/devices", "/devices/sim-00001", "/models", "/rollouts", "/audit"):
        response = page.goto(f"{site.url}/ui{path}")
        assert "default-src 'self'" in response.headers["content-security-policy"]
        expect(page.get_by_role("heading", level=1).first).to_be_visible()
    hosts = {r.url.split("/")[2] for r in asked if r.url.startswith(("http", "ws"))}
    assert hosts == {site.url.split("/")[2]}
    assert problems == []


def test_focus_stays_where_it_is_while_a_page_updates_itself(
    window: BrowserContext, site: Served
) -> None:
    """Regions change in place: a person with a keyboard is not thrown to the top."""
    page = sign_in(window, site, "viewer")
    page.goto(f"{site.url}/ui/devices")
    link = page.get_by_role("link", name="sim-00003")
    link.focus()
    with site.client() as client:
        labels = client.device("sim-00005").labels
        client.change_device("sim-00005", labels={**labels, "shelf": "four"})
    expect(page.locator(".live").get_by_text("shelf=four")).to_be_visible(timeout=60_000)
    expect(link).to_be_focused()


def test_signing_out_and_revoked_tokens_end_the_session(
    phone: BrowserContext, site: Served
) -> None:
    """An open page leads to the sign-in once its token is revoked."""
    page = sign_in(phone, site, "viewer")
    press(page, "Sign out")
    expect(page.get_by_label("API token")).to_be_visible()
    page.goto(f"{site.url}/ui/devices")
    secret = site.token("viewer")
    page.get_by_label("API token").fill(secret)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Devices", exact=True)).to_be_visible()
    store = site.fleet.open_store()
    try:
        with store.write() as connection:
            tokens.revoke(connection, secret.split("_")[1], time.time())
    finally:
        store.close()
    expect(page.get_by_label("API token")).to_be_visible()
