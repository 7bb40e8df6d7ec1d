"""Fixtures of the controller's tests: every store test runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.store import Store
from tests.support import event_loop
from tests.support.postgres import Postgres, postgres


@pytest.fixture(autouse=True)
def _no_loop_waits_for_the_database() -> Iterator[None]:
    """Requests of all tests fail where they ask the database on the event loop's thread."""
    with event_loop.forbidden():
        yield


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One PostgreSQL for the whole run."""
    with postgres(durable=False) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without a schema, once of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'state.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres_server")
    with server.database() as url:
        yield url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that tests begin with: migrating takes much longer than copying."""
    path = tmp_path_factory.mktemp("migrated") / "state.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgresql(postgres_server: Postgres) -> Iterator[str]:
    """The name of the database that tests begin with."""
    with postgres_server.database() as url:
        _migrate(url)
        yield url.rsplit("/", 1)[1]


def _migrate(url: str) -> None:
    store = Store(url)
    store.migrate()
    store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A migrated database without a row, once of each kind."""
    if request.param == "sqlite":
        path = tmp_path / "state.db"
        shutil.copyfile(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite:///{path}"
        return
    template: str = request.getfixturevalue("migrated_postgresql")
    server: Postgres = request.getfixturevalue("postgres_server")
    with server.database(template) as url:
        yield url


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A migrated store."""
    store = Store(database_url)
    yield store
    store.close()
