"""The settings of a connection."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from contracts.config import MqttConfig
from contracts.connection import new_client, tls_context
from tests.support.certificates import new_tls
from tests.support.tools import need_tool


def test_a_certificate_needs_no_disk_to_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full or read-only disk there is no place for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")  # none of the system's
    assert tls_context(new_tls()).cert_store_stats()["x509"] == 1


def open_sockets() -> set[str]:
    """The sockets of this process."""
    found = set()
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            target = str(handle.readlink())
            if target.startswith("socket:"):
                found.add(target)
    return found


@pytest.mark.parametrize("answer", [b"", b"not TLS at all\n"])
def test_a_handshake_that_fails_leaves_no_socket_open(answer: bytes) -> None:
    """Whoever keeps why it failed keeps what its frames hold."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            with server.accept()[0] as peer:
                peer.recv(1)
                peer.sendall(answer)

        peer = threading.Thread(target=refuse)
        peer.start()
        client = new_client(MqttConfig(port=server.getsockname()[1], tls=new_tls()), "c")
        before = open_sockets()
        with pytest.raises(OSError) as kept:
            client.connect("127.0.0.1", server.getsockname()[1])
        peer.join()
        assert open_sockets() == before, kept.value


def test_a_client_that_stopped_leaves_no_socket_open(mosquitto_broker: MqttConfig) -> None:
    """What wakes its network thread goes with the thread."""
    before = open_sockets()
    client = new_client(mosquitto_broker, "c")
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.connect_async(mosquitto_broker.host, mosquitto_broker.port)
    client.loop_start()
    assert connected.wait(30)
    assert len(open_sockets() - before) == 3
    client.disconnect()
    client.loop_stop()
    assert open_sockets() == before


def test_a_client_runs_on_a_host_without_127_0_0_1() -> None:
    """Paho wakes its thread over it; a board may have IPv6 alone, or no network yet."""
    program = (
        "from contracts.config import MqttConfig; from contracts.connection import new_client; "
        "client = new_client(MqttConfig(host='::1'), 'a'); client.loop_start(); "
        "client.publish('a'); client.loop_stop()"
    )
    alone = [need_tool("unshare"), "--map-root-user", "--net"]
    probe = subprocess.run([*alone, "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"no namespace with a network of its own here: {probe.stderr.strip()}")
    done = subprocess.run(
        [*alone, sys.executable, "-c", program],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
