"""All checks in order; one that fails ends no other."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from contracts.errors import ShoalError
from contracts.files import typed
from fleet.doctor import files, links, state
from fleet.doctor.finding import Check, Finding, Patient
from fleet.folder import CONFIG, Fleet

CHECKS: Final[dict[str, Check]] = {
    "rights": files.rights,
    "clock": state.clock,
    "disk": state.disk,
    "database": state.database,
    "signatures": files.signed,
    "keys": files.signing_keys,
    "certificates": files.authority,
    "secret": files.secret,
    "configuration": files.generated,
    "expiry": files.ends,
    "names": links.names,
    "broker's program": links.program,
    "open files": state.open_files,
    "broker": links.broker,
    "controller": links.api,
}
"""What is looked at, and by what."""


def examine(
    folder: Path,
    *,
    clock: Callable[[], float] = time.time,
    free: Callable[[Path], tuple[int, int]] | None = None,
    most_files: Callable[[], int] | None = None,
    begins: Callable[[str], None] = lambda _: None,
) -> Iterator[Finding]:
    """Looks at a fleet; nothing is changed, nothing is sent to devices.

    Args:
        folder: of the fleet.
        clock: seconds since the epoch.
        free: bytes free and in all where a path is; None: asked of the system.
        most_files: that a program may open; None: asked of the system.
        begins: is told of each check.
    """
    begins("fleet.yaml")
    try:
        fleet = Fleet.open(folder)
    except ShoalError as error:
        cure = f"correct {folder / CONFIG}"
        if error.code == "not-a-fleet":
            cure = f"shoal fleet init {typed(folder)} (or name the folder with --dir)"
        elif error.code == "newer-format":
            cure = "install the newer version of shoal (pip install --upgrade)"
        yield Finding("fleet.yaml", error.code, str(error), cure)
        return
    patient = Patient(fleet, clock, free or _free, most_files or _most_files)
    broken: set[str] = set()
    for name, check in CHECKS.items():
        begins(name)
        try:
            for finding in check(patient):
                broken.add(finding.part)
                yield finding
        except (ShoalError, OSError, ValueError) as error:
            # What it needs is broken, which another check has said; if none has, it is said here.
            if not broken:
                code = error.code if isinstance(error, ShoalError) else "unreadable"
                yield Finding(
                    name, code, f"{name} cannot be looked at: {str(error)[:300]}",
                    "shoal fleet restore BACKUP NEW-FOLDER, if nothing else is named here",
                )  # fmt: skip


def _free(path: Path) -> tuple[int, int]:
    usage = shutil.disk_usage(path)
    return usage.free, usage.total


def _most_files() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if hard == resource.RLIM_INFINITY else hard
