"""Makes a test's database refuse to be written to, as a server does during a failover."""

from __future__ import annotations

import sqlite3

import sqlalchemy as sa

from fleet.store import Store


def read_only(store: Store, flag: bool) -> None:
    """Every connection of `store` from now on can only read, or can write again."""
    state = "on" if flag else "off"
    if store.is_sqlite:
        if flag:
            sa.event.listen(store.engine, "connect", _query_only)
        else:
            sa.event.remove(store.engine, "connect", _query_only)
    else:
        engine = sa.create_engine(store.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("SET default_transaction_read_only = off")
            connection.exec_driver_sql(
                f"ALTER DATABASE {store.url.database} SET default_transaction_read_only = {state}"
            )
        engine.dispose()
    store.engine.dispose()


def _query_only(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA query_only = ON")
