"""Real brokers for tests, on loopback, each on a port of its own."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from contracts.config import MqttConfig, TlsConfig
from fleet.broker.run import EmbeddedBroker, MosquittoBroker, wait_until_connectable
from fleet.identity.authority import Authority, certificate_pem, key_pem, new_key
from tests.support.tools import free_port, need_tool


@contextmanager
def mosquitto(port: int | None = None) -> Iterator[MqttConfig]:
    """A mosquitto process without access control."""
    program = need_tool("mosquitto", "/usr/sbin/mosquitto")
    with MosquittoBroker(port=port or free_port(), program=program) as broker:
        wait_until_connectable(broker.config)
        yield broker.config


@contextmanager
def mutual_tls(folder: Path) -> Iterator[MqttConfig]:
    """A mosquitto process that asks for certificates; its clients share one, and may do all.

    Args:
        folder: for the certificates.
    """
    program = need_tool("mosquitto", "/usr/sbin/mosquitto")
    now = datetime.now(timezone.utc)
    authority, server, client = Authority.create("f", now), new_key(), new_key()
    of_server = authority.issue_server(["127.0.0.1"], server.public_key(), now)
    files = {
        "cafile": certificate_pem(authority.certificate),
        "certfile": certificate_pem(of_server),
        "keyfile": key_pem(server),
    }
    port = free_port()
    lines = [f"user {getpass.getuser()}", f"listener {port} 127.0.0.1", "set_tcp_nodelay true"]
    lines += ["allow_anonymous true", "require_certificate true", "log_type error"]
    for name, pem in files.items():
        (folder / name).write_bytes(pem)
        lines.append(f"{name} {folder / name}")
    (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    tls = TlsConfig(
        files["cafile"].decode(),
        certificate_pem(authority.issue_client("d", client.public_key(), now, 1)).decode(),
        key_pem(client).decode(),
    )
    with MosquittoBroker(folder / "mosquitto.conf", port=port, program=program) as broker:
        yield msgspec.structs.replace(broker.config, tls=tls)


@contextmanager
def embedded(port: int | None = None) -> Iterator[MqttConfig]:
    """The broker that the demo embeds (rumqttd), MQTT 5 on loopback."""
    with EmbeddedBroker(port or free_port()) as broker:
        yield broker.config


BROKERS = {"mosquitto": mosquitto, "embedded": embedded}

__all__ = ["BROKERS", "embedded", "mosquitto", "mutual_tls", "wait_until_connectable"]
