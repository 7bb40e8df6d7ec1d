"""A renewed certificate is used by the agent that runs, towards the repository too."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from agent.certificates.child import Found
from agent.certificates.device import STORED
from agent.daemon import Agent
from agent.update.fetch import read_all
from contracts.config import AgentConfig, MqttConfig, TlsConfig
from fleet.identity.authority import Authority, certificate_pem, key_pem, new_key
from tests.support.tuf_simulator import Simulator

NOW = datetime.now(timezone.utc)


class Handler(BaseHTTPRequestHandler):
    """Answers with the serial number of the client's certificate; ``last`` closes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """One answer."""
        assert isinstance(self.connection, ssl.SSLSocket)
        peer = self.connection.getpeercert()
        assert peer is not None
        body = str(peer["serialNumber"]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.path.endswith("last")

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def authority() -> Authority:
    """Of the fleet."""
    return Authority.create("f", NOW)


@pytest.fixture
def repository(authority: Authority, tmp_path: Path) -> Iterator[str]:
    """The URL of a server that only the fleet's certificates open."""
    key, pair, ca = new_key(), tmp_path / "server.pem", certificate_pem(authority.certificate)
    certificate = authority.issue_server(["127.0.0.1"], key.public_key(), NOW)
    pair.write_bytes(certificate_pem(certificate) + key_pem(key))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=ca.decode())
    context.load_cert_chain(pair)
    context.verify_mode = ssl.CERT_REQUIRED
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def issued(authority: Authority) -> tuple[TlsConfig, bytes]:
    """Another certificate of the device, and its serial number as the server says it."""
    key = new_key()
    certificate = authority.issue_client("d", key.public_key(), NOW, 9)
    pem = certificate_pem(certificate).decode()
    tls = TlsConfig(certificate_pem(authority.certificate).decode(), pem, key_pem(key).decode())
    serial = f"{certificate.serial_number:X}"
    return tls, serial.zfill(len(serial) + len(serial) % 2).encode()


def test_new_connections_to_the_repository_use_the_renewed_certificate(
    authority: Authority, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a restart: the one from the start runs out while the agent runs."""
    (first, before), (second, after) = issued(authority), issued(authority)
    agent = Agent(
        AgentConfig(
            "f",
            "d",
            "raspberry-pi-5",
            Simulator().first_root.decode(),
            mqtt=MqttConfig(port=1, tls=first),
            repository_url=repository,
        ),
        tmp_path,
    )
    way = agent.fetcher
    assert read_all(way, "last", 100) == before
    monkeypatch.setattr(agent.certificate, "_ask", lambda _: Found(second))
    agent.certificate.renew()
    assert read_all(way, "last", 100) == after
    agent.stop()


def test_a_renewal_does_not_end_the_session_on_the_broker(
    authority: Authority, tmp_path: Path
) -> None:
    """The client id is that of the first key, and nobody can guess it who has not the key."""
    (first, _), (second, _) = issued(authority), issued(authority)
    root = Simulator().first_root.decode()
    config = AgentConfig("f", "d", "raspberry-pi-5", root, mqtt=MqttConfig(port=1, tls=first))

    def client_id(config: AgentConfig) -> bytes:
        agent = Agent(config, tmp_path)
        agent.stop()
        assert agent.config.mqtt.tls is not None
        used.append(agent.config.mqtt.tls.key)
        return bytes(agent.link._client._client_id)

    used: list[str | None] = []
    before = client_id(config)
    (stored,) = [path for path in tmp_path.rglob("*") if path.name == "spool.db"]
    (stored.parent / STORED).write_text(f"{second.certificate}\n{second.key}")
    assert client_id(config) == before
    assert used[0] != used[1], "the renewed certificate is in use"
    other = msgspec.structs.replace(config, mqtt=MqttConfig(port=1, tls=second))
    assert client_id(other) != before
    assert before.startswith(b"shoal-f-d-") and len(before) == len(b"shoal-f-d-") + 32
