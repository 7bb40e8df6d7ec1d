"""One-time tokens: used once, by one key; listed, taken back, out of date."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest

from agent.certificates.device import new_request
from contracts.errors import InputError, RefusedError
from fleet.address import api_url
from fleet.config import FleetConfig
from fleet.folder import Fleet
from fleet.identity.registry import Registry
from fleet.joining import command, installer, invitations
from fleet.joining.invitations import Wanted

PI = "raspberry-pi-5"


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """A fleet with an address."""
    return Fleet.init(
        tmp_path / "home", FleetConfig("home", host="fleet.example.org", mutual_tls=True)
    )


def _invite(fleet: Fleet, device: str = "kitchen", **how: bool) -> str:
    return invitations.invite(fleet, [Wanted(device, PI)], seconds=60, **how)[0]


def _request() -> bytes:
    return new_request(None)[1].encode()


def test_a_token_is_stored_as_its_hash_alone(fleet: Fleet) -> None:
    """Nothing below the fleet's folder holds the token itself."""
    token = _invite(fleet)
    for path in fleet.folder.rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes(), path
    (listed,) = invitations.every(fleet)
    assert hashlib.sha256(token.encode()).hexdigest().startswith(listed.id)
    assert len(token) >= 43


def test_a_used_token_says_so_to_another_key_and_answers_the_same_key_again(fleet: Fleet) -> None:
    """The network may break between use and answer; the device asks again with its key."""
    token, request = _invite(fleet), _request()
    first = fleet.redeem(token, request)
    assert fleet.redeem(token, request) == first
    with pytest.raises(RefusedError, match="was used by another board"):
        fleet.redeem(token, _request())
    assert [one.state(0) for one in invitations.every(fleet)] == ["used"]


def test_a_token_that_was_taken_back_enrols_nobody(fleet: Fleet) -> None:
    """By its id or its device; a used one cannot be taken back, and a second time is an error."""
    token = _invite(fleet)
    assert invitations.revoke(fleet, "kitchen") == 1
    with pytest.raises(RefusedError, match="was taken back"):
        fleet.redeem(token, _request())
    with pytest.raises(RefusedError, match="was taken back"):
        fleet.open_identity().invited(token)
    with pytest.raises(InputError, match="tokens list"):
        invitations.revoke(fleet, "kitchen")
    used = _invite(fleet, "cellar")
    fleet.redeem(used, _request())
    with pytest.raises(InputError, match="tokens list"):
        invitations.revoke(fleet, "cellar")


def test_a_newer_line_for_a_device_takes_the_place_of_the_older(fleet: Fleet) -> None:
    """Who finds an old line enrols nobody with it."""
    old, new = _invite(fleet), _invite(fleet)
    with pytest.raises(RefusedError, match="was taken back"):
        fleet.redeem(old, _request())
    assert fleet.redeem(new, _request()).device == "kitchen"


def test_an_unknown_token_and_one_that_is_late_are_told_apart(fleet: Fleet) -> None:
    """The second is told to who has it; it cannot be guessed."""
    with pytest.raises(RefusedError, match="is none of this fleet"):
        fleet.redeem("x" * 43, _request())
    token = invitations.invite(fleet, [Wanted("kitchen", PI)], seconds=1e-6)[0]
    with pytest.raises(RefusedError, match="has expired"):
        fleet.redeem(token, _request())


def test_a_known_device_joins_again_only_where_that_is_asked_for(fleet: Fleet) -> None:
    """Its labels stay; what it had counts until the new board has joined, and then no more."""
    fleet.enroll("kitchen", PI, labels={"site": "lyon"}, groups=["ground"])
    with pytest.raises(InputError, match="is enrolled"):
        _invite(fleet)
    token = _invite(fleet, replace=True)
    identity = fleet.open_identity()
    assert [one.revoked for one in identity.certificates("kitchen")] == [None]
    config = fleet.redeem(token, _request())
    assert (config.labels, config.groups) == ({"site": "lyon"}, ["ground"])
    old, new = fleet.open_identity().certificates("kitchen")
    assert old.revoked is not None
    assert new.revoked is None
    assert new.pem == (config.mqtt.tls and config.mqtt.tls.certificate)


def test_of_many_devices_all_are_invited_or_none(fleet: Fleet) -> None:
    """The last one's name is taken."""
    fleet.enroll("d9", PI)
    wanted = [Wanted(f"d{number}", PI) for number in range(10)]
    with pytest.raises(InputError, match="d9 is enrolled"):
        invitations.invite(fleet, wanted, seconds=60)
    assert invitations.every(fleet) == []
    assert len(set(invitations.invite(fleet, wanted[:9], seconds=60))) == 9


def test_a_registry_of_an_earlier_version_keeps_its_tokens(tmp_path: Path) -> None:
    """Columns that it lacks are added, and what is in it counts."""
    path = tmp_path / "identity.db"
    with sqlite3.connect(path) as old:
        old.execute(
            "CREATE TABLE tokens (hash TEXT PRIMARY KEY, profile TEXT NOT NULL, "
            "expires REAL NOT NULL, used REAL) STRICT"
        )
        old.execute(
            "INSERT INTO tokens VALUES (?, ?, 100.0, NULL)",
            ("ab" * 32, '{"device": "d1", "board": "b"}'),
        )
    old.close()
    with Registry(path).transaction() as transaction:
        (found,) = transaction.tokens()
        assert (found.profile.device, found.state(50), found.state(150)) == (
            "d1", "open", "expired",
        )  # fmt: skip
        assert transaction.take_token("ab" * 32, 50) is not None


def test_the_line_carries_the_fingerprint_and_no_token_for_all_to_read(fleet: Fleet) -> None:
    """The token goes through a pipe, not into a command line of its own program."""
    token = _invite(fleet)
    line = command.line(fleet, token)
    der = installer.authority(fleet)
    assert hashlib.sha256(der).hexdigest() in line
    assert f'"{api_url(fleet.config)}"' in line
    before, _, after = line.partition("|")
    assert before == f"echo {token} "
    assert token not in after
    for each in ("`", "$", "!", "\n"):
        assert each not in line
    compile(after.split("'")[1], "line", "exec")


def test_the_installer_is_read_by_old_pythons_and_knows_its_fleet(fleet: Fleet) -> None:
    """It is no secret: nothing but the fleet's address, its authority and the unit is in it."""
    import ast

    text = installer.render(fleet)
    tree = ast.parse(text, feature_version=(3, 6))
    values = {
        node.targets[0].id: ast.literal_eval(node.value)  # type: ignore[attr-defined]
        for node in tree.body[:3]
        if isinstance(node, ast.Assign)
    }
    assert values["URL"] == fleet.api_url
    assert "BEGIN CERTIFICATE" in values["CA"]
    assert "ExecStart=/opt/shoal/" in values["UNIT"]
    assert "PRIVATE KEY" not in text


def test_the_line_fits_a_qr_code(fleet: Fleet) -> None:
    """In the terminal and on a page."""
    line = command.line(fleet, _invite(fleet))
    assert len(command.qr(line).splitlines()) > 20
    assert command.qr_svg(line).startswith("<svg")
