"""Bundles that come from a browser: in parts, bounded, checked as `shoal fleet publish` checks."""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from contracts.bundle import MANIFEST, Bundle, pack
from contracts.config import MqttConfig
from contracts.errors import InputError, ShoalError, UnavailableError
from fleet.api.app import create_app
from fleet.controller import Controller
from fleet.dashboard import mount, uploads
from fleet.dashboard.uploads import MAX_OPEN, MAX_PART_BYTES, Uploads
from fleet.dashboard.views import MAX_DEPTH, flatten
from fleet.dashboard.work import Work
from fleet.folder import Fleet, FleetConfig
from fleet.store import audit, bundles, tokens
from fleet.store.audit import Entry
from fleet.store.tokens import Token
from tests.support.bundles import noise_bundle

ADMIN = Token("t", "ann", "admin", 0.0, None, None)


class Clock:
    """Seconds that a test lets pass."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def left(folder: Path) -> list[str]:
    """What uploads keep on the disk."""
    return sorted(one.name for one in folder.glob(".upload.*"))


def test_a_file_comes_in_parts_in_order(tmp_path: Path) -> None:
    """A part that is sent again, or goes beyond the file, is refused and changes nothing."""
    store = Uploads(tmp_path)
    one = store.begin("../../a b.shoal", 10, "ann")
    assert one.path.parent.parent == tmp_path and one.path.name == "-..-a-b.shoal"
    assert not store.add(one.id, 0, b"01234", "ann").whole
    for offset, data, code in (
        (0, b"01234", "bad-range"), (6, b"6", "bad-range"), (5, b"", "bad-range"),
        (5, b"567890", "too-large"), (5, b"x" * (MAX_PART_BYTES + 1), "too-large"),
    ):  # fmt: skip
        with pytest.raises(InputError) as refused:
            store.add(one.id, offset, data, "ann")
        assert refused.value.code == code
        if code == "bad-range":
            assert refused.value.info.detail["done"] == 5, "a browser goes on from there"
    assert store.add(one.id, 5, b"56789", "ann").whole
    assert one.path.read_bytes() == b"0123456789"
    store.drop(one.id)
    assert left(tmp_path) == []


def test_an_upload_is_its_owners_alone_and_ends_when_nobody_goes_on(tmp_path: Path) -> None:
    """Its name is no key to it for somebody else; what stands still makes room."""
    clock = Clock()
    store = Uploads(tmp_path, clock)
    one = store.begin("a.shoal", 10, "ann")
    with pytest.raises(InputError, match="not known"):
        store.add(one.id, 0, b"x", "eve")
    for _ in range(MAX_OPEN - 1):
        store.begin("a.shoal", 10, "ann")
    with pytest.raises(UnavailableError, match="on their way"):
        store.begin("a.shoal", 10, "ann")
    clock.now = uploads.IDLE_S - 1
    store.add(one.id, 0, b"x", "ann")
    clock.now += uploads.IDLE_S - 1
    assert store.add(one.id, 1, b"x", "ann").done == 2
    assert len(left(tmp_path)) == 1, "the others stood still"
    clock.now += uploads.IDLE_S + 1
    with pytest.raises(InputError, match="not known"):
        store.add(one.id, 2, b"x", "ann")
    assert left(tmp_path) == []


def test_what_an_ended_process_left_is_removed_and_not_what_another_does_now(
    tmp_path: Path,
) -> None:
    """Two controllers may have one folder."""
    running = Uploads(tmp_path).begin("a.shoal", 10, "ann")
    dead = tmp_path / ".upload.dead"
    dead.mkdir()
    (dead / "a.shoal").write_bytes(b"x")
    old = time.time() - uploads.LEFT_S - 60
    os.utime(dead, (old, old))
    Uploads(tmp_path)
    assert left(tmp_path) == [running.path.parent.name]


def test_a_file_that_the_disk_has_no_room_for_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files on their way count whole, each with its signed copy; no size is without a bound."""
    store = Uploads(tmp_path)
    for name, size in (
        ("a.shoal", uploads.MAX_BYTES + 1),
        ("a.json", uploads.MAX_REPORT_BYTES + 1),
    ):
        with pytest.raises(InputError) as refused:
            store.begin(name, size + 1, "ann")
        assert refused.value.code == "too-large"
    usage = shutil.disk_usage(tmp_path)
    room = uploads.SPARE_BYTES + 2000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=room))
    store.begin("a.shoal", 600, "ann")
    with pytest.raises(InputError) as refused:
        store.begin("a.shoal", 600, "ann")
    assert refused.value.code == "disk-full"
    store.begin("a.shoal", 300, "ann")


def test_a_first_part_that_is_refused_leaves_nothing(
    tmp_path: Path, controller: Controller
) -> None:
    """Else four of them would take all places."""
    work = Work(controller)
    for _ in range(MAX_OPEN + 1):
        with pytest.raises(InputError) as refused:
            work.receive("", "a.shoal", 10, 5, b"x", ADMIN)
        assert refused.value.code == "bad-range"
    assert left(controller.fleet.folder) == []


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A fleet."""
    config = FleetConfig("f", mqtt=MqttConfig(port=1))
    return Fleet.init(tmp_path_factory.mktemp("uploads") / "fleet", config)


@pytest.fixture(scope="module")
def controller(fleet: Fleet) -> Iterator[Controller]:
    """A controller that is not connected."""
    made = Controller(fleet)
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def browsers(controller: Controller) -> dict[str, TestClient]:
    """Somebody of each role who is signed in at the dashboard."""
    app = create_app(controller)
    mount(app, controller)
    found = {}
    for role in ("admin", "operator"):
        with controller.store.write() as connection:
            secret = tokens.create(connection, f"the {role}", role, time.time())
        found[role] = TestClient(app, raise_server_exceptions=False)
        found[role].post("/ui/login", data={"token": secret}, follow_redirects=False)
    return found


def send(client: TestClient, file: Path, **more: str) -> dict[str, object]:
    """Sends a file as the page does; the last answer."""
    data, part = file.read_bytes(), 2000
    found: dict[str, object] = {"id": "", "done": 0}
    while "done" in found and found["done"] != len(data):
        offset = int(str(found["done"]))
        asked = {"name": file.name, "size": len(data), "offset": offset, "id": str(found["id"])}
        body = data[offset : offset + part]
        answer = client.post("/ui/upload", params={**asked, **more}, content=body)
        assert answer.is_success, answer.text
        found = answer.json()
    return found


def newest(controller: Controller) -> Entry:
    """The newest entry of the audit log."""
    controller.attempts.write()
    with controller.store.read() as connection:
        return audit.page(connection, None, 1)[0][0]


def test_a_bundle_and_its_report_are_published_from_a_browser(
    controller: Controller, browsers: dict[str, TestClient], tmp_path: Path
) -> None:
    """Signed and listed with the report; nothing stays; a version never changes."""
    file, report = tmp_path / "noise.shoal", tmp_path / "noise-1.0.0-report.json"
    pack(noise_bundle(tmp_path / "a", version="1.0.0").path, file)
    report.write_text(json.dumps({"teacher": {"accuracy": 0.9}}))
    sent = send(browsers["admin"], report)
    found = send(browsers["admin"], file, report=str(sent["id"]))
    assert found == {"published": "/ui/models/noise/1.0.0", "name": "noise 1.0.0"}
    with controller.store.read() as connection:
        assert bundles.report(connection, "noise", "1.0.0") == {"teacher": {"accuracy": 0.9}}
    assert [str(ref) for ref in controller.fleet.open_repository().bundles()] == ["noise 1.0.0"]
    entry = newest(controller)
    assert (entry.action, entry.target, entry.outcome) == ("bundle.publish", "noise 1.0.0", "done")
    assert (entry.actor, entry.role) == ("the admin", "admin")
    assert left(controller.fleet.folder) == []
    pack(noise_bundle(tmp_path / "b", version="1.0.0", seed=1).path, file)
    refused = send(browsers["admin"], file)
    assert refused["code"] == "version-taken"
    assert newest(controller).outcome == "version-taken"


@pytest.mark.parametrize(
    ("depth", "code"), [(900, None), (50_000, "bad-report")], ids=["deep", "bottomless"]
)
def test_a_report_is_no_trap_for_whoever_reads_it(
    controller: Controller,
    browsers: dict[str, TestClient],
    tmp_path: Path,
    depth: int,
    code: str | None,
) -> None:
    """However deep it is nested: it is shown so far, or refused."""
    file, report = tmp_path / "deep.shoal", tmp_path / "deep-1.0.0-report.json"
    pack(noise_bundle(tmp_path / "a", name=f"deep-{depth}").path, file)
    report.write_text('{"a":' * depth + "1" + "}" * depth)
    sent = send(browsers["admin"], report)
    found = send(browsers["admin"], file, report=str(sent["id"]))
    assert found.get("code") == code
    if code is None:
        with controller.store.read() as connection:
            stored = bundles.report(connection, f"deep-{depth}", "1.0.0")
        assert stored is not None
        ((name, value),) = flatten(stored)
        assert (name.count("a"), value) == (MAX_DEPTH + 1, "more")


def hostile(kind: str, folder: Path) -> Path:
    """An archive that is no bundle as it should be."""
    bundle = noise_bundle(folder / kind, name="bad")
    file = folder / f"{kind}.shoal"
    pack(bundle.path, file)
    data = file.read_bytes()
    if kind == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif kind == "not-an-archive":
        file.write_bytes(b"\x7fELF" + b"x" * 5000)
    elif kind == "another-model":
        at = data.index((bundle.path / "model.tflite").read_bytes()[:64])
        file.write_bytes(data[: at + 9] + bytes([data[at + 9] ^ 1]) + data[at + 10 :])
    elif kind == "bomb":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(MANIFEST, b"{" + b" " * (64 << 20))
    elif kind == "leaves-its-folder":
        text = bundle.manifest_bytes.replace(b"model.tflite", b"../../x.tflit")
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(MANIFEST, text)
            archive.writestr("../../x.tflit", b"x")
    else:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(MANIFEST, bundle.manifest_bytes)
        data = file.read_bytes()
        at = data.index(MANIFEST.encode()) + len(MANIFEST)
        file.write_bytes(data[:at] + b"\xff" * 40 + data[at + 40 :])
    return file


@pytest.mark.parametrize(
    "kind",
    ["truncated", "not-an-archive", "another-model", "bomb", "leaves-its-folder", "not-deflated"],
)
def test_a_hostile_archive_is_refused_as_on_the_terminal(
    controller: Controller, browsers: dict[str, TestClient], tmp_path: Path, kind: str
) -> None:
    """By the same words; it is noted, not listed, and nothing of it stays."""
    file = hostile(kind, tmp_path)
    with pytest.raises(ShoalError) as on_terminal:
        controller.fleet.publish(file)
    found = send(browsers["admin"], file)
    assert found["code"] == on_terminal.value.code
    entry = newest(controller)
    assert (entry.action, entry.outcome) == ("bundle.publish", on_terminal.value.code)
    with controller.store.read() as connection:
        assert "bad" not in bundles.names(connection)
    assert left(controller.fleet.folder) == []


def test_only_an_admin_of_this_site_sends_a_bundle(
    controller: Controller, browsers: dict[str, TestClient]
) -> None:
    """An operator is refused and counted once; a page of another site, or nobody, does nothing."""
    asked = {"name": "a.shoal", "size": "9"}
    answer = browsers["operator"].post("/ui/upload", params=asked, content=b"x")
    assert answer.status_code == 403 and "role admin" in answer.text
    controller.attempts.write()
    with controller.store.read() as connection:
        found = audit.page(connection, None, 99)[0]
    (entry,) = (one for one in found if one.outcome == "forbidden")
    assert (entry.action, entry.times, entry.actor) == ("bundle.publish", 1, "the operator")
    elsewhere = {"Origin": "https://evil.example"}
    admin = browsers["admin"]
    refused = admin.post("/ui/upload", params=asked, content=b"x", headers=elsewhere)
    assert refused.status_code == 403
    stranger = TestClient(admin.app)
    answer = stranger.post("/ui/upload", params=asked, content=b"x", follow_redirects=False)
    assert answer.is_redirect and "login" in answer.headers["location"]
    large = admin.post("/ui/upload", params=asked, content=b"x" * (MAX_PART_BYTES + 1))
    assert large.status_code == 413
    assert left(controller.fleet.folder) == []


def test_an_admin_withdraws_what_was_published(controller: Controller, tmp_path: Path) -> None:
    """It leaves the signed list, stays in the history, and is in the audit log."""
    bundle = Bundle.open(noise_bundle(tmp_path / "a", name="gone").path)
    controller.fleet.publish(bundle.path)
    Work(controller).withdraw("gone", "1.0.0", ADMIN)
    assert bundle.ref not in controller.fleet.open_repository().bundles()
    with controller.store.read() as connection:
        assert bundles.find(connection, "gone", "1.0.0").withdrawn
    entry = newest(controller)
    assert (entry.action, entry.target, entry.outcome) == ("bundle.withdraw", "gone 1.0.0", "done")
    with pytest.raises(InputError) as refused:
        Work(controller).withdraw("gone", "1.0.0", ADMIN)
    assert refused.value.code == "no-such-bundle"
