"""An API on a controller that is not connected: what HTTP alone can show."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from contracts.config import MqttConfig
from fleet.api.app import create_app
from fleet.api.auth import Gatekeeper
from fleet.api.readers import Readers
from fleet.controller import Controller
from fleet.folder import ApiConfig, Fleet, FleetConfig
from fleet.store import devices, tokens
from tests.support.bundles import noise_bundle
from tests.support.postgres import Postgres
from tests.support.tools import free_port

Signed = Callable[[str], TestClient]
NOW = 1_800_000_000.0


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet's folder with one published bundle; tests copy it, as making keys takes a while."""
    folder = tmp_path_factory.mktemp("template")
    fleet = Fleet.init(folder / "fleet", FleetConfig("home"))
    fleet.publish(noise_bundle(folder / "bundle").path)
    (fleet.folder / "state.db").unlink()
    return fleet.folder


@contextlib.contextmanager
def _opened(folder: Path, database_url: str) -> Iterator[Controller]:
    """A controller on a copy of the fleet's folder."""
    config = FleetConfig(
        "home",
        mqtt=MqttConfig(port=free_port()),
        database=database_url,
        webhook_hosts=["127.0.0.1", "example.org"],
        api=ApiConfig(requests_per_s=100_000, burst=100_000),
    )
    controller = Controller(Fleet(folder, config))
    yield controller
    controller.store.close()


def _furnish(folder: Path, database_url: str) -> None:
    """Indexes the bundle and enrols five devices; tests copy the database, which is quicker."""
    with _opened(folder, database_url) as controller:
        controller.index_repository()
        with controller.store.write() as connection:
            for index in range(5):
                labels = {"site": "lyon" if index % 2 else "graz"}
                devices.enroll(
                    controller.store, connection, f"d{index}", "raspberry-pi-5", labels, [], NOW
                )


@pytest.fixture(scope="session")
def migrated_sqlite(
    migrated_sqlite: Path, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """With the bundle and the devices."""
    folder = tmp_path_factory.mktemp("furnished")
    shutil.copyfile(migrated_sqlite, folder / "state.db")
    _furnish(shutil.copytree(template, folder / "fleet"), f"sqlite:///{folder / 'state.db'}")
    return folder / "state.db"


@pytest.fixture(scope="session")
def migrated_postgresql(
    migrated_postgresql: str,
    postgres_server: Postgres,
    template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """With the bundle and the devices."""
    folder = tmp_path_factory.mktemp("furnished")
    with postgres_server.database(migrated_postgresql) as url:
        _furnish(shutil.copytree(template, folder / "fleet"), url)
        yield url.rsplit("/", 1)[1]


@pytest.fixture
def controller(database_url: str, tmp_path: Path, template: Path) -> Iterator[Controller]:
    """A controller with a published bundle and five devices; it is not started."""
    with _opened(shutil.copytree(template, tmp_path / "fleet"), database_url) as controller:
        yield controller


_APPS: list[FastAPI] = []


def app_of(controller: Controller) -> FastAPI:
    """The application; made once, as describing all routes takes a while, and moved over."""
    if not _APPS:
        _APPS.append(create_app(controller))
    app = _APPS[0]
    app.state.controller = controller
    app.state.gatekeeper = Gatekeeper(controller)
    app.state.readers = Readers(controller)
    return app


@pytest.fixture
def signed(controller: Controller) -> Iterator[Signed]:
    """A client with a token of a role; with the role ``nobody``, without a token."""
    app = app_of(controller)
    clients: list[TestClient] = []

    def make(role: str) -> TestClient:
        client = TestClient(app, raise_server_exceptions=False)
        clients.append(client)
        if role != "nobody":
            with controller.store.write() as connection:
                secret = tokens.create(connection, f"the {role}", role, NOW)
            client.headers["Authorization"] = f"Bearer {secret}"
        return client

    yield make
    for client in clients:
        client.close()
