"""Backups are whole while the controller writes, on both databases."""

from __future__ import annotations

import io
import shutil
import tarfile
import threading
from pathlib import Path

import pytest

from contracts.errors import InputError
from fleet.backup import backup, restore
from fleet.folder import Fleet, FleetConfig
from fleet.store import bundles, tokens
from tests.support.bundles import noise_bundle


@pytest.fixture
def fleet(database_url: str, tmp_path: Path) -> Fleet:
    """A fleet with one published bundle."""
    fleet = Fleet.init(tmp_path / "fleet", FleetConfig("home", database=database_url))
    fleet.publish(noise_bundle(tmp_path / "b1").path)
    return fleet


def test_a_backup_taken_while_others_write_is_whole(fleet: Fleet, tmp_path: Path) -> None:
    """Every bundle that the copy of the database names is in the copy of the repository."""
    stop = threading.Event()

    def write() -> None:
        store = fleet.open_store()
        number = 0
        while not stop.is_set():
            number += 1
            with store.write() as connection:
                tokens.create(connection, f"t{number}", "viewer", 1.0)
        store.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        size = backup(fleet, tmp_path / "backup.tar.gz")
    finally:
        stop.set()
        thread.join()
    archive = tmp_path / "backup.tar.gz"
    assert archive.stat().st_size == size
    assert archive.stat().st_mode & 0o777 == 0o600
    store = fleet.open_store()
    if not store.is_sqlite:
        with store.write() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    else:
        Path(str(store.url.database)).unlink()
    store.close()
    token = fleet.token_file.read_text()
    shutil.rmtree(fleet.folder)
    again = restore(archive, tmp_path / "again")
    store = again.open_store()
    store.check()
    with store.read() as connection:
        names = {published.ref for published in bundles.every(connection)}
        assert tokens.check(connection, token.strip(), 1.0) is not None
    assert names == set(again.open_repository().bundles())
    store.close()
    assert again.token_file.stat().st_mode & 0o777 == 0o600
    again.open_repository().resign(force=True)


def test_a_backup_never_overwrites(fleet: Fleet, tmp_path: Path) -> None:
    """An existing file stays as it is."""
    target = tmp_path / "b.tar.gz"
    target.write_text("mine")
    with pytest.raises(InputError) as error:
        backup(fleet, target)
    assert error.value.code == "file-exists"
    assert target.read_text() == "mine"


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "text", "foreign", "outside"])
def test_what_is_no_backup_is_refused_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    """One clear error, and no half-restored folder."""
    source = tmp_path / "x.tar.gz"
    if kind == "empty":
        source.write_bytes(b"")
    elif kind == "text":
        source.write_text("hello")
    elif kind != "missing":
        with tarfile.open(source, "w:gz") as tar:
            name = {"foreign": "etc/passwd", "outside": "keys/../../x"}.get(kind, "fleet.yaml")
            entry = tarfile.TarInfo(name)
            data = b"schema: 1\nfleet: home\n"
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        if kind == "cut":
            source.write_bytes(source.read_bytes()[:40])
    with pytest.raises(InputError):
        restore(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir()] in ([], ["x.tar.gz"])


def test_a_backup_holds_who_is_enrolled_and_who_is_revoked(tmp_path: Path) -> None:
    """Also what the authority's database had not yet written into its main file."""
    fleet = Fleet.init(tmp_path / "fleet", FleetConfig("home"))
    identity = fleet.open_identity()
    fleet.enroll("d1", "raspberry-pi-5")
    fleet.enroll("d2", "raspberry-pi-5")
    identity.revoke("d2")
    backup(fleet, tmp_path / "backup.tar.gz")
    restored = restore(tmp_path / "backup.tar.gz", tmp_path / "again").open_identity()
    assert (list(restored.groups()), restored.revoked_devices()) == (["d1"], ["d2"])
    names = {path.name for path in restored.folder.iterdir()}
    assert "identity.db" in names
    assert not names & {"identity.db.tmp"}
