"""Commands on a fleet's folder in the audit log: who sits here, and what failed too.

Other commands ask the controller, which notes them itself.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contracts.errors import ShoalError
from fleet.folder import CONFIG, Fleet
from fleet.store import Store, audit, entries
from fleet.store.audit import Act


@contextlib.contextmanager
def trying(fleet: Fleet, action: str, target: str) -> Iterator[None]:
    """Counts a failure of what notes itself when it succeeds."""
    with (
        contextlib.closing(fleet.open_store()) as store,
        audit.trying(store, audit.local(), action, target),
    ):
        yield


@contextlib.contextmanager
def trying_in(folder: Path, action: str) -> Iterator[None]:
    """As :func:`trying`, of what is done to a folder that may be no fleet, or not yet."""
    fleet: Fleet | None = None
    if (folder / CONFIG).is_file():
        with contextlib.suppress(ShoalError):
            fleet = Fleet.open(folder)
    with contextlib.ExitStack() as stack:
        if fleet is not None:
            stack.enter_context(trying(fleet, action, fleet.config.fleet))
        yield


def begun(store: Store, action: str, target: str) -> None:
    """Notes that a program of the fleet began or ended: one entry a minute, however often.

    A database that cannot be written now does not keep it from running.
    """
    with contextlib.suppress(ShoalError):
        audit.count(store, audit.local(), action, target, entries.DONE, time.time())


@contextlib.contextmanager
def acting(fleet: Fleet, action: str, target: str, **detail: Any) -> Iterator[Act]:
    """The entry of a change beside the database: :func:`fleet.store.audit.acting`."""
    with (
        contextlib.closing(fleet.open_store()) as store,
        audit.acting(store, audit.local(), action, target, **detail) as act,
    ):
        yield act
