"""Commands on a fleet's folder in the audit log: who sits here, and what failed too.

Other commands ask the controller, which notes them itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from fleet.folder import Fleet
from fleet.store import audit
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
def acting(fleet: Fleet, action: str, target: str, **detail: Any) -> Iterator[Act]:
    """The entry of a change beside the database: :func:`fleet.store.audit.acting`."""
    with (
        contextlib.closing(fleet.open_store()) as store,
        audit.acting(store, audit.local(), action, target, **detail) as act,
    ):
        yield act
