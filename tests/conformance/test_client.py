"""The conformance client as the public suite drives it: a process against an HTTP server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, TargetFile

from contracts.bundle import sha256_of
from contracts.errors import ShoalError
from tests.support.tuf_simulator import ROLES, Simulator, new_signer

CLIENT = Path(__file__).with_name("client.py")


class Server:
    """Serves a simulator over HTTP and remembers the paths that were asked for."""

    def __init__(self, repository: Simulator) -> None:
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.lstrip("/")
                server.asked.append(path)
                try:
                    data = repository.fetch(path, 10**9)
                except ShoalError:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stops serving."""
        self.http.shutdown()
        self.http.server_close()


class Client:
    """Runs the client with a folder of its own."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.url = server.url
        self.metadata = folder / "metadata"
        self.targets = folder / "targets"
        self.metadata.mkdir()
        self.error = ""

    def run(self, *arguments: str) -> int:
        """Runs the client; returns its exit code."""
        done = subprocess.run(
            [sys.executable, CLIENT, "--metadata-dir", self.metadata, *arguments],
            env={**os.environ, "PYTHONPATH": str(CLIENT.parents[2])},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.error = done.stderr
        assert "Traceback" not in done.stderr
        return done.returncode

    def init(self, root: bytes) -> int:
        """``init`` with a root."""
        path = self.metadata.parent / "initial_root.json"
        path.write_bytes(root)
        return self.run("init", str(path))

    def refresh(self) -> int:
        """``refresh``."""
        return self.run("--metadata-url", f"{self.url}/metadata", "refresh")

    def download(self, name: str) -> int:
        """``download``."""
        return self.run(
            "--metadata-url", f"{self.url}/metadata/", "--target-name", name,
            "--target-base-url", f"{self.url}/targets/", "--target-dir", str(self.targets),
            "download",
        )  # fmt: skip

    def trusted(self) -> dict[str, int]:
        """The versions that the client trusts, read as the suite reads them."""
        return {
            path.stem: Metadata.from_file(str(path)).signed.version
            for path in sorted(self.metadata.glob("*.json"))
        }


@pytest.fixture
def repository() -> Simulator:
    """A repository that is fresh by the real clock, as the client has no other."""
    simulator = Simulator()
    for role in ROLES:
        getattr(simulator, role).expires = (datetime.now(timezone.utc) + timedelta(days=9)).replace(
            microsecond=0
        )
    simulator.publish_root()
    simulator.publish()
    return simulator


@pytest.fixture
def server(repository: Simulator) -> Iterator[Server]:
    """The repository over HTTP."""
    server = Server(repository)
    yield server
    server.close()


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Client:
    """A client without any metadata."""
    return Client(server, tmp_path)


def test_init_then_refresh_trusts_the_newest_metadata(
    repository: Simulator, server: Server, client: Client
) -> None:
    """Init asks nothing; refresh asks in the order of the specification."""
    assert client.init(repository.first_root) == 0
    assert server.asked == []
    assert client.trusted() == {"root": 1}
    assert client.refresh() == 0
    assert client.trusted() == {"root": 2, "timestamp": 2, "snapshot": 2, "targets": 2}
    assert server.asked == [
        "metadata/2.root.json",
        "metadata/3.root.json",
        "metadata/timestamp.json",
        "metadata/2.snapshot.json",
        "metadata/2.targets.json",
    ]
    for role in ("timestamp", "targets"):
        path = "metadata/timestamp.json" if role == "timestamp" else f"metadata/2.{role}.json"
        assert (client.metadata / f"{role}.json").read_bytes() == repository.served[path]


def test_a_refresh_without_changes_asks_for_root_and_timestamp_alone(
    repository: Simulator, server: Server, client: Client
) -> None:
    """What is trusted and current is not fetched again."""
    client.init(repository.first_root)
    client.refresh()
    server.asked.clear()
    assert client.refresh() == 0
    assert server.asked == ["metadata/3.root.json", "metadata/timestamp.json"]


def test_a_refused_refresh_keeps_what_was_trusted(repository: Simulator, client: Client) -> None:
    """Exit code 1, the attack by name, and the old metadata."""
    client.init(repository.first_root)
    client.refresh()
    repository.timestamp.version -= 1
    repository.publish_timestamp()
    assert client.refresh() == 1
    assert client.error.startswith("rollback: ")
    assert client.trusted()["timestamp"] == 2
    repository.timestamp.version = 9
    repository.signers["timestamp"] = [new_signer()]
    repository.publish_timestamp()
    assert client.refresh() == 1
    assert client.error.startswith("wrong-signature: ")
    assert client.trusted()["timestamp"] == 2


def test_new_roots_are_kept_though_the_rest_is_refused(
    repository: Simulator, client: Client
) -> None:
    """Root first: a root that is right counts even when the timestamp after it is expired."""
    client.init(repository.first_root)
    repository.publish_root()
    repository.timestamp.expires = datetime(2026, 1, 1, tzinfo=timezone.utc)
    repository.publish()
    assert client.refresh() == 1
    assert client.error.startswith("freeze: ")
    assert client.trusted()["root"] == 3
    assert "targets" not in client.trusted()


def test_an_init_with_a_root_that_is_noise_is_refused_at_refresh(client: Client) -> None:
    """The protocol expects no check at init."""
    assert client.init(b"noise") == 0
    assert client.refresh() == 1


def add_target(repository: Simulator, name: str, data: bytes) -> None:
    """Publishes a target under its hash."""
    repository.targets.targets[name] = TargetFile.from_data(name, data, ["sha256"])
    folder, slash, base = name.rpartition("/")
    repository.served[f"targets/{folder}{slash}{sha256_of(data)}.{base}"] = data
    repository.publish()


def test_download_stores_a_target_once_under_one_name(
    repository: Simulator, client: Client
) -> None:
    """A changed target replaces the one before."""
    client.init(repository.first_root)
    add_target(repository, "bundles/x/1.0.0/manifest.json", b"first")
    assert client.download("bundles/x/1.0.0/manifest.json") == 0
    add_target(repository, "bundles/x/1.0.0/manifest.json", b"second")
    assert client.download("bundles/x/1.0.0/manifest.json") == 0
    assert [path.read_bytes() for path in client.targets.iterdir()] == [b"second"]


def test_download_refuses_what_is_not_signed(repository: Simulator, client: Client) -> None:
    """An unknown name, and bytes that are not the signed ones: nothing is stored."""
    client.init(repository.first_root)
    add_target(repository, "file.txt", b"honest")
    assert client.download("other.txt") == 1
    repository.served[f"targets/{sha256_of(b'honest')}.file.txt"] = b"forged"
    assert client.download("file.txt") == 1
    assert client.error.startswith("wrong-manifest: ")
    assert not client.targets.exists()


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/../b", "ä b%2F?x#y", "a//b"])
def test_a_strange_target_name_stays_inside_the_folders(
    repository: Simulator, client: Client, name: str
) -> None:
    """A name is data: it is neither a path on disk nor a part of the URL's syntax."""
    client.init(repository.first_root)
    before = {path.name for path in client.metadata.parent.iterdir()}
    add_target(repository, name, b"data")
    client.download(name)
    after = {path.name for path in client.metadata.parent.iterdir()}
    assert after <= before | {"targets"}
    if client.targets.exists():
        assert [path.name for path in client.targets.iterdir()] == [sha256_of(name.encode())]
