"""Signing on another machine by its commands, and what a holder is shown before it signs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fleet.cli.app import app
from fleet.folder import Fleet, FleetConfig
from fleet.store import audit, bundles
from tests.support.bundles import noise_bundle

RUN = CliRunner()


def shoal(*arguments: object, answer: str = "") -> str:
    """Runs ``shoal fleet``; returns what it printed, errors too."""
    done = RUN.invoke(app, ["fleet", *map(str, arguments)], input=answer)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments: object, answer: str = "") -> str:
    """Runs what must fail; returns what it printed."""
    done = RUN.invoke(app, ["fleet", *map(str, arguments)], input=answer)
    assert done.exit_code not in (0, None), done.output
    assert not done.exception or isinstance(done.exception, SystemExit)
    return done.output


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """A fleet that lets ``kitchen`` sign, with the targets key put away."""
    fleet = Fleet.init(tmp_path / "fleet", FleetConfig("home"))
    keys = tmp_path / "kitchen"
    made = json.loads(shoal("keys", "new", "kitchen", "--keys", keys, "--json"))
    shoal(
        "keys", "delegate", "kitchen", "--pattern", "kitchen-*", "--public", made["public"],
        "--dir", fleet.folder,
    )  # fmt: skip
    for role in ("root", "targets"):
        for key in fleet.keys_folder.glob(f"{role}-*"):
            key.rename(tmp_path / key.name)
    return fleet


def indexed(fleet: Fleet) -> dict[str, bool]:
    """Bundles in the index, and whether they are withdrawn."""
    store = fleet.open_store()
    with store.read() as connection:
        found = {str(one.ref): one.withdrawn for one in bundles.every(connection)}
    store.close()
    return found


def entries(fleet: Fleet) -> list[tuple[str, str, dict[str, Any]]]:
    """The audit log: action, outcome, detail."""
    store = fleet.open_store()
    with store.read() as connection:
        found, _ = audit.page(connection, None, 100)
    store.close()
    return [(one.action, one.outcome, one.detail) for one in found]


def test_a_publisher_signs_and_the_controller_takes_it_in(fleet: Fleet, tmp_path: Path) -> None:
    """The commands of both, and what each is told."""
    keys, bundle = tmp_path / "kitchen", noise_bundle(tmp_path / "b", name="kitchen-timer")
    shown = shoal("sign", bundle.path, "--role", "kitchen", "--keys", keys, answer="y\n")
    assert "version none -> 1" in shown
    assert "appears: bundle kitchen-timer 1.0.0, release 1" in shown
    signed = keys / "kitchen.json"
    told = shoal("publish", bundle.path, "--signed", signed, "--dir", fleet.folder)
    assert "Published kitchen-timer 1.0.0, signed by kitchen" in told
    assert indexed(fleet) == {str(bundle.ref): False}
    assert ("bundle.publish", "done") in [(a, o) for a, o, _ in entries(fleet)]
    withdraw = ("--withdraw", "kitchen-timer:1.0.0", "--role", "kitchen", "--keys", keys, "--yes")
    assert "disappears: bundle kitchen-timer 1.0.0" in shoal("sign", *withdraw)
    told = shoal("publish", "--signed", signed, "--dir", fleet.folder)
    assert "Withdrew kitchen-timer 1.0.0, signed by kitchen" in told
    assert indexed(fleet) == {str(bundle.ref): True}
    assert "kitchen: kitchen-*; 1 of 1 keys; version 2" in shoal(
        "keys", "delegated", "--dir", fleet.folder
    )


@pytest.mark.parametrize("answer", ["n\n", ""], ids=["no", "nobody there"])
def test_nothing_is_signed_without_a_yes(fleet: Fleet, tmp_path: Path, answer: str) -> None:
    """Also when nobody can answer."""
    keys, bundle = tmp_path / "kitchen", noise_bundle(tmp_path / "b", name="kitchen-timer")
    error = refused("sign", bundle.path, "--role", "kitchen", "--keys", keys, answer=answer)
    assert "nothing was signed" in error
    assert not (keys / "kitchen.json").exists()


def test_what_is_refused_is_in_the_audit_log(fleet: Fleet, tmp_path: Path) -> None:
    """With its reason, and the index stays as it was."""
    keys, bundle = tmp_path / "kitchen", noise_bundle(tmp_path / "b", name="garage-door")
    shoal("sign", bundle.path, "--role", "kitchen", "--keys", keys, "--yes")
    error = refused(
        "publish", bundle.path, "--signed", keys / "kitchen.json", "--dir", fleet.folder
    )
    assert "may sign kitchen-* alone" in error
    assert ("bundle.publish", "outside-pattern") in [(a, o) for a, o, _ in entries(fleet)]
    assert indexed(fleet) == {}


def test_taking_the_right_away_withdraws_what_was_signed(fleet: Fleet, tmp_path: Path) -> None:
    """In the index too, with an entry that names the bundles."""
    keys, bundle = tmp_path / "kitchen", noise_bundle(tmp_path / "b", name="kitchen-timer")
    shoal("sign", bundle.path, "--role", "kitchen", "--keys", keys, "--yes")
    shoal("publish", bundle.path, "--signed", keys / "kitchen.json", "--dir", fleet.folder)
    error = refused("withdraw", "kitchen-timer", "1.0.0", "--dir", fleet.folder)
    assert "is signed by kitchen" in error
    undelegate = ("keys", "undelegate", "kitchen", "--dir", fleet.folder)
    assert "signing targets needs" in refused(*undelegate)
    assert "1 bundles" in shoal(*undelegate, "--keys", tmp_path_with_online(fleet, tmp_path))
    assert indexed(fleet) == {str(bundle.ref): True}
    (found,) = [d for a, o, d in entries(fleet) if (a, o) == ("keys.undelegate", "done")]
    assert found["withdrawn"] == ["kitchen-timer 1.0.0"]


def tmp_path_with_online(fleet: Fleet, stick: Path) -> Path:
    """A stick with the offline keys, beside which the online ones are."""
    for key in fleet.keys_folder.iterdir():
        (stick / key.name).write_bytes(key.read_bytes())
        (stick / key.name).chmod(0o600)
    return stick


def test_a_second_holder_is_shown_what_it_signs(fleet: Fleet, tmp_path: Path) -> None:
    """A role with a threshold of two; the second needs no fleet, and compares with any file."""
    other = tmp_path / "other"
    shoal("keys", "new", "kitchen", "--keys", other)
    publics = [*(tmp_path / "kitchen").glob("*.pub"), *other.glob("*.pub")]
    shoal(
        "keys", "delegate", "kitchen", "--pattern", "kitchen-*", "--threshold", 2, "--keys",
        tmp_path_with_online(fleet, tmp_path), "--dir", fleet.folder,
        *(part for public in publics for part in ("--public", public)),
    )  # fmt: skip
    bundle, signed = noise_bundle(tmp_path / "b", name="kitchen-timer"), tmp_path / "out.json"
    shoal(
        "sign", bundle.path, "--role", "kitchen", "--keys", tmp_path / "kitchen", "--out", signed,
        "--yes",
    )  # fmt: skip
    publish = ("publish", bundle.path, "--signed", signed, "--dir", fleet.folder)
    assert "signed by 1 of the 2 keys" in refused(*publish)
    sign = ("keys", "sign", signed, "--keys", other, "--dir", tmp_path / "nowhere")
    assert "nothing was signed" in refused(*sign, answer="n\n")
    assert "signed by 1 of the 2 keys" in refused(*publish)
    shown = shoal(*sign, answer="y\n")
    assert "appears: bundle kitchen-timer 1.0.0" in shown
    shoal(*publish)


def test_a_holder_of_root_is_shown_what_a_draft_changes(fleet: Fleet, tmp_path: Path) -> None:
    """Keys and thresholds, before the key is used."""
    draft, spare = tmp_path / "draft.json", tmp_path / "spare"
    shoal("keys", "new", "root", "--keys", spare)
    (public,) = spare.glob("*.pub")
    shoal(
        "keys", "propose", "root", draft, "--keep", "--add", 0, "--public", public, "--threshold",
        2, "--dir", fleet.folder,
    )  # fmt: skip
    before = draft.read_bytes()
    sign = ("keys", "sign", draft, "--keys", spare, "--dir", fleet.folder)
    shown = refused(*sign, answer="n\n")
    assert "root: 1 -> 2 of 2 keys must sign" in shown
    assert "is added" in shown
    assert draft.read_bytes() == before
    shoal(*sign, "--yes")
    assert draft.read_bytes() != before


@pytest.mark.parametrize("noise", [b"", b"{}", b"\xff" * 100, b"[" * 10_000])
def test_a_file_that_is_no_metadata_is_one_clear_error(
    fleet: Fleet, tmp_path: Path, noise: bytes
) -> None:
    """For each command that reads one."""
    file = tmp_path / "noise.json"
    file.write_bytes(noise)
    for command in (
        ("publish", "--signed", file, "--dir", fleet.folder),
        ("keys", "sign", file, "--keys", tmp_path / "kitchen", "--yes", "--dir", fleet.folder),
        ("sign", "--role", "kitchen", "--keys", tmp_path / "kitchen", "--current", file, "--yes"),
    ):
        assert refused(*command).count("error:") == 1
