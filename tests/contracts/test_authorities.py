"""Servers of a public authority and of the fleet's own are both believed, by every part."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import ssl
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from agent.certificates.device import Certificate
from agent.cli.enroll import enroll
from agent.simulate.repository import Repository
from agent.update.fetch import read_all
from agent.update.http import Http
from contracts import authorities
from contracts.config import AgentConfig, MqttConfig, TlsConfig
from contracts.connection import tls_context
from contracts.errors import InputError, ShoalError, UnavailableError
from contracts.simulation import Counters
from fleet.broker import MosquittoBroker
from fleet.broker.run import wait_until_connectable
from fleet.cli.app import app
from fleet.egress import Allowed
from fleet.identity.applied import served_certificate
from fleet.store import Store, webhooks
from fleet.store.webhooks import Webhook
from fleet.webhooks import Sender
from tests.support.authorities import Pair, https_server
from tests.support.tools import free_port, need_tool

Use = Callable[[str, Pair, Path], None]


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """An authority of the system's."""
    made = Pair(tmp_path, "public")
    monkeypatch.setenv("SSL_CERT_FILE", str(made.ca))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.delenv("SHOAL_CA", raising=False)
    return made


@pytest.fixture
def own(tmp_path: Path) -> Pair:
    """The fleet's."""
    return Pair(tmp_path, "own")


@pytest.fixture
def stranger(tmp_path: Path) -> Pair:
    """One that nobody was told of."""
    return Pair(tmp_path, "stranger")


def repository(url: str, own: Pair, folder: Path) -> None:
    """The agent reads a file of the repository."""
    del folder
    tls = TlsConfig(own.ca_text)
    read_all(Http(f"{url}/repo/", lambda: tls_context(tls)), "root.json", 100)


def renewal(url: str, own: Pair, folder: Path) -> None:
    """The agent asks for its next certificate."""
    config = AgentConfig(
        "f",
        "d",
        "raspberry-pi-5",
        "{}",
        mqtt=MqttConfig(tls=TlsConfig(own.ca_text, *own.client("d"))),
        renewal_url=f"{url}/v1/certificates/renew",
    )
    Certificate(config, folder, folder).renew()


def enrolment(url: str, own: Pair, folder: Path) -> None:
    """A device enrols with a token."""
    (folder / "token").write_text("t")
    enroll(
        argparse.Namespace(
            config=folder / "agent.yaml",
            url=url,
            ca=own.ca,
            token_file=folder / "token",
            json=True,
        )
    )


def command(url: str, own: Pair, folder: Path) -> None:
    """A command asks the controller; the fleet's folder is here."""
    (folder / "home/ca").mkdir(parents=True, exist_ok=True)
    (folder / "home/ca/ca.pem").write_text(own.ca_text)
    (folder / "token").write_text("t")
    options = ["--dir", str(folder / "home"), "--url", url, "--token-file", str(folder / "token")]
    found = CliRunner().invoke(app, ["fleet", "devices", *options])
    assert ("[reached]" in found.stderr) != ("[controller-untrusted]" in found.stderr)


def command_elsewhere(url: str, own: Pair, folder: Path) -> None:
    """A command on another machine, where a variable names the authority."""
    (folder / "token").write_text("t")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOAL_CA", str(own.ca))
        CliRunner().invoke(
            app, ["fleet", "devices", "--url", url, "--token-file", str(folder / "token")]
        )


def webhook(url: str, own: Pair, folder: Path) -> None:
    """The controller delivers an event."""
    store = Store(f"sqlite:///{folder / 'state.db'}")
    store.migrate()
    with store.write() as connection:
        webhooks.add(connection, Webhook("w", f"{url}/x", "s" * 32, ["*"], 1.0, 1))
        webhooks.enqueue(connection, "device-online", {}, 1.0)
    sender = Sender(store, lambda: 2.0, ca=own.ca_text, allowed=Allowed(["127.0.0.1"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fleet.webhooks._POLL_S", 0.01)
        sender.start()
        for _ in range(1000):
            with store.read() as connection:
                if not webhooks.due(connection, 2.0, 1):  # tried, and to be tried again later
                    break
            sender._stopping.wait(0.01)
        sender.stop()
    store.close()


def simulated(url: str, own: Pair, folder: Path) -> None:
    """A simulated device fetches a file."""
    del folder
    repository = Repository(f"{url}/repo", Counters(), TlsConfig(ca=own.ca_text))
    try:
        got = repository.read("x")
    finally:
        repository.close()
    if got.error is not None:
        raise got.error


USES: list[Use] = [
    repository,
    renewal,
    enrolment,
    command,
    command_elsewhere,
    webhook,
    simulated,
]


@pytest.mark.parametrize("days", [9, -9000])
def test_a_command_tells_a_clock_that_is_wrong(own: Pair, tmp_path: Path, days: int) -> None:
    """Here, or at the controller when it made its certificate; naming another file is no help."""
    (tmp_path / "token").write_text("t")
    with https_server(own.server(later=timedelta(days=days))) as server:
        url = f"https://127.0.0.1:{server.port}"
        options = ["--url", url, "--token-file", str(tmp_path / "token")]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SHOAL_CA", str(own.ca))
            found = CliRunner().invoke(app, ["fleet", "devices", *options])
    assert found.exit_code == 1
    assert "the time of this machine" in found.stderr
    assert "SHOAL_CA" not in found.stderr


@pytest.mark.parametrize("use", USES)
def test_each_part_reaches_servers_of_a_public_authority_and_of_the_fleets_own(
    use: Use, public: Pair, own: Pair, stranger: Pair, tmp_path: Path
) -> None:
    """With the same settings; a server of a third authority, or of another name, is refused."""
    reached = []
    for pair in (
        public.server(),
        own.server(),
        stranger.server(),
        own.server("192.0.2.1"),
        public.server("192.0.2.2"),
    ):
        with https_server(pair) as server:
            folder = tmp_path / pair.stem
            folder.mkdir()
            with contextlib.suppress(ShoalError):
                use(f"https://127.0.0.1:{server.port}", own, folder)
            reached.append(server.requests > 0)
    assert reached == [True, True, False, False, False]


@contextlib.contextmanager
def _broker(folder: Path, pair: Path, clients: Pair) -> Iterator[MqttConfig]:
    port = free_port()
    lines = [f"user {getpass.getuser()}", f"listener {port} 127.0.0.1", "allow_anonymous true"]
    lines += ["require_certificate true", f"cafile {clients.ca}"]
    lines += [f"certfile {pair}", f"keyfile {pair}", "log_dest none"]
    (folder / f"{port}.conf").write_text("\n".join(lines) + "\n")
    program = need_tool("mosquitto", "/usr/sbin/mosquitto")
    with MosquittoBroker(folder / f"{port}.conf", port=port, program=program) as broker:
        yield broker.config


def test_a_broker_may_have_a_certificate_of_either(
    public: Pair, own: Pair, stranger: Pair, tmp_path: Path
) -> None:
    """Devices keep their certificates of the fleet; the broker's is looked at alike."""
    tls = TlsConfig(own.ca_text, *own.client("d"))
    for pair in (public.server(), own.server()):
        with _broker(tmp_path, pair, own) as mqtt:
            wait_until_connectable(msgspec.structs.replace(mqtt, tls=tls))
    with (
        _broker(tmp_path, stranger.server(), own) as mqtt,
        pytest.raises(UnavailableError, match="local issuer"),
    ):
        served_certificate(msgspec.structs.replace(mqtt, tls=tls))


def test_authorities_of_a_hashed_folder_count_and_are_not_read_before_they_are_needed(
    public: Pair, own: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are on most systems: an agent does not hold all of them in its memory."""
    folder = tmp_path / "certs"
    folder.mkdir()
    program = need_tool("openssl")
    digest = subprocess.run(
        [program, "x509", "-subject_hash", "-noout", "-in", str(public.ca)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (folder / f"{digest}.0").write_text(public.ca_text)
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    context = authorities.context(own.ca_text)
    assert context.cert_store_stats()["x509"] == 1, "the fleet's own alone"
    with https_server(public.server()) as server:
        way = Http(f"https://127.0.0.1:{server.port}/", lambda: context)
        with pytest.raises(UnavailableError, match="has no x"):
            read_all(way, "x", 100)
    assert server.requests == 1


def test_the_systems_authorities_can_be_left_out(
    public: Pair, own: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By OpenSSL's variables: the fleet's own then count alone."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, "/dev/null")
    for pair, reached in ((public, 0), (own, 1)):
        with https_server(pair.server()) as server, contextlib.suppress(UnavailableError):
            repository(f"https://127.0.0.1:{server.port}", own, Path())
        assert server.requests == reached


def test_what_is_no_certificate_is_refused_in_words() -> None:
    """As an error of ours."""
    with pytest.raises(InputError, match="authority cannot be used"):
        authorities.context("-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----")


def test_every_context_of_ours_is_made_in_one_place() -> None:
    """A part that makes its own knows one kind of authority alone."""
    root = Path(__file__).parents[2]
    made = [
        str(path.relative_to(root))
        for package in ("agent", "contracts", "fleet", "model_builder")
        for path in (root / package).rglob("*.py")
        if "create_default_context" in path.read_text() or "SSLContext(" in path.read_text()
    ]
    # What joins a fleet runs before anything of ours is on the board.
    assert sorted(made) == [
        "agent/micro/setup.py", "contracts/authorities.py", "fleet/joining/command.py",
    ]  # fmt: skip
    assert ssl.create_default_context().verify_mode == ssl.CERT_REQUIRED
