"""What a board may ask before it is a device: next to nothing without a token that counts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from contracts.release import ReleaseArchive
from fleet.api.app import create_app
from fleet.config import FleetConfig
from fleet.controller import Controller
from fleet.folder import Fleet
from fleet.joining import installer, invitations
from fleet.joining.invitations import Wanted
from fleet.repository import releases
from tests.support.wheels import make_release

CHOICES = [["aarch64", "cp313"], ["aarch64", "cp311"]]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A fleet with an address and two releases for one platform and Python."""
    folder = tmp_path_factory.mktemp("join")
    fleet = Fleet.init(
        folder / "home", FleetConfig("home", host="fleet.example.org", mutual_tls=True)
    )
    repository = fleet.open_repository()
    for version in ("0.9.0", "0.10.0"):
        archive = make_release(folder / version, version, platform="aarch64", python="cp311")
        releases.publish(repository, ReleaseArchive.open(archive))
    return fleet


@pytest.fixture
def client(fleet: Fleet) -> Iterator[TestClient]:
    """The API, nobody signed in."""
    controller = Controller(fleet)
    with_errors = TestClient(create_app(controller), raise_server_exceptions=False)
    yield with_errors
    controller.store.close()


def _token(fleet: Fleet, device: str, board: str = "raspberry-pi-5", seconds: float = 600) -> str:
    return invitations.invite(fleet, [Wanted(device, board)], seconds=seconds)[0]


def test_the_authority_and_the_installer_are_for_anybody(client: TestClient, fleet: Fleet) -> None:
    """Neither is a secret, and neither is believed before the line has compared it."""
    der = client.get("/join/ca").content
    assert hashlib.sha256(der).hexdigest() == installer.fingerprint(installer.authority(fleet))
    assert client.get("/join/install").text == installer.render(fleet)


def test_a_token_gives_the_newest_release_for_the_first_python_that_has_one(
    client: TestClient, fleet: Fleet, tmp_path: Path
) -> None:
    """And its bytes, in parts too; asking does not use the token up."""
    token = _token(fleet, "d1")
    for _ in range(2):
        plan = client.post("/v1/join", json={"token": token, "choices": CHOICES}).json()
        assert (plan["fleet"], plan["device"], plan["used"]) == ("home", "d1", False)
        assert plan["release"]["version"] == "0.10.0"
        assert plan["release"]["python"] == "cp311"
    url, headers = f"/v1/join/releases/{plan['release']['sha256']}", {"Shoal-Token": token}
    whole = client.get(url, headers=headers)
    assert hashlib.sha256(whole.content).hexdigest() == plan["release"]["sha256"]
    rest = client.get(url, headers={**headers, "Range": "bytes=100-"})
    assert (rest.status_code, rest.content) == (206, whole.content[100:])


@pytest.mark.parametrize("token", ["", "x" * 43, "x" * 10_000, "é", "' OR 1=1 --"])
def test_without_a_token_that_counts_nothing_is_told(
    client: TestClient, fleet: Fleet, token: str
) -> None:
    """No name of a device, no release, no bytes; also not for the repository's other files."""
    answer = client.post("/v1/join", json={"token": token, "choices": CHOICES})
    assert answer.status_code in (409, 403, 422), answer.text
    assert "0.10.0" not in answer.text
    (found, *_) = releases.published(fleet.open_repository())
    sent = {"Shoal-Token": token.encode()}
    answer = client.get(f"/v1/join/releases/{found.sha256}", headers=sent)
    assert answer.status_code in (409, 403, 422), answer.text


@pytest.mark.parametrize(
    "path",
    ["..%2f..%2fkeys", "0" * 63, "0" * 64, "../../ca/ca.key.pem", "A" * 64, "%00" * 64],
)
def test_a_token_gives_releases_alone(client: TestClient, fleet: Fleet, path: str) -> None:
    """Nothing else of the folder has a name there."""
    token = _token(fleet, "d2")
    answer = client.get(f"/v1/join/releases/{path}", headers={"Shoal-Token": token})
    assert answer.status_code in (404, 422), answer.text
    assert "PRIVATE" not in answer.text


def test_a_board_of_another_kind_or_python_is_told_what_is_needed(
    client: TestClient, fleet: Fleet
) -> None:
    """With the command that mends it."""
    token = _token(fleet, "d3")
    other = client.post("/v1/join", json={"token": token, "choices": [["x86-64", "cp311"]]})
    assert other.json()["error"]["code"] == "wrong-board"
    assert "raspberry-pi-5 (aarch64)" in other.json()["error"]["message"]
    none = client.post("/v1/join", json={"token": token, "choices": [["aarch64", "cp312"]]})
    assert none.json()["error"]["code"] == "no-release"
    assert "--platform raspberry-pi-5 --python 3.12" in none.json()["error"]["message"]


def test_who_asks_too_often_has_to_wait(client: TestClient) -> None:
    """Guessing is bounded by address, before anything is looked up."""
    asked = (
        client.post("/v1/join", json={"token": "guess", "choices": CHOICES}).status_code
        for _ in range(5000)
    )
    assert 429 in asked
