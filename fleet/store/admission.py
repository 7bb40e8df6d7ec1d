"""Whether a device may be served, asked for every request: believed for two seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from fleet.store.database import Store
from fleet.store.schema import DEVICE

BELIEVED_S: Final = 2.0
_MOST: Final = 20_000


class Admission:
    """Looks devices up: enrolled, and not revoked.

    Args:
        store: the database.
        unknown: devices that were never enrolled may be served too.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        store: Store,
        *,
        unknown: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._unknown = unknown
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._believed: dict[str, tuple[float, bool]] = {}

    def __call__(self, device: str) -> bool:
        """Whether a device may be served.

        Raises:
            UnavailableError: the database cannot tell now.
        """
        now = self._monotonic()
        with self._lock:
            known = self._believed.get(device)
        if known is not None and now - known[0] < BELIEVED_S:
            return known[1]
        with self._store.read() as connection:
            row = connection.execute(
                sa.select(DEVICE.c.revoked_at).where(DEVICE.c.id == device)
            ).first()
        admitted = self._unknown if row is None else row.revoked_at is None
        with self._lock:
            if len(self._believed) >= _MOST:
                self._believed.clear()
            self._believed[device] = (now, admitted)
        return admitted
