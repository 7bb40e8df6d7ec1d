"""The database, the disk, the clock, and how many files may be open."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from contracts import limits
from contracts.clock import EARLIEST, TOLERANCE_S, span, utc
from contracts.errors import ShoalError
from fleet.doctor.finding import Finding, Patient
from fleet.store import Store

_LEAST_FREE = 512 * limits.MIB
_LEAST_SHARE = 0.03


def database(patient: Patient) -> Iterator[Finding]:
    """It is there, whole, and of this version."""
    url = patient.fleet.database_url
    named = Store(url)
    path = Path(str(named.url.database)) if named.is_sqlite else None
    named.close()
    if path is not None and not path.exists():
        yield Finding(
            "database", "no-database", f"{path} is not there",
            "shoal fleet restore BACKUP NEW-FOLDER",
        )  # fmt: skip
        return
    store = Store(url)
    try:
        store.check()
        with store.read() as connection:
            connection.execute(sa.text("SELECT 1"))
    except ShoalError as error:
        cures = {
            "old-schema": f"shoal fleet up {patient.here}, which brings it up to date",
            "newer-database": "install the newer version of shoal (pip install --upgrade)",
        }
        cure = cures.get(error.code, "")
        if not cure and path is None:
            cure = f"start the database, or set database in {patient.fleet.folder / 'fleet.yaml'}"
        if not cure and path is not None and shutil.disk_usage(path.parent).free < limits.MIB:
            cure = f"make room where {path} is, and run `shoal fleet doctor` again"
        yield Finding(
            "database", error.code, str(error), cure or "shoal fleet restore BACKUP NEW-FOLDER"
        )
        return
    finally:
        store.close()
    if path is not None:
        yield from _whole(path)


def _whole(path: Path) -> Iterator[Finding]:
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        said = str(error)
    if said != "ok":
        yield Finding(
            "database", "database-corrupt", f"{path}: {said}",
            "shoal fleet restore BACKUP NEW-FOLDER",
        )  # fmt: skip


def disk(patient: Patient) -> Iterator[Finding]:
    """There is room."""
    free, total = patient.free(patient.fleet.folder)
    if free < max(_LEAST_FREE, total * _LEAST_SHARE):
        yield Finding(
            "disk", "disk-full",
            f"{free // limits.MIB} MB are free where {patient.fleet.folder} is; wanted are "
            f"{_LEAST_FREE // limits.MIB} MB and 3 %",
            f"free some, or lower retention in {patient.fleet.folder / 'fleet.yaml'}",
            "broken" if free < 64 * limits.MIB else "soon",
        )  # fmt: skip


def clock(patient: Patient) -> Iterator[Finding]:
    """It is set, and not behind what was written already, nor far from the database's."""
    now = patient.clock()
    cure = "sudo timedatectl set-ntp true"
    if now < EARLIEST:
        yield Finding("clock", "clock-wrong", f"the clock says {utc(now)}: it was not set", cure)
        return
    newest = max(
        (path.stat().st_mtime for path in (patient.fleet.folder / "repository/metadata").glob("*")),
        default=0.0,
    )
    if newest > now + TOLERANCE_S:
        yield Finding(
            "clock", "clock-wrong",
            f"the clock says {utc(now)}, and something was signed here {span(newest - now)} later "
            "than that", cure,
        )  # fmt: skip
        return
    store = Store(patient.fleet.database_url)
    try:
        apart = abs(store.now(patient.clock) - now)
    except ShoalError:
        return  # the database's own finding
    finally:
        store.close()
    if apart > TOLERANCE_S:
        yield Finding(
            "clock", "clock-wrong", f"the clock and the database's are {span(apart)} apart", cure
        )


def open_files(patient: Patient) -> Iterator[Finding]:
    """The broker may open a file for each connection."""
    wanted, most = patient.fleet.broker_size().files, patient.files()
    if most < wanted:
        yield Finding(
            "broker", "few-files",
            f"a program may open {most} files here; a broker for {patient.fleet.config.devices} "
            f"devices needs {wanted}",
            f"LimitNOFILE={wanted} in the broker's unit, or ulimit -n {wanted}", "soon",
        )  # fmt: skip
