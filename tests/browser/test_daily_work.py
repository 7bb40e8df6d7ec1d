"""The dashboard's work by keyboard, at a phone's width: what a fleet's owner does in a day."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import BrowserContext, Page, Route, expect

from contracts.bundle import pack
from fleet.api.models_logs import LogsAsked
from fleet.joining import invitations
from fleet.rollout.spec import RolloutSpec
from tests.browser.conftest import fits, keep, open_page, sign_in, tab_to, type_into
from tests.support.bundles import noise_bundle
from tests.support.serving import Served
from tests.support.tools import until

expect.set_options(timeout=60_000)


def test_a_device_is_enrolled_by_keyboard_on_a_phone(phone: BrowserContext, site: Served) -> None:
    """The line, its QR code, the list of open lines; shown once; taken back."""
    page = sign_in(phone, site, "admin")
    open_page(page, site, "/devices")
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
    open_page(page, site, "/enrol")
    expect(page.get_by_role("region", name="Open lines")).to_contain_text("attic")
    assert secret not in page.content(), "it is shown once"
    tab_to(page, "Take back the line of attic")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Take the line of attic back?")).to_be_visible()
    tab_to(page, "Yes, take it back")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Open lines")).not_to_contain_text("attic")
    table = "serial,name,board\n10000000ABCD,shelf,raspberry-pi-5\n0000,x,raspberry-pi-5"
    heading = "Table with a heading: serial, name, board, labels, group"
    serials = page.get_by_role("region", name="Serial numbers")
    type_into(page, heading, table)
    tab_to(page, "List these boards")
    page.keyboard.press("Enter")
    expect(page.get_by_text("row 3: '0000' is no serial number")).to_be_visible()
    type_into(page, heading, table.rpartition("\n")[0])
    tab_to(page, "List these boards")
    page.keyboard.press("Enter")
    expect(serials.get_by_role("row").filter(has_text="shelf")).to_contain_text("not yet")
    tab_to(page, "Make the line for all of them")
    page.keyboard.press("Enter")
    expect(page.get_by_label("The line for all boards")).to_contain_text("echo claim_")
    fits(page)
    keep(page, "phone-serials")
    tab_to(page, "Take 10000000abcd off the list")
    page.keyboard.press("Enter")
    tab_to(page, "Yes, take it off")
    page.keyboard.press("Enter")
    expect(serials).to_contain_text("The list is empty.")
    with site.client() as client:
        entries = [(one.action, one.actor) for one in client.audit()]
    assert ("device.serials", "a admin") in entries
    assert ("device.serial-remove", "a admin") in entries
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
    open_page(page, site, "/devices")
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
    page.wait_for_function("() => window.did_handshake === true")
    tab_to(page, "What to do")
    page.keyboard.press("Enter")
    expect(page.get_by_role("option", name="Take out of groups")).to_be_visible()
    assert "Revoke" not in page.get_by_role("option").all_inner_texts(), "that is for admins"


def _choose(page: Page, *files: Path) -> None:
    """Opens the browser's dialog by keyboard, and chooses files."""
    tab_to(page, "Bundle file")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(files)


def test_a_bundle_is_published_compared_and_withdrawn_by_keyboard_on_a_phone(
    phone: BrowserContext, site: Served, tmp_path: Path
) -> None:
    """What is no bundle is refused; a broken connection is gone on with; devices are revoked."""
    broken, first, second = (tmp_path / f"{name}.shoal" for name in ("broken", "first", "second"))
    broken.write_bytes(b"x" * 999)
    report = tmp_path / "noise-1.0.0-report.json"
    report.write_text(json.dumps({"teacher": {"accuracy": 0.875}}))
    pack(noise_bundle(tmp_path / "a", size=1_200_000).path, first)
    pack(noise_bundle(tmp_path / "b", version="1.1.0").path, second)
    asked: list[int] = []
    away = [3, *range(5, 99)]

    def breaks(route: Route) -> None:
        asked.append(int(route.request.url.split("offset=")[1].split("&")[0]))
        if len(asked) in away:
            route.abort("connectionreset")
        else:
            route.continue_()

    page = sign_in(phone, site, "admin")
    # From here on: asked for only as the key is pressed, the dialog may be there before.
    page.on("filechooser", lambda _: None)
    open_page(page, site, "/models")
    told = page.get_by_role("region", name="Publish a bundle").get_by_role("status")
    _choose(page, broken)
    expect(told).to_contain_text("Not published:")
    expect(told).to_contain_text("is not a bundle")
    expect(page.get_by_label("Bundle file")).to_be_focused()
    page.route("**/ui/upload?*", breaks)
    with page.expect_event("requestfailed", lambda request: len(asked) > 4):
        _choose(page, first, report)
    expect(told).to_contain_text("trying again")
    assert asked[2] == asked[3] > 0, "it goes on where the connection broke"
    open_page(page, site, "/models")
    broke_at = asked[4]
    away.clear()
    asked.clear()
    _choose(page, first, report)
    expect(told).to_contain_text("Published noise 1.0.0.")
    assert asked == [0, broke_at], "the report anew, and of the bundle what was left"
    fits(page)
    keep(page, "phone-publish")
    _choose(page, second)
    expect(told).to_contain_text("Published noise 1.1.0.")
    tab_to(page, "Look at it")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="noise 1.1.0", exact=True)).to_be_visible()
    tab_to(page, "Compare versions")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Compare versions of noise")).to_be_visible()
    row = page.get_by_role("row").filter(has_text="size of all files")
    expect(row).to_contain_text("better")
    expect(page.get_by_role("row").filter(has_text="report: teacher.accuracy")).to_contain_text(
        "0.875"
    )
    fits(page)
    keep(page, "phone-compare")
    open_page(page, site, "/models/noise/1.0.0")
    expect(page.get_by_role("region", name="Build report")).to_contain_text("0.875")
    fits(page)
    tab_to(page, "Withdraw")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Withdraw noise 1.0.0?")).to_be_visible()
    tab_to(page, "Yes, withdraw")
    page.keyboard.press("Enter")
    expect(page.get_by_text("withdrawn", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="Roll out")).to_have_count(0)
    for name in ("spare-1", "spare-2"):
        site.fleet.enroll(name, "raspberry-pi-5")
    open_page(page, site, "/devices?text=spare")
    for name in ("spare-1", "spare-2"):
        tab_to(page, f"Choose {name}")
        page.keyboard.press("Space")
    tab_to(page, "What to do")
    page.keyboard.press("Enter")
    expect(page.get_by_role("option", name="Revoke")).to_be_visible()
    for _ in range(8):
        page.keyboard.press("ArrowDown")
        if page.locator(".q-item.q-manual-focusable--focused").inner_text() == "Revoke":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("option", name="Revoke")).to_have_count(0)
    tab_to(page, "Change")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Revoke 2 devices?")).to_be_visible()
    tab_to(page, "Yes, change them")
    page.keyboard.press("Enter")
    expect(page.get_by_text("2 revoked.")).to_be_visible()
    with site.client() as client:
        assert {client.device(name).state for name in ("spare-1", "spare-2")} == {"revoked"}
        noted = [(one.action, one.target) for one in client.audit() if one.actor == "a admin"]
    wanted = {("bundle.publish", "noise 1.0.0"), ("bundle.withdraw", "noise 1.0.0"),
              ("device.revoke", "spare-1"), ("device.revoke", "spare-2")}  # fmt: skip
    assert wanted <= set(noted)


def test_a_rollout_is_planned_while_it_is_typed_by_keyboard_on_a_phone(
    phone: BrowserContext, site: Served
) -> None:
    """Nothing to do cannot start and says why; what was stopped before is asked for twice."""
    two = "device in (sim-00003,sim-00004)"
    spec = RolloutSpec.model_validate(
        {"bundle": "tiny-classifier", "version": "1.1.0", "selector": two, "bake_s": 3600}
    )
    with site.client() as client:
        stopped = client.create_rollout(spec).id
        client.command_rollout(stopped, "abort")
        until(lambda: client.rollout(stopped).status == "aborted")
    page = sign_in(phone, site, "operator")
    open_page(page, site, "/models/tiny-classifier/1.1.0")
    tab_to(page, "Roll out")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Start a rollout", exact=True)).to_be_visible()
    page.wait_for_function("() => window.did_handshake === true")
    start, told = page.get_by_role("button", name="Start"), page.locator("#why-not")
    expect(start).to_be_enabled()
    for text, why in (
        ("site=nowhere", "It cannot start: no device matches site=nowhere"),
        ("site=(", "selector"),
    ):
        type_into(page, "Devices (selector)", text)
        expect(told).to_contain_text(why)
        expect(start).to_be_disabled()
    type_into(page, "Devices (selector)", two)
    expect(page.get_by_role("heading", name="2 of 2 devices would move")).to_be_visible()
    expect(page.get_by_label("Waves, each counted from the start")).to_have_value("1,100%")
    expect(page.get_by_role("group", name="Devices of wave 2")).to_contain_text("sim-0000")
    expect(page.get_by_text("one failure stops it").first).to_be_visible()
    expect(page.get_by_text("tiny-classifier 1.1.0 was stopped by a person")).to_be_visible()
    type_into(page, "Trial on each device (seconds)", "1")
    type_into(page, "Watch each wave for (seconds)", "1")
    expect(page.get_by_text("were watched for 1 second")).to_be_visible()
    expect(start).to_be_enabled()
    fits(page)
    keep(page, "phone-rollout-form")
    tab_to(page, "Start")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Start tiny-classifier 1.1.0 again?")).to_be_visible()
    expect(page.get_by_role("dialog")).to_contain_text(f"rollout {stopped}")
    tab_to(page, "Yes, start it again")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/ui/rollouts/r\d+$"))
    progress = page.get_by_role("region", name="Progress")
    expect(progress).to_contain_text("2 have the version", timeout=180_000)
    expect(page.get_by_text("succeeded", exact=True)).to_be_visible(timeout=180_000)
    fits(page)
    keep(page, "phone-rollout-progress")
    with site.client() as client:
        (made,) = [one for one in client.audit() if "stopped_before" in one.detail]
    assert (made.actor, made.detail["stopped_before"]) == ("a operator", [stopped])
    of_it = f"bundle=tiny-classifier&version=1.1.0&selector={quote(two)}"
    open_page(page, site, f"/rollouts/new?{of_it}")
    expect(told).to_contain_text("none of the 2 devices would move")
    expect(start).to_be_disabled()


def test_a_log_is_read_and_followed_by_keyboard_on_a_phone(
    phone: BrowserContext, site: Served
) -> None:
    """Lines come from the device itself; who asked is in the audit log; a viewer has no button."""
    page = sign_in(phone, site, "operator")
    open_page(page, site, "/devices/sim-00005")
    log = page.get_by_role("region", name="Log", exact=True)
    tab_to(page, "Show log")
    page.keyboard.press("Enter")
    expect(log.get_by_role("log")).to_contain_text("info  ready  boot=")
    expect(log.get_by_role("status")).to_contain_text("1 lines.")
    tab_to(page, "Follow")
    page.keyboard.press("Enter")
    expect(log.get_by_role("button", name="Stop")).to_be_visible()
    page.keyboard.press("Enter")
    expect(log.get_by_role("button", name="Follow")).to_be_enabled()
    expect(log.get_by_role("log")).to_contain_text("ready")
    fits(page)
    keep(page, "phone-log")
    with site.client() as client:
        noted = [one for one in client.audit() if one.action == "device.logs"]
        (found,) = client.logs("sim-00005", LogsAsked(lines=5))
    assert [one.detail["follow_s"] for one in noted] == [600, 0]
    assert {(one.actor, one.target) for one in noted} == {("a operator", "sim-00005")}
    assert [one.event for one in found.lines] == ["ready"]
