"""Boards that join by their serial number: what is listed, once; a copy is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.certificates.device import new_request
from contracts.errors import InputError, ShoalError
from fleet.config import FleetConfig
from fleet.folder import Fleet
from fleet.identity import claims
from fleet.joining import serials, table
from tests.firmware_configs.test_join import installer

PI = "raspberry-pi-5"
ONE, TWO = "10000000abcd0001", "10000000abcd0002"
MACHINE, OTHER = "m" * 64, "o" * 64
TABLE = f"""serial,name,board,labels,group
{ONE.upper()},kitchen,{PI},site=lyon;floor=2,ground
{TWO},,{PI},,
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A fleet with an address."""
    folder = tmp_path_factory.mktemp("serials") / "home"
    return Fleet.init(folder, FleetConfig("home", host="fleet.example.org", mutual_tls=True))


@pytest.fixture
def fleet(made: Fleet) -> Fleet:
    """The same with the two boards alone on its list."""
    for one in serials.every(made):
        serials.remove(made, one.serial)
    serials.add(made, table.read(TABLE.encode(), serials=True))
    return made


def secret(fleet: Fleet) -> str:
    """The claim token of the line."""
    return serials.line(fleet, 60).split()[1]


def code(act: Callable[[], object]) -> str:
    """What refuses it."""
    with pytest.raises(ShoalError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return caught.value.code


def test_a_board_on_the_list_becomes_its_device_once(fleet: Fleet) -> None:
    """The same board gets the same token again; a copy, and what is not listed, get none."""
    claim = secret(fleet)
    assert claim.startswith(claims.PREFIX)
    token, device = serials.claim(fleet, claim, ONE.upper() + "\0", MACHINE)
    assert device == "kitchen"
    assert serials.claim(fleet, claim, ONE, MACHINE) == (token, "kitchen")
    with pytest.raises(ShoalError, match=f"{ONE} before, as kitchen: one of the two is a copy"):
        serials.claim(fleet, claim, ONE, OTHER)
    with pytest.raises(ShoalError, match="is not on the fleet's list"):
        serials.claim(fleet, claim, "10000000abcd9999", MACHINE)
    request = new_request(None)[1].encode()
    config = fleet.redeem(token, request)
    assert (config.device, config.labels, config.groups) == (
        "kitchen", {"site": "lyon", "floor": "2"}, ["ground"],
    )  # fmt: skip
    assert serials.claim(fleet, claim, ONE, MACHINE)[0] == token, "a broken line goes on"
    assert fleet.redeem(token, request) == config
    assert code(lambda: fleet.redeem(token, new_request(None)[1].encode())) == "bad-token"
    assert serials.claim(fleet, claim, TWO, OTHER)[1] == TWO, "called by its number"
    known = {one.serial: one for one in serials.every(fleet)}
    assert known[ONE].claimed is not None
    assert MACHINE not in repr(known), "its machine id is kept as a hash"
    assert code(lambda: serials.add(fleet, table.read(TABLE.encode(), serials=True))) == (
        "serial-taken"
    )
    fleet.open_identity().revoke("kitchen")


@pytest.mark.parametrize("token", ["", "x", "claim_" + "x" * 43, "claim_\ud800"])
def test_a_claim_token_that_is_none_claims_nothing(fleet: Fleet, token: str) -> None:
    """Neither does one that is out of date, nor a one-time token."""
    assert code(lambda: serials.claim(fleet, token, TWO, MACHINE)) == "bad-token"
    with fleet.open_identity().registry.transaction() as transaction:
        late = claims.new_secret(transaction, 1.0, 1.0)
    assert code(lambda: serials.claim(fleet, late, TWO, MACHINE)) == "bad-token"
    assert all(one.claimed is None for one in serials.every(fleet))


@pytest.mark.parametrize("serial", ["", "0" * 16, "abc", "a" * 65, "x y z 1", "é123", "../../etc"])
def test_what_is_no_serial_number_is_told_so(fleet: Fleet, serial: str) -> None:
    """Boards without one often say zeros, or nothing."""
    assert code(lambda: serials.claim(fleet, secret(fleet), serial, MACHINE)) == "bad-serial"


def test_a_table_with_faults_lists_nobody_and_tells_every_row(fleet: Fleet) -> None:
    """Numbers twice, none, wrong ones, and names that are taken."""
    text = (
        f"serial,name,board\n{ONE},a,{PI}\n{ONE.upper()},b,{PI}\n,c,{PI}\n0000,d,{PI}\n"
        f"{TWO},a,toaster\n"
    )
    with pytest.raises(InputError) as caught:
        table.read(text.encode(), serials=True)
    told = "\n".join(caught.value.info.detail["faults"])
    for row, what in (
        (3, f"serial {ONE} is in row 2"), (4, "is no serial number"), (5, "is no serial number"),
        (6, "unknown board"), (6, "a is in row 2"),
    ):  # fmt: skip
        assert any(f"row {row}: " in one and what in one for one in told.split("\n")), told
    with pytest.raises(InputError) as caught:
        table.read(b"name\nx\n", serials=True)
    assert "column 'serial' is needed" in str(caught.value.info.detail)
    fleet.enroll("taken", PI)
    rows = f"serial,name,board\n10000000abcd0003,new,{PI}\n10000000abcd0004,taken,{PI}\n"
    assert code(lambda: serials.add(fleet, table.read(rows.encode(), serials=True))) == (
        "already-enrolled"
    )
    assert [one.serial for one in serials.every(fleet)] == [ONE, TWO], "all or none"
    assert code(lambda: serials.remove(fleet, "nobody")) == "no-such-serial"


def test_a_board_reads_its_number_and_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the device tree, padded as it is there; a machine id never leaves as it is."""
    one = installer("https://fleet.example.org")
    asked: list[dict[str, str]] = []
    one.ask = lambda _, body: asked.append(body) or {"token": "t", "device": "kitchen"}
    one.SERIALS = (str(tmp_path / "none"), str(tmp_path / "serial"))
    one.MACHINE = str(tmp_path / "machine-id")
    with pytest.raises(one.Stop, match="echo TOKEN SERIAL"):
        one.claim("claim_x", "")
    (tmp_path / "serial").write_bytes(b"10000000ABCD0001\0")
    with pytest.raises(one.Stop, match="systemd-machine-id-setup"):
        one.claim("claim_x", "")
    (tmp_path / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    assert one.claim("claim_x", "") == "t"
    assert one.claim("claim_x", "mine-1") == "t"
    assert [body["serial"] for body in asked] == ["10000000ABCD0001", "mine-1"]
    assert "0123456789abcdef" not in str(asked)
    assert len(asked[0]["machine"]) == 64
