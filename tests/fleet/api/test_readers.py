"""Who may read the repository where the API has TLS: devices, and people with a token."""

from __future__ import annotations

import asyncio
import http.client
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509

from agent.update.fetch import read_all
from agent.update.http import Http
from contracts.config import MqttConfig, TlsConfig
from contracts.connection import tls_context
from contracts.errors import ShoalError
from fleet.api.app import create_app
from fleet.api.listening import listen
from fleet.api.readers import Readers
from fleet.api.server import Server, configure
from fleet.controller import Controller
from fleet.folder import ApiConfig, Fleet, FleetConfig
from fleet.repository import delegation
from tests.fleet.repository.test_delegation import Publisher
from tests.support.authorities import Pair
from tests.support.tools import free_port

PATH = "metadata/timestamp.json"


class Repository:
    """The HTTP side of a fleet with certificates; its controller is not started."""

    def __init__(self, folder: Path, **api: Any) -> None:
        self.server_pair = Pair(folder, "server")
        pem = str(self.server_pair.server())
        self.fleet = Fleet.init(
            folder / "fleet",
            FleetConfig(
                "reef",
                mqtt=MqttConfig(port=free_port()),
                mutual_tls=True,
                api=ApiConfig(certificate=pem, key=pem, **api),
            ),
        )
        self.controller = Controller(self.fleet)
        (self._socket,) = listen("127.0.0.1", 0)
        self.port = self._socket.getsockname()[1]
        started = threading.Event()
        config = configure(
            create_app(self.controller),
            files=self.fleet.api_files,
            ca=self.fleet.folder / "ca" / "ca.pem",
            proxies=self.fleet.config.api.trusted_proxies,
        )
        self._server = Server(config, started.set)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve([self._socket]))
        )
        self._thread.start()
        assert started.wait(60)

    def enroll(self, device: str) -> TlsConfig:
        """Enrols a device; its TLS settings, which believe the server too."""
        config, _ = self.fleet.enroll(device, "raspberry-pi-5")
        made = config.mqtt.tls
        assert made is not None
        return msgspec.structs.replace(made, ca=f"{made.ca}\n{self.server_pair.ca_text}")

    def get(self, context: ssl.SSLContext, path: str = PATH, **headers: str) -> int:
        """The status of a request for a file, else for the list of what is signed."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context)
        try:
            connection.request("GET", f"/repo/{path}", headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def stranger(self) -> ssl.SSLContext:
        """Of somebody without a certificate."""
        return ssl.create_default_context(cafile=str(self.server_pair.ca))

    def fetch(self, tls: TlsConfig, path: str = PATH) -> bytes:
        """As a device fetches it."""
        http = Http(f"https://127.0.0.1:{self.port}/repo/", lambda: tls_context(tls))
        return read_all(http, path, 1_000_000)

    def close(self) -> None:
        """Stops."""
        self._server.should_exit = True
        self._thread.join(30)
        self._socket.close()
        self.controller.store.close()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """A repository for devices and tokens."""
    made = Repository(tmp_path_factory.mktemp("readers"))
    yield made
    made.close()


def test_a_stranger_gets_nothing(repository: Repository) -> None:
    """Without a certificate, with a wrong token, with the certificate of another authority."""
    assert repository.get(repository.stranger()) == 401
    assert repository.get(repository.stranger(), Authorization="Bearer nonsense") == 401
    foreign = repository.stranger()
    pem = Pair(repository.fleet.folder, "foreign").client("kitchen")
    path = repository.fleet.folder / "foreign.pem"
    path.write_text("\n".join(pem))
    foreign.load_cert_chain(path)
    with pytest.raises(OSError, match=r"(?i)alert|reset|eof|broken|closed"):
        repository.get(foreign)


def test_a_device_fetches_with_its_certificate_until_it_is_revoked(repository: Repository) -> None:
    """And the others go on."""
    kitchen, garden = repository.enroll("kitchen"), repository.enroll("garden")
    assert b"signatures" in repository.fetch(kitchen)
    repository.fleet.open_identity().revoke("garden")
    with pytest.raises(ShoalError, match="401"):
        repository.fetch(garden)
    assert b"signatures" in repository.fetch(kitchen)


def test_what_a_publisher_signed_is_read_as_everything_else_is(
    repository: Repository, tmp_path: Path
) -> None:
    """Its list, its manifests and its files: by devices and tokens, and by nobody else."""
    publisher = Publisher(tmp_path / "publisher")
    store = repository.fleet.open_repository()
    delegation.delegate(store, "kitchen", ["kitchen-*"], publisher.public)
    bundle = publisher.bundle("kitchen-timer")
    delegation.take_in(store, publisher.sign(bundle), [bundle])
    found = [
        path.relative_to(store.folder).as_posix()
        for part in ("metadata", "targets", "blobs")
        for path in (store.folder / part).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    ]
    assert "metadata/1.kitchen.json" in found
    assert (
        f"targets/bundles/kitchen-timer/1.0.0/{bundle.ref.manifest_sha256}.manifest.json" in found
    )
    assert any(path.startswith("blobs/") for path in found)
    device = repository.enroll("reader")
    for path in found:
        assert repository.get(repository.stranger(), path) == 401, path
        assert repository.fetch(device, path) == (store.folder / path).read_bytes()


def test_a_certificate_that_was_replaced_counts_no_more(repository: Repository) -> None:
    """Though the device is one of the fleet's."""
    old = repository.enroll("cellar")
    identity = repository.fleet.open_identity()
    with identity.registry.transaction() as transaction:
        (issued,) = transaction.certificates("cellar")
        transaction._connection.execute(
            "UPDATE certificates SET revoked = 1 WHERE serial = ?", (str(issued.serial),)
        )
    with pytest.raises(ShoalError, match="401"):
        repository.fetch(old)


def test_a_certificate_that_has_run_out_is_told_so(repository: Repository) -> None:
    """In words, and not by an alert of TLS alone."""
    attic = repository.enroll("attic")
    ends = x509.load_pem_x509_certificate((attic.certificate or "").encode()).not_valid_after_utc
    clock = repository.controller.clock
    readers = repository.controller
    try:
        readers.clock = lambda: ends.timestamp() + 1
        fresh = Readers(readers)
        with pytest.raises(ShoalError, match="enrol the device again"):
            fresh.check(ssl.PEM_cert_to_DER_cert(attic.certificate or ""))
    finally:
        readers.clock = clock


def test_a_person_reads_with_a_token(repository: Repository) -> None:
    """For a mirror, or to look."""
    token = repository.fleet.token_file.read_text().strip()
    assert repository.get(repository.stranger(), Authorization=f"Bearer {token}") == 200


def test_a_repository_is_public_where_that_is_asked_for(tmp_path: Path) -> None:
    """For a CDN in front of it."""
    made = Repository(tmp_path, public_repository=True)
    try:
        assert made.get(made.stranger()) == 200
    finally:
        made.close()
