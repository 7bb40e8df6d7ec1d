"""What a later version wrote is refused in one line, which says what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from contracts import __version__, codec
from contracts.errors import InputError, RefusedError, UnavailableError
from contracts.manifest import Manifest
from fleet.cli.app import app
from fleet.folder import CONFIG, Fleet, FleetConfig
from fleet.identity.registry import Registry
from fleet.store import Store
from fleet.store.schema import WRITTEN_BY


def _upgraded(store: Store, *, told: bool = True) -> None:
    """As a later version leaves the database behind."""
    with store.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9990'"))
        if told:
            connection.execute(WRITTEN_BY.insert().values(schema="9990", program="3.1.4", at=2e9))
        else:
            connection.execute(sa.text("DROP TABLE written_by"))


def test_a_newer_database_says_which_version_wrote_it_and_what_to_do(store: Store) -> None:
    """And stays as it is, so that the newer version goes on with it."""
    _upgraded(store)
    for use in (store.migrate, store.check, store.refuse_newer):
        with pytest.raises(RefusedError, match=r"Shoal 3\.1\.4.*install that version") as caught:
            use()
        assert caught.value.code == "newer-database"
        assert "\n" not in str(caught.value)
    assert store.revision()[0] == "9990"


def test_a_newer_database_that_tells_less_is_refused_as_well(store: Store) -> None:
    """A later version may keep its word elsewhere."""
    _upgraded(store, told=False)
    with pytest.raises(RefusedError, match=r"a newer version of Shoal"):
        store.migrate()


def test_a_database_tells_which_version_wrote_it(store: Store) -> None:
    """Once for each schema, however often it is opened."""
    store.migrate()
    with store.read() as connection:
        rows = connection.execute(sa.select(WRITTEN_BY)).all()
    assert [(row.schema, row.program) for row in rows] == [(store.revision()[1], __version__)]


def _message(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["fleet", *arguments])
    assert done.exit_code in (1, 2)
    assert isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output
    return " ".join(done.output.split())


def test_commands_on_a_newer_database_end_with_one_message(tmp_path: Path) -> None:
    """Whatever they would have done with it."""
    fleet = Fleet.init(tmp_path / "f", FleetConfig("home"))
    store = fleet.open_store(migrate=True)
    _upgraded(store)
    store.close()
    folder = ("--dir", str(fleet.folder))
    for command in (
        ("serve", *folder),
        ("enroll", "kitchen", "--board", "raspberry-pi-5", *folder),
        ("audit", *folder),
        ("revoke", "kitchen", *folder),
    ):
        assert "3.1.4" in _message(*command), command


def test_a_newer_folder_says_so(tmp_path: Path) -> None:
    """Though its settings have names that nobody knows here."""
    fleet = Fleet.init(tmp_path / "f", FleetConfig("home"))
    file = fleet.folder / CONFIG
    file.write_text("unheard_of: {of: 1}\nschema: 7\n" + file.read_text())
    with pytest.raises(InputError, match=r"schema 7.*install a newer version") as caught:
        Fleet.open(fleet.folder)
    assert caught.value.code == "newer-format"
    assert "newer version" in _message("devices", "--dir", str(fleet.folder))


def test_a_newer_bundle_says_so() -> None:
    """A device and a controller read the same."""
    text = b'{"later": [], "schema": 99, "name": "x"}'
    with pytest.raises(InputError, match=r"manifest\.json has schema 99"):
        codec.decode(text, Manifest, what="manifest.json")
    for other in (b'{"schema": 1}', b'{"schema": "99"}', b'{"schema": true}', b'["schema"]'):
        with pytest.raises(InputError, match="not valid"):
            codec.decode(other, Manifest, what="manifest.json")


def test_a_registry_of_devices_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """One of a later version, one that is no database."""
    path = tmp_path / "identity.db"
    Registry(path)
    Registry(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(RefusedError, match=r"schema 99"):
        Registry(path)
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(UnavailableError, match="restore it from a backup"):
        Registry(path)
