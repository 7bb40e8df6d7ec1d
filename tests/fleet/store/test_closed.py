"""A store that is closed keeps no connection of the database."""

from __future__ import annotations

import sqlite3
from typing import Any

from fleet.store import Store, tokens


def test_what_is_in_use_while_a_store_is_closed_is_closed_when_it_comes_back(
    store: Store,
) -> None:
    """A thread that still reads holds no connection of the database for ever."""
    with store.read() as connection:
        used = connection.connection.dbapi_connection
        store.close()
        assert tokens.every(connection) == []
    assert _is_closed(used)
    with store.read() as connection:  # one that came too late
        late = connection.connection.dbapi_connection
    assert _is_closed(late)


def _is_closed(used: Any) -> bool:
    if isinstance(used, sqlite3.Connection):
        try:
            used.execute("SELECT 1")
        except sqlite3.ProgrammingError:
            return True
        return False
    return bool(used.closed)
