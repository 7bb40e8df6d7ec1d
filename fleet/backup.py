"""Backups of a fleet, consistent while the controller runs.

A backup is a tar file (gzip): ``fleet.yaml``, ``keys/``, ``ca/``, ``repository/``, ``tokens/``,
and the database: SQLite through its online backup API, PostgreSQL through ``pg_dump``. The
database is copied first: every bundle that it names is then in the repository, whose files are
written before the database names them. It holds private keys: mode 0600, keep it safe.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import sqlalchemy as sa
import yaml

from contracts import limits
from contracts.errors import InputError, UnavailableError
from contracts.files import typed
from fleet import durable
from fleet.folder import CONFIG, Fleet
from fleet.repository.delegation import every
from fleet.store import Store, audit, desired, ownership

_PARTS: Final = (CONFIG, "keys", "ca", "repository", "tokens")
_SQLITE: Final = "state.db"
_REGISTRY: Final = "identity.db"
"""The authority's database: copied as a database, not as files that change meanwhile."""

_DUMP: Final = "state.pgdump"
_MAX_BYTES: Final = 64 * 1024 * limits.MIB


def backup(fleet: Fleet, target: Path) -> int:
    """Writes a backup.

    Args:
        fleet: the fleet.
        target: the file; it must not exist.

    Returns:
        Its size in bytes.

    Raises:
        InputError: ``file-exists``.
        UnavailableError: the database cannot be copied now.
    """
    if target.exists():
        raise InputError("file-exists", f"{target} exists: name another file")
    durable.make_folder(target.absolute().parent)
    with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".backup-") as folder:
        work = Path(folder)
        copy = _copy_database(fleet, work)
        registry = work / _REGISTRY
        _copy_sqlite(fleet.folder / "ca" / _REGISTRY, registry)
        archive = work / "backup.tar.gz"
        with _private(archive) as stream, tarfile.open(fileobj=stream, mode="w:gz") as tar:
            tar.add(copy, copy.name)
            with fleet.open_repository().locked():
                for name in _PARTS:
                    tar.add(fleet.folder / name, name, filter=_plain)
                tar.add(registry, f"ca/{_REGISTRY}")
        size = archive.stat().st_size
        try:
            os.link(archive, target)
        except FileExistsError:
            raise InputError("file-exists", f"{target} exists: name another file") from None
        durable.sync_folder(target.absolute().parent)
    return size


@contextlib.contextmanager
def _private(path: Path) -> Iterator[BinaryIO]:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Regular files and folders; not what is being written, nor lock files."""
    name = Path(entry.name).name
    hidden = name.startswith((".", _REGISTRY)) or name.endswith(".tmp")
    return entry if (entry.isfile() or entry.isdir()) and not hidden else None


def _copy_database(fleet: Fleet, work: Path) -> Path:
    store = Store(fleet.database_url)
    try:
        if store.is_sqlite:
            path = Path(str(store.url.database))
            copy = work / _SQLITE
            _copy_sqlite(path, copy)
            return copy
        copy = work / _DUMP
        _postgres("pg_dump", store.url, "--format=custom", "--no-owner", f"--file={copy}")
        return copy
    except sqlite3.Error as error:
        raise UnavailableError("database", f"the database cannot be copied: {error}") from None
    finally:
        store.close()


def _copy_sqlite(path: Path, copy: Path) -> None:
    try:
        with (
            contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source,
            contextlib.closing(sqlite3.connect(copy)) as sink,
        ):
            source.backup(sink)
    except sqlite3.Error as error:
        raise UnavailableError("database", f"{path} cannot be copied: {error}") from None


def _postgres(program: str, url: sa.URL, *arguments: str) -> None:
    found = shutil.which(program)
    if found is None:
        raise UnavailableError("no-postgresql-client", f"{program} is not installed")
    # The password goes through the environment: arguments can be read by other users.
    environment = dict(os.environ)
    if url.password:
        environment["PGPASSWORD"] = str(url.password)
    command = [found, *arguments, f"--dbname={url.database}"]
    for option, value in (("host", url.host), ("port", url.port), ("username", url.username)):
        if value:
            command.append(f"--{option}={value}")
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise UnavailableError("database", f"{program} failed: {lines[-1][:300]}")


def restore(
    source: Path,
    folder: Path,
    *,
    tell: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.time,
) -> Fleet:
    """Makes a fleet's folder from a backup: all of it, or nothing.

    A SQLite database comes back inside the folder. A PostgreSQL database is restored into the
    database that the backup's ``fleet.yaml`` names, which must be empty.

    What was signed and desired after the backup is lost, but devices saw it: the versions of
    the signed metadata and the revisions of desired documents are raised above it, and every
    desired document is sent again (:meth:`Repository.leap`, :func:`fleet.store.desired.reissue`).

    Args:
        source: a file that :func:`backup` wrote.
        folder: a new one, or an empty one.
        tell: called with what is left to do by hand, a sentence each.
        clock: seconds since the epoch.

    Raises:
        InputError: ``no-such-file``, ``not-empty``, ``bad-backup``; ``key-locked``: the keys
            need their passphrase.
        UnavailableError: the database cannot be restored now.
    """
    if not source.is_file():
        raise InputError("no-such-file", f"{source}: no such backup")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("not-empty", f"{folder} is not an empty folder")
    parent = folder.absolute().parent
    durable.make_folder(parent)
    temporary = Path(tempfile.mkdtemp(dir=parent, prefix=f".{folder.name}."))
    try:
        _unpack(source, temporary)
        fleet = Fleet.open(temporary)
        _outrun(fleet, folder, tell)
        _name_publishers(fleet, folder, tell)
        dump = temporary / _DUMP
        if dump.exists():
            store = Store(fleet.database_url)
            try:
                _postgres(
                    "pg_restore", store.url, "--no-owner", "--exit-on-error",
                    "--single-transaction", str(dump),
                )  # fmt: skip
            finally:
                store.close()
            dump.unlink()
        if (temporary / _SQLITE).exists() and fleet.config.database:
            # The copy is inside the folder now, wherever the original was.
            config = msgspec.structs.replace(fleet.config, database="")
            text = yaml.safe_dump(msgspec.to_builtins(config), sort_keys=False)
            durable.write(temporary / CONFIG, text.encode(), mode=0o600)
        store = Fleet.open(temporary).open_store(migrate=True)
        try:
            with store.write() as connection:
                ownership.become_another(connection, clock())
                desired.reissue(connection, clock())
                audit.note_by(
                    connection, audit.local(), "fleet.restore", fleet.config.fleet, clock(),
                    source=str(source.absolute()),
                )  # fmt: skip
        finally:
            store.close()
        for name in ("devices", "broker"):
            durable.make_folder(temporary / name, 0o700)
        temporary.replace(folder)
        durable.sync_folder(parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    restored = Fleet.open(folder)
    restored.write_broker_configuration()
    return restored


def _outrun(fleet: Fleet, folder: Path, tell: Callable[[str], None]) -> None:
    """Raises the signed versions; says what the keys at hand cannot do."""
    try:
        signed = fleet.open_repository().leap()
    except InputError as error:
        if error.code != "key-missing":
            raise
        tell(
            "The backup lacks the online keys: devices refuse what was restored. With the root "
            f"key at hand, run `shoal fleet keys rotate snapshot --dir {typed(folder)}`, and the "
            f"same for timestamp ({error})"
        )
        return
    if "targets" not in signed:
        tell(
            "The targets key is not in the backup: devices that saw a later publication refuse "
            f"what was restored until you put the key into {folder / 'keys'} and run "
            f"`shoal fleet keys resign --targets --dir {typed(folder)}`"
        )


def _name_publishers(fleet: Fleet, folder: Path, tell: Callable[[str], None]) -> None:
    """Says whose newest files are needed: nobody here can sign above what a publisher signed."""
    publishers = [f"{one.role} (version {one.version})" for one in every(fleet.open_repository())]
    if publishers:
        tell(
            "Publishers sign elsewhere, and the backup has what they had signed then: "
            f"{', '.join(publishers)}. Where one of them signed since, devices refuse all that "
            "was restored until you take in its newest file: `shoal fleet publish BUNDLE... "
            f"--signed ROLE.json --dir {typed(folder)}`"
        )


def _unpack(source: Path, folder: Path) -> None:
    try:
        with tarfile.open(source, "r:gz") as tar:
            total = 0
            for entry in tar:
                first, *rest = entry.name.split("/")
                known = first in (*_PARTS, _SQLITE, _DUMP) and ".." not in rest
                if not known or not (entry.isfile() or entry.isdir()):
                    raise InputError(
                        "bad-backup", f"{source} holds {entry.name[:100]!r}: not a backup of ours"
                    )
                total += entry.size
                if total > _MAX_BYTES:
                    raise InputError("too-large", f"{source} unpacks to over {_MAX_BYTES} bytes")
                entry.mode &= 0o755
                # Python before 3.11.4, which Debian 12 has, knows no filters.
                if hasattr(tarfile, "data_filter"):
                    tar.extract(entry, folder, filter="data")
                else:
                    tar.extract(entry, folder, set_attrs=False)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(
            "bad-backup", f"{source} is not a backup, or is cut off: {error}"
        ) from None
    for name in _PARTS:
        if not (folder / name).exists():
            raise InputError("bad-backup", f"{source} has no {name}: not a backup, or cut off")
    for private in ("keys", "ca", "tokens"):
        for path in (folder / private).rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)
