"""A real browser on a real controller with simulated devices."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from contracts.config import MqttConfig
from fleet.simulate.launcher import Simulation
from tests.support.bundles import noise_generator
from tests.support.mail_server import MailServer, mail_server
from tests.support.serving import Served, served
from tests.support.tools import need_tool

DATA = Path(__file__).parents[1] / "data"
ARTIFACTS = Path(__file__).parents[2] / "artifacts" / "browser"
DEVICES = 24
HOSTILE = "<img src=x onerror=document.title=1>"

_SCENARIO = f"""
seed: 1
labels: {{site: [lyon, graz], note: ["{HOSTILE}"]}}
traffic: {{requests_per_s: 5, telemetry_s: 1, tokens_per_s: 12}}
updates: {{step_s: 0.05}}
"""

_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def mails() -> Iterator[MailServer]:
    """A server that takes the fleet's mail."""
    with mail_server(None) as running:
        yield running


@pytest.fixture(scope="module")
def site(
    mosquitto_broker: MqttConfig, mails: MailServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A controller whose simulated devices are online."""
    folder = tmp_path_factory.mktemp("dashboard")
    name = f"browser-{uuid.uuid4().hex[:8]}"  # the broker knows the owner of each fleet
    scenario = folder / "scenario.yaml"
    scenario.write_text(_SCENARIO)
    words = noise_generator(folder / "words").path
    # What was published last is what the rollout form begins with.
    bundles = [words, DATA / "tiny-classifier-1.0.0", DATA / "tiny-classifier-1.1.0"]
    with (
        served(
            folder / "fleet",
            mosquitto_broker,
            name=name,
            bundles=bundles,
            public_url="https://fleet.example.org",
            mail_port=mails.port,
        ) as running,
        Simulation(
            name,
            mosquitto_broker,
            DEVICES,
            scenario=scenario,
            repository_url=f"{running.url}/repo/",
        ) as simulation,
    ):
        simulation.wait_connected(180)
        yield running


# Of a module, not of the session: while it is open, its event loop runs in this thread.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Headless Chromium with an empty profile."""
    program = need_tool("chromium", "/usr/bin/chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def window(chromium: Browser) -> Iterator[BrowserContext]:
    """A window of its own, at a desk's size."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture
def phone(chromium: Browser) -> Iterator[BrowserContext]:
    """A window as wide as a phone."""
    context = chromium.new_context(viewport={"width": 360, "height": 740})
    context.set_default_timeout(60_000)
    yield context
    context.close()


def open_page(page: Page, site: Served, path: str) -> None:
    """Goes to a page of the dashboard."""
    page.goto(f"{site.url}/ui{path}")
    # The page is drawn before its connection to the server stands.
    page.wait_for_function("() => window.did_handshake === true")


def sign_in(context: BrowserContext, site: Served, role: str) -> Page:
    """A page on which somebody of a role has signed in, by keyboard."""
    page = context.new_page()
    page.goto(f"{site.url}/")
    expect(page.get_by_label("API token")).to_be_focused()
    page.keyboard.insert_text(site.token(role))
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Overview", exact=True).wait_for()
    # The page is drawn before its connection to the server stands: a click before it is lost.
    page.wait_for_function("() => window.did_handshake === true")
    return page


def keep(page: Page, name: str) -> None:
    """Keeps a screenshot as an artefact of the run."""
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)


def tab_to(page: Page, name: str) -> None:
    """Presses Tab until a link or button of that name has the focus."""
    script = r"""(() => { const at = document.activeElement;
      return [at.getAttribute("aria-label"), (at.innerText || "").trim().split("\n").pop()]; })()"""
    still = f"""new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(
      () => done({script}))))"""
    # A dialog that has come up takes the focus once more: a key that is pressed before is lost.
    page.wait_for_function(
        '() => !document.querySelector(\'[class*="-enter-active"], [class*="-leave-active"]\')'
    )
    for _ in range(90):
        page.keyboard.press("Tab")
        # It counts when it is still there two frames later: a list that closed may take it back.
        if name in page.evaluate(script) and name in page.evaluate(still):
            return
    pytest.fail(f"{name} cannot be reached by keyboard")


def press(page: Page, name: str) -> None:
    """Tabs to a button or link, and presses Enter."""
    tab_to(page, name)
    page.keyboard.press("Enter")


def choose(page: Page, label: str, option: str) -> None:
    """Tabs to a list, and chooses by keyboard."""
    tab_to(page, label)
    page.keyboard.press("Enter")
    expect(page.get_by_role("option", name=option, exact=True)).to_be_visible()
    focused = "document.querySelector('.q-item.q-manual-focusable--focused')?.innerText"
    seen = []
    while option not in seen:
        page.keyboard.press("ArrowDown")
        seen.append((page.evaluate(focused) or "").strip())
        assert len(seen) < 30, seen
    page.keyboard.press("Enter")
    expect(page.get_by_role("option", name=option, exact=True)).to_have_count(0)
    # The list takes the focus once more when it has gone, by a timer: a longer one ends later.
    page.evaluate("() => new Promise((done) => setTimeout(done, 600))")


def type_into(page: Page, label: str, text: str) -> None:
    """Tabs to a field and replaces what it holds.

    A list that has just closed takes the focus once more: then what is typed is lost, and typed
    again.
    """
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('aria-label')") == label:
            page.keyboard.press("Control+a")
            page.keyboard.type(text)
            if page.evaluate("document.activeElement.value") == text:
                return
    pytest.fail(f"field {label} cannot be reached by keyboard")


def fits(page: Page, width: int = 360) -> None:
    """Nothing scrolls sideways, once icons are no longer their names in letters."""
    page.evaluate("document.fonts.ready.then(() => true)")
    found = page.evaluate("document.documentElement.scrollWidth")
    assert found <= width, f"{page.url} is {found} px wide"
