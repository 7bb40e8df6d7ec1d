"""Backups are whole while the controller writes, on both databases."""

from __future__ import annotations

import io
import shutil
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.trust.client import Trust
from contracts.desired import Desired, DesiredBundle
from contracts.errors import InputError, RefusedError
from fleet.backup import backup, restore
from fleet.cli.app import app
from fleet.folder import Fleet, FleetConfig
from fleet.repository import delegation
from fleet.store import bundles, desired, devices, tokens
from tests.fleet.repository.test_delegation import Publisher
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
    with restored.own.access() as access:
        assert (list(access.groups), access.denied) == (["d1"], ["d2"])
    names = {path.name for path in restored.folder.iterdir()}
    assert "identity.db" in names
    assert not names & {"identity.db.tmp"}


@pytest.fixture
def old_state(tmp_path: Path) -> tuple[Fleet, Trust]:
    """A fleet restored from a backup, and a device that saw two publications after it."""
    return _restored_behind(tmp_path, lambda fleet: None)


def _restored_behind(tmp_path: Path, before: Callable[[Fleet], None]) -> tuple[Fleet, Trust]:
    fleet = Fleet.init(tmp_path / "fleet", FleetConfig("home"))
    fleet.publish(noise_bundle(tmp_path / "b1").path)
    before(fleet)
    backup(fleet, tmp_path / "backup.tar.gz")
    if not list(fleet.keys_folder.glob("targets-*.pem")):
        for key in (tmp_path / "stick").iterdir():
            shutil.copy2(key, fleet.keys_folder)
    trust = _device(fleet, tmp_path)
    for number in (2, 3):
        bundle = noise_bundle(tmp_path / f"b{number}", version=f"{number}.0.0", seed=number)
        ref, _ = fleet.publish(bundle.path)
    assert trust.manifest(ref)
    runner = CliRunner()
    done = runner.invoke(
        app, ["fleet", "restore", str(tmp_path / "backup.tar.gz"), str(tmp_path / "again")]
    )
    assert done.exit_code == 0, done.output
    (tmp_path / "output").write_text(done.output)
    return Fleet.open(tmp_path / "again"), _device(Fleet.open(tmp_path / "again"), tmp_path)


def _device(fleet: Fleet, tmp_path: Path) -> Trust:
    repository = fleet.open_repository()
    return Trust(
        tmp_path / "trust",
        repository.root,
        lambda path, cap: repository.read(path, 0, cap + 1).data,
        clock=time.time,
    )


def test_devices_that_saw_a_newer_state_accept_a_restored_fleet_and_what_it_publishes_next(
    old_state: tuple[Fleet, Trust], tmp_path: Path
) -> None:
    """The versions are above what was signed after the backup; the release counter, too."""
    fleet, trust = old_state
    first = fleet.open_repository().find("noise", "1.0.0")
    assert trust.newest(first)
    ref, release = fleet.publish(noise_bundle(tmp_path / "b4", version="4.0.0", seed=4).path)
    assert trust.newest(ref)
    assert release > 3
    assert fleet.open_repository().metadata.root_version() == 1
    fleet.open_repository().resign(force=True)
    trust.refresh()


def test_a_second_restore_of_the_same_backup_is_above_the_first(
    old_state: tuple[Fleet, Trust], tmp_path: Path
) -> None:
    """A device follows from one to the other."""
    fleet, trust = old_state
    ref = fleet.open_repository().find("noise", "1.0.0")
    assert trust.newest(ref)
    time.sleep(1.1)  # versions are seconds
    again = restore(tmp_path / "backup.tar.gz", tmp_path / "third")
    assert _device(again, tmp_path).newest(ref)


def test_restoring_without_the_targets_key_says_what_to_run_and_devices_accept_it_then(
    tmp_path: Path,
) -> None:
    """The key signs above the floor, though it comes later."""

    def lock_away(fleet: Fleet) -> None:
        (tmp_path / "stick").mkdir()
        for key in fleet.keys_folder.glob("targets-*"):
            key.rename(tmp_path / "stick" / key.name)

    fleet, trust = _restored_behind(tmp_path, lock_away)
    ref = fleet.open_repository().find("noise", "1.0.0")
    with pytest.raises(RefusedError) as error:
        trust.newest(ref)
    assert error.value.code == "rollback"
    output = (tmp_path / "output").read_text()
    assert f"shoal fleet keys resign --targets --dir {fleet.folder}" in output
    for key in (tmp_path / "stick").iterdir():
        shutil.copy2(key, fleet.keys_folder)
    command = ["fleet", "keys", "resign", "--targets", "--dir", str(fleet.folder)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert trust.newest(ref)


def test_restoring_names_the_publishers_whose_newest_files_devices_saw(tmp_path: Path) -> None:
    """What one signed since the backup is asked for; taken in again, devices go on."""
    publisher = Publisher(tmp_path / "kitchen")

    def take_in(fleet: Fleet, *versions: str) -> None:
        made = [publisher.bundle("kitchen-timer", version) for version in versions]
        delegation.take_in(fleet.open_repository(), publisher.sign(*made), made)

    def before(fleet: Fleet) -> None:
        repository = fleet.open_repository()
        delegation.delegate(repository, "kitchen", ["kitchen-*"], publisher.public)
        delegation.delegate(repository, "garage", ["garage-*"], Publisher(tmp_path / "g").public)
        take_in(fleet, "1.0.0")

    fleet, trust = _restored_behind(tmp_path, before)
    said = (tmp_path / "output").read_text()
    assert "kitchen (version 1), garage (version 0)" in " ".join(said.split())
    assert f"--signed ROLE.json --dir {fleet.folder}" in " ".join(said.split())
    own = fleet.open_repository().find("noise", "1.0.0")
    assert trust.newest(own), "it signed nothing since"

    take_in(Fleet.open(tmp_path / "fleet"), "2.0.0")
    time.sleep(1.1)  # versions are seconds
    lost = Fleet.open(tmp_path / "fleet").open_repository()
    lost.leap()
    assert _device(Fleet.open(tmp_path / "fleet"), tmp_path).newest(
        lost.find("kitchen-timer", "2.0.0")
    )
    time.sleep(1.1)
    again = restore(tmp_path / "backup.tar.gz", tmp_path / "third")
    trust = _device(again, tmp_path)
    with pytest.raises(RefusedError) as error:
        trust.newest(own)
    assert error.value.code == "rollback"
    (tmp_path / "newest.json").write_bytes(publisher.last or b"")
    words = [str(tmp_path / "kitchen/kitchen-timer-2.0.0-0"), "--signed"]
    words += [str(tmp_path / "newest.json"), "--dir", str(again.folder)]
    done = CliRunner().invoke(app, ["fleet", "publish", *words])
    assert done.exit_code == 0, done.output
    assert trust.newest(own)
    assert trust.newest(again.open_repository().find("kitchen-timer", "2.0.0"))


def test_a_restore_without_the_passphrase_of_the_keys_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them the versions cannot be raised; with it the restore works."""
    monkeypatch.setenv("SHOAL_PASSPHRASE", "correct")
    backup(Fleet.init(tmp_path / "fleet", FleetConfig("home")), tmp_path / "backup.tar.gz")
    monkeypatch.delenv("SHOAL_PASSPHRASE")
    with pytest.raises(InputError) as error:
        restore(tmp_path / "backup.tar.gz", tmp_path / "again")
    assert error.value.code == "key-locked"
    assert not (tmp_path / "again").exists()
    monkeypatch.setenv("SHOAL_PASSPHRASE", "correct")
    assert restore(tmp_path / "backup.tar.gz", tmp_path / "again").folder == tmp_path / "again"


def test_restored_desired_documents_are_sent_again_above_what_devices_took_since(
    tmp_path: Path,
) -> None:
    """Also the next document of a device for which nothing was desired."""
    fleet = Fleet.init(tmp_path / "fleet", FleetConfig("home"))
    ref, _ = fleet.publish(noise_bundle(tmp_path / "b1").path)
    store = fleet.open_store()
    with store.write() as connection:
        for name in ("d1", "d2"):
            devices.enroll(store, connection, name, "raspberry-pi-5", {}, [], 1.0)
        wanted = Desired(revision=7, slots={"classify": DesiredBundle(ref)}, at=1.0)
        desired.write(store, connection, [("d1", wanted, None)])
        desired.mark_sent(connection, [("d1", 7)])
    store.close()
    backup(fleet, tmp_path / "backup.tar.gz")
    began = int(time.time())
    store = restore(tmp_path / "backup.tar.gz", tmp_path / "again").open_store()
    with store.read() as connection:
        unsent = desired.unsent(connection, 10)
        idle = devices.get(connection, "d2")
        held = devices.get(connection, "d1").desired
    store.close()
    assert [(device, revision >= began) for device, revision, _ in unsent] == [("d1", True)]
    assert held is not None
    assert (held.revision, held.slots) == (unsent[0][1], wanted.slots)
    assert (idle.desired, idle.desired_revision >= began) == (None, True)
