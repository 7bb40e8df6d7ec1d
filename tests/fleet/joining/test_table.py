"""Many devices at once: a table is taken whole or not at all, with every fault and its row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from contracts.errors import InputError
from fleet.cli.app import app
from fleet.folder import Fleet
from fleet.joining import invitations, table
from fleet.joining.invitations import Wanted

GOOD = """name,board,labels,group
kitchen,raspberry-pi-5,site=lyon;floor=2,ground
cellar,jetson-orin-nano,,"ground;cold"
"""


def _faults(text: str, board: str | None = None) -> list[str]:
    with pytest.raises(InputError) as found:
        table.read(text.encode(), board)
    faults: list[str] = found.value.info.detail["faults"]
    return faults


def test_a_table_gives_devices_with_labels_and_groups() -> None:
    """Cells of several parts are parted by semicolons; a spreadsheet's own form is read too."""
    wanted = [
        Wanted("kitchen", "raspberry-pi-5", {"site": "lyon", "floor": "2"}, ["ground"]),
        Wanted("cellar", "jetson-orin-nano", {}, ["ground", "cold"]),
    ]
    assert table.read(GOOD.encode()) == wanted
    assert table.read(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()) == wanted
    semicolons = "Name;Board;Labels\nkitchen;raspberry-pi-5;site=lyon\n"
    assert table.read(semicolons.encode())[0].labels == {"site": "lyon"}
    assert table.read(b"name\nkitchen\n", "raspberry-pi-4")[0].board == "raspberry-pi-4"


def test_every_fault_is_told_at_once_with_its_row() -> None:
    """One look is enough to mend a table."""
    faults = _faults(
        "name,board,labels,group\n"
        "a/b,raspberry-pi-5,,\n"
        "ok,raspberry-pi-5,,\n"
        "ok,toaster,nothing,\n"
        ",raspberry-pi-5,,\n"
        "chip,esp32-s3,,\n"
        "controller,raspberry-pi-5,,g/h,more\n"
        "bare,,,\n"
    )
    told = "\n".join(faults)
    for row, what in (
        (2, "a/b"),
        (4, "unknown board 'toaster'"),
        (4, "label 'nothing' is not key=value"),
        (4, "ok is in row 3 already"),
        (5, ""),
        (6, "runs no Linux"),
        (7, "more cells than columns"),
        (8, "no board"),
    ):
        assert any(one.startswith(f"row {row}: ") and what in one for one in faults), (row, told)
    assert not any(one.startswith("row 3:") for one in faults), told


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a column 'name' is needed"),
        ("name,board\n", "a column 'name' is needed"),
        ("name,colour\nkitchen,red\n", "no column 'colour'"),
        ("board\nraspberry-pi-5\n", "a column 'name' is needed"),
    ],
)
def test_a_table_without_devices_or_with_other_columns_is_refused(text: str, says: str) -> None:
    """What is not known is not passed over."""
    assert any(says in fault for fault in _faults(text))


def test_what_is_no_text_is_one_error() -> None:
    """A spreadsheet's own file, or another encoding."""
    for data in (b"PK\x03\x04\xff\xfe", "name\nk\xfcche\n".encode("latin-1")):
        with pytest.raises(InputError, match="UTF-8"):
            table.read(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_devices_or_one_error(data: bytes) -> None:
    """Nothing else comes out of a table."""
    try:
        assert table.read(data)
    except InputError as error:
        assert error.code == "bad-table"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A fleet with an address."""
    done = CliRunner().invoke(
        app, ["fleet", "init", str(tmp_path / "home"), "--host", "fleet.example.org"]
    )
    assert done.exit_code == 0, done.stderr
    return tmp_path / "home"


def test_a_table_with_a_fault_enrols_nobody(home: Path, tmp_path: Path) -> None:
    """Neither the rows before it nor those after it; a device that is there is a fault too."""
    file = tmp_path / "devices.csv"
    command = ["fleet", "enroll", "--csv", str(file), "--dir", str(home)]
    file.write_text(GOOD + "x/y,raspberry-pi-5,,\n")
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "row 4: " in done.stderr
    assert "nothing was enrolled: the table has 1 fault(s) [bad-table]" in done.stderr.replace(
        "error: ", ""
    )
    fleet = Fleet.open(home)
    assert invitations.every(fleet) == []
    fleet.enroll("cellar", "jetson-orin-nano")
    file.write_text(GOOD)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "cellar is enrolled" in done.stderr
    assert invitations.every(fleet) == []


def test_a_table_gives_a_line_a_device(home: Path, tmp_path: Path) -> None:
    """For people below each other's names, and as JSON; each with a token of its own."""
    file = tmp_path / "devices.csv"
    file.write_text(GOOD)
    command = ["fleet", "enroll", "--csv", str(file), "--dir", str(home)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "# kitchen" and lines[2] == "# cellar"
    assert lines[1] != lines[3]
    listed = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["devices"]
    assert [one["device"] for one in listed] == ["kitchen", "cellar"]
    assert len({one["token"] for one in listed}) == 2
    # The lines that were made first count no more: who has one of them enrols nobody.
    states = [one.state(0) for one in invitations.every(Fleet.open(home))]
    assert sorted(states) == ["open", "open", "revoked", "revoked"]


def test_many_devices_get_numbers(home: Path) -> None:
    """And the labels and groups that are given for all of them."""
    command = ["fleet", "enroll", "sensor", "--count", "12", "--board", "raspberry-pi-4"]
    done = CliRunner().invoke(app, [*command, "--label", "site=lyon", "--json", "--dir", str(home)])
    assert done.exit_code == 0, done.stderr
    listed = json.loads(done.stdout)["devices"]
    assert [one["device"] for one in listed][::11] == ["sensor-001", "sensor-012"]
    profiles = [one.profile for one in invitations.every(Fleet.open(home))]
    assert {tuple(one.labels.items()) for one in profiles} == {(("site", "lyon"),)}
