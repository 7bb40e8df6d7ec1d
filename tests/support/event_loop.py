"""No database call may run on the thread of an event loop: it would stop every other request.

As a program, ``python -m tests.support.event_loop ARGUMENTS``: the command line with that rule.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa

COMPLAINT: Final = "a database call on the thread of an event loop"
_STATE: Final = {"installed": False, "forbidden": False}


def _refuse(what: str) -> None:
    if _STATE["forbidden"] and asyncio._get_running_loop() is not None:
        raise AssertionError(f"{COMPLAINT}: {what}")


def _before(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
    _refuse(statement[:300])


def _on_audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "sqlite3.connect":
        _refuse(f"sqlite3.connect {arguments[0]!s:.200}")


@contextmanager
def forbidden() -> Iterator[None]:
    """Meanwhile such a call raises ``AssertionError``, in any engine of this process."""
    if not _STATE["installed"]:
        _STATE["installed"] = True
        sa.event.listen(sa.Engine, "before_cursor_execute", _before)
        sys.addaudithook(_on_audit)  # there is no way to take it away
    before, _STATE["forbidden"] = _STATE["forbidden"], True
    try:
        yield
    finally:
        _STATE["forbidden"] = before


if __name__ == "__main__":
    from fleet.cli import main

    with forbidden():
        main()
