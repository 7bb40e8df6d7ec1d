"""What a piece of work asks of a database: statements, rows that were read, tables gone through."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from fleet.store import Store


class Cost:
    """Of one piece of work.

    Attributes:
        statements: each with its parameters, in order.
        rows: that came back to the program; on SQLite alone.
    """

    def __init__(self) -> None:
        self.statements: list[tuple[str, Any]] = []
        self.rows = 0

    @property
    def texts(self) -> list[str]:
        """The statements without parameters."""
        return [text for text, _ in self.statements]

    @property
    def writes(self) -> list[str]:
        """The statements that change something."""
        return [text for text in self.texts if not text.lstrip().upper().startswith("SELECT")]


@contextmanager
def cost_of(store: Store) -> Iterator[Cost]:
    """Counts what is asked of a store's database within the block."""
    cost = Cost()

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            cost.statements.append((statement, parameters))

    def count(_cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> tuple[Any, ...]:
        cost.rows += 1
        return row

    def watch(connection: Any, *_: Any) -> None:
        if store.is_sqlite:
            connection.row_factory = count

    def leave(connection: Any, *_: Any) -> None:
        if store.is_sqlite and connection is not None:
            connection.row_factory = None

    engine = store.engine
    listeners = (("before_cursor_execute", note), ("checkout", watch), ("checkin", leave))
    for event, listener in listeners:
        sa.event.listen(engine, event, listener)
    try:
        yield cost
    finally:
        for event, listener in listeners:
            sa.event.remove(engine, event, listener)


def scans(store: Store, cost: Cost, *tables: str) -> list[str]:
    """Steps of the statements' plans that go through a whole table; on SQLite."""
    assert store.is_sqlite
    found: list[str] = []
    with store.read() as connection:
        for text in sorted({text for text in cost.texts if text.lstrip().startswith("SELECT")}):
            parameters = next(p for t, p in cost.statements if t == text)
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters)
            for step in plan:
                detail = step[3]
                if any(detail == f"SCAN {table}" for table in tables):
                    found.append(f"{detail}: {text}")
    return found
