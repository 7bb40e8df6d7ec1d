"""Commands on a fleet's folder in the audit log: who sits here, and what failed too.

Other commands ask the controller, which notes them itself.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from logging.handlers import SysLogHandler
from pathlib import Path
from typing import Any

from contracts.errors import ShoalError
from contracts.log_errors import reason_of
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


SYSTEM_LOG = Path("/dev/log")


@contextlib.contextmanager
def trying_in(folder: Path, action: str) -> Iterator[None]:
    """As :func:`trying`, of what is done to a folder that may be no fleet, or not yet.

    Where there is no fleet there is no audit log: the system's log has the failure then.
    """
    fleet: Fleet | None = None
    if (folder / CONFIG).is_file():
        with contextlib.suppress(ShoalError):
            fleet = Fleet.open(folder)
    try:
        with contextlib.ExitStack() as stack:
            if fleet is not None:
                stack.enter_context(trying(fleet, action, fleet.config.fleet))
            yield
    except (ShoalError, OSError) as error:
        if fleet is None:
            why = reason_of(error)
            _tell_system(f"{audit.local().name} {action} {folder.absolute()}: {why}")
        raise


class _SystemLog(SysLogHandler):
    """The system's log; many machines have none, as containers do."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Says nothing: the command tells what failed, in its own line."""


def _tell_system(line: str) -> None:
    """Writes a line to the system's log, where there is one."""
    with contextlib.suppress(OSError):
        handler = _SystemLog(str(SYSTEM_LOG), SysLogHandler.LOG_AUTHPRIV)
        handler.ident = "shoal: "
        handler.handle(logging.LogRecord("shoal", logging.WARNING, "", 0, line, None, None))
        handler.close()


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
