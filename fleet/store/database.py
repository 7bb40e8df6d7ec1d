"""Connections and transactions of the controller's database."""

from __future__ import annotations

import functools
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import resources
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from contracts import __version__
from contracts.errors import InputError, RefusedError, UnavailableError
from fleet.store.schema import WRITTEN_BY

if TYPE_CHECKING:  # Alembic loads a template engine, too: only where a database is opened
    from alembic.config import Config
    from alembic.script import ScriptDirectory

_WRITE = "shoal_write"
_BUSY_MS = 15_000

WITH_EACH_CHANGE: ContextVar[Callable[[sa.Connection], None] | None] = ContextVar(
    "with_each_change", default=None
)
"""What is written with every change that is made in this context, in the change's transaction."""


class Store:
    """The database of one fleet.

    SQLite runs in WAL mode with full synchronisation: a committed transaction survives a
    power cut. Writers of SQLite begin with ``BEGIN IMMEDIATE``, so that two of them wait for
    one another instead of failing half-way.

    Args:
        url: a SQLAlchemy URL: ``sqlite:///PATH`` or ``postgresql+psycopg://...``.

    Raises:
        InputError: ``bad-database``; the URL is of neither.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
        except sa.exc.ArgumentError:
            raise InputError("bad-database", "the database URL cannot be read") from None
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise InputError(
                "bad-database",
                f"expected a sqlite or postgresql URL, found {parsed.get_backend_name()}",
            )
        self.url = parsed
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.engine = sa.create_engine(
                parsed, connect_args={"timeout": _BUSY_MS / 1000}, hide_parameters=True
            )
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        else:
            self.engine = sa.create_engine(
                parsed, pool_size=10, max_overflow=20, pool_pre_ping=True, hide_parameters=True
            )

    def close(self) -> None:
        """Closes all connections: those in use, by another thread, when they come back.

        A pool that was disposed of keeps what comes back later, and never closes it.
        """
        sa.event.listen(self.engine, "checkin", lambda _connection, record: record.invalidate())
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads: one consistent view."""
        with _translated(), self.engine.connect() as connection:
            if not self.is_sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that is committed at the end of the block, or rolled back on an error."""
        with _translated(), self.engine.connect() as connection:
            connection = connection.execution_options(**{_WRITE: True})
            with connection.begin():
                yield connection
                beside = WITH_EACH_CHANGE.get()
                if beside is not None:
                    beside(connection)

    def now(self, clock: Callable[[], float]) -> float:
        """Seconds since the epoch, as all processes on this database count them.

        They may run on several machines, whose clocks differ: the server's counts. SQLite has
        none, and its processes are on one machine.
        """
        if self.is_sqlite:
            return clock()
        with self.read() as connection:
            found = connection.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp())"))
        return float(found)

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that has ``on_conflict_do_update`` and ``on_conflict_do_nothing``."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def lock_row(self, statement: sa.Select[Any]) -> sa.Select[Any]:
        """`statement` with a row lock where the database needs one to serialise writers."""
        return statement if self.is_sqlite else statement.with_for_update()

    def _alembic(self) -> Config:
        return _migrations()

    def _upgrade(self, connection: sa.Connection) -> None:
        from alembic import command

        config = self._alembic()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    def migrate(self) -> None:
        """Brings the schema to the newest version; does nothing when it is there.

        Raises:
            RefusedError: ``newer-database``; a later version of the program wrote it.
        """
        with _translated(), self.engine.connect() as connection:
            connection = connection.execution_options(**{_WRITE: True})
            with connection.begin():
                if not self.is_sqlite:
                    # Two controllers that start together must not both migrate.
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(7460631)"))
                if refuse_newer(connection) != _head():
                    self._upgrade(connection)
                connection.execute(
                    self.insert(WRITTEN_BY)
                    .values(schema=_head(), program=__version__, at=time.time())
                    .on_conflict_do_nothing()
                )

    def refuse_newer(self) -> None:
        """Raises as :func:`refuse_newer`."""
        with self.read() as connection:
            refuse_newer(connection)

    def revision(self) -> tuple[str | None, str | None]:
        """The schema's version in the database, and the one this program expects."""
        with self.read() as connection:
            return _current(connection), _head()

    def check(self) -> None:
        """Raises ``UnavailableError`` or ``RefusedError`` when it cannot be used as it is."""
        with self.read() as connection:
            current, head = refuse_newer(connection), _head()
        if current != head:
            raise UnavailableError(
                "old-schema",
                f"the database has schema {current}, this program needs {head}: `shoal fleet up` "
                "brings it up to date; who may want to go back copies the fleet's folder before",
            )


def refuse_newer(connection: sa.Connection) -> str | None:
    """Refuses a database that a later version of the program wrote.

    Returns:
        The version of its schema, if it has one.

    Raises:
        RefusedError: ``newer-database``.
    """
    current = _current(connection)
    if current is None or current in _known():
        return current
    writer = "a newer version of Shoal"
    if sa.inspect(connection).has_table(WRITTEN_BY.name):
        found = connection.scalar(
            sa.select(WRITTEN_BY.c.program).where(WRITTEN_BY.c.schema == current)
        )
        writer = f"Shoal {found}" if found else writer
    raise RefusedError(
        "newer-database",
        f"the database has schema {current}, written by {writer}; this is Shoal {__version__}, "
        f"which knows schemas up to {_head()}: install that version, or restore the backup from "
        "before it",
    )


def _current(connection: sa.Connection) -> str | None:
    from alembic.runtime.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision()


def _migrations() -> Config:
    from alembic.config import Config

    config = Config()
    folder = resources.files("fleet.store") / "migrations"
    config.set_main_option("script_location", str(folder))
    return config


@functools.cache
def _head() -> str | None:
    """The schema that this program expects. It is asked for with each look at what is ready."""
    return _scripts().get_current_head()


@functools.cache
def _known() -> frozenset[str]:
    """All schemas that this program can read or bring up to date."""
    return frozenset(one.revision for one in _scripts().walk_revisions())


@functools.cache
def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_migrations())


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Transactions are begun by the listener below, not by the driver.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"busy_timeout={_BUSY_MS}",
        "foreign_keys=ON",
        "cache_size=-8192",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def _translated() -> Iterator[None]:
    """Database errors as errors of Shoal: the caller may retry, or has given what cannot be kept.

    Only what is wrong with the values is refused. All else may be over later: a disk that is
    full, a server that is read-only during a failover.
    """
    try:
        yield
    except sa.exc.IntegrityError as error:
        raise RefusedError(
            "conflict", f"the change conflicts with another: {_first_line(error)}"
        ) from None
    except sa.exc.DataError as error:
        raise RefusedError(
            "database", f"the database refused a value: {_first_line(error)}"
        ) from error
    except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
        reason = _first_line(error)
        if reason == "file is not a database":
            reason += ": restore it from a backup"
        if reason in ("disk I/O error", "database or disk is full"):
            reason += ": is the disk full?"
        raise UnavailableError("database", f"the database cannot be used now: {reason}") from error


def _first_line(error: Exception) -> str:
    """What went wrong; further lines of a server hold values of rows."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
