"""Fixtures of the controller's tests: every store test runs on SQLite and on PostgreSQL."""

from __future__ import annotations

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
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database, once of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'state.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres_server")
    with server.database() as url:
        yield url


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A migrated store."""
    store = Store(database_url)
    store.migrate()
    yield store
    store.close()
