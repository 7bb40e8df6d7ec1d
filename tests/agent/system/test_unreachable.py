"""A device that cannot connect says why, and where to look: each cause is a real one."""

from __future__ import annotations

import contextlib
import errno
import gc
import getpass
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

from agent.certificates.device import post
from agent.link import Link
from agent.system import unreachable
from agent.system.clock import SystemClock
from contracts.config import MqttConfig, TlsConfig
from contracts.errors import UnavailableError
from fleet.broker.run import MosquittoBroker
from tests.support.authorities import Pair
from tests.support.tools import free_port, need_tool

PATIENCE_S = 90.0

# paho leaves the socket of a handshake that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@contextlib.contextmanager
def linked(config: MqttConfig) -> Iterator[Link]:
    """A device's link that tries to connect."""
    link = Link(
        config,
        fleet="f",
        device="d",
        groups=[],
        folder=Path(),
        boot="b",
        next_session=lambda: 1,
        clock=SystemClock(),
        on_message=lambda _: None,
        on_change=lambda _: None,
    )
    link.start()
    try:
        yield link
    finally:
        link.stop()
        link._client.failure = None  # with its frames
        gc.collect()


def error_of(config: MqttConfig) -> str:
    """What a link says of why it does not connect."""
    with linked(config) as link:
        end = time.monotonic() + PATIENCE_S
        while not link.last_error and time.monotonic() < end:
            time.sleep(0.02)
        assert not link.connected.is_set()
        return link.last_error


@contextlib.contextmanager
def mosquitto(folder: Path, *lines: str) -> Iterator[int]:
    """A real broker with these lines in its configuration; its port."""
    port = free_port()
    text = [f"user {getpass.getuser()}", f"listener {port} 127.0.0.1", "log_type error", *lines]
    (folder / "mosquitto.conf").write_text("\n".join(text) + "\n")
    program = need_tool("mosquitto", "/usr/sbin/mosquitto")
    with MosquittoBroker(folder / "mosquitto.conf", port=port, program=program):
        yield port


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that does this with every connection; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_a_port_where_nothing_listens_is_named() -> None:
    """With the question that helps."""
    port = free_port()
    said = error_of(MqttConfig(port=port))
    assert f"no connection to 127.0.0.1:{port}: nothing listens on 127.0.0.1:{port}" in said
    assert "is this its port" in said


def test_a_name_that_is_not_found_is_told_from_a_name_server_that_is_silent(
    tmp_path: Path,
) -> None:
    """One is a typing error, the other the network."""
    fleet = Pair(tmp_path, "fleet")
    tls = TlsConfig(fleet.ca_text, *fleet.client("d"))
    said = error_of(MqttConfig(host="no-such-host.invalid", port=8883, tls=tls))
    assert "no-such-host.invalid" in said
    assert ("was not found" in said and "getent hosts" in said) or "no name server answered" in said
    silent = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    assert "/etc/resolv.conf" in unreachable.why(silent, "b.example", 8883)
    missing = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert "getent hosts b.example" in unreachable.why(missing, "b.example", 8883)


def test_a_password_that_is_wrong_and_a_device_that_may_not_are_told_apart(tmp_path: Path) -> None:
    """Both are the broker's refusals; it was the library's words before, at every try."""
    (tmp_path / "passwords").write_text("")
    (tmp_path / "passwords").chmod(0o600)
    lines = ("allow_anonymous false", f"password_file {tmp_path / 'passwords'}")
    with mosquitto(tmp_path, *lines) as port, structlog.testing.capture_logs() as logs:
        config = MqttConfig(port=port)
        with linked(config) as link:
            end = time.monotonic() + PATIENCE_S
            while link._backoff._next_s < 4 and time.monotonic() < end:  # several tries
                time.sleep(0.02)
            assert "not authorised" in link.last_error and "shoal fleet devices" in link.last_error
    assert len([log for log in logs if log["event"] == "connection refused"]) == 1
    assert "agent.yaml" in unreachable.refusal(0x86, "Bad user name or password")


def test_a_broker_without_mqtt_5_is_named() -> None:
    """It answers as MQTT 3.1.1 says: the level is not one that it speaks."""
    with server(lambda one: (one.recv(1000), one.sendall(b"\x20\x02\x00\x01"))) as port:
        assert "does not speak MQTT 5" in error_of(MqttConfig(port=port))


def test_a_plain_port_under_tls_and_tls_under_a_plain_client_are_named(tmp_path: Path) -> None:
    """Ports that were exchanged."""
    fleet = Pair(tmp_path, "fleet")
    certificate, key = fleet.client("d")
    tls = TlsConfig(fleet.ca_text, certificate, key)
    with mosquitto(tmp_path, "allow_anonymous true") as port:
        said = error_of(MqttConfig(port=port, tls=tls))
    assert "port of TLS" in said or "speaks TLS?" in said
    lines = [f"{name} {fleet.server()}" for name in ("certfile", "keyfile")]
    with mosquitto(tmp_path, "allow_anonymous true", *lines) as port:
        said = error_of(MqttConfig(port=port))
    assert "expects TLS?" in said


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda one: (one.recv(1000), one.sendall(b"HTTP/1.1 302 Found\r\n\r\n")), "speak TLS"),
        (lambda one: one.recv(1000), "port of TLS"),
    ],
    ids=["sign-in page", "closes"],
)
def test_what_is_no_tls_server_is_named(
    tmp_path: Path, answer: Callable[[socket.socket], None], said: str
) -> None:
    """A page that wants a sign-in answers for everything in some networks."""
    fleet = Pair(tmp_path, "fleet")
    certificate, key = fleet.client("d")
    with server(answer) as port:
        found = error_of(MqttConfig(port=port, tls=TlsConfig(fleet.ca_text, certificate, key)))
    assert said in found, found


@pytest.mark.parametrize(
    ("host", "trusted", "said"),
    [
        ("localhost", "fleet", "is not for 127.0.0.1: connect to a name that it has"),
        ("127.0.0.1", "other", "another authority than the fleet's"),
    ],
    ids=["another name", "another authority"],
)
def test_a_certificate_of_another_name_or_authority_is_told_apart(
    tmp_path: Path, host: str, trusted: str, said: str
) -> None:
    """For the broker and, in the same words, for the controller at enrolment and renewal."""
    fleet, other = Pair(tmp_path, "fleet"), Pair(tmp_path, "other")
    pairs = {"fleet": fleet, "other": other}
    certificate, key = fleet.client("d")
    tls = TlsConfig(pairs[trusted].ca_text, certificate, key)
    lines = [f"{name} {fleet.server(host)}" for name in ("certfile", "keyfile")]
    with mosquitto(tmp_path, "allow_anonymous true", *lines) as port:
        found = error_of(MqttConfig(port=port, tls=tls))
        assert (
            f"the certificate of the broker is not {'trusted' if trusted == 'other' else 'for'}"
            in found
        )
        assert said in found, found
        context = ssl.create_default_context(cadata=pairs[trusted].ca_text)
        with pytest.raises(UnavailableError, match="certificate of the controller") as refused:
            post(f"https://127.0.0.1:{port}/x", b"{}", context)
        assert said in str(refused.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "no network that leads to h"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "h cannot be reached"),
        (TimeoutError(errno.ETIMEDOUT, "timed out"), "no answer from h:1"),
        (TimeoutError("timed out"), "a firewall is between"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "broke the connection off"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_a_network_says_is_told_in_words(error: OSError, said: str) -> None:
    """Whatever library has wrapped it."""
    assert said in unreachable.why(error, "h", 1)
    wrapped = RuntimeError("a pool's own words", error)
    assert said in unreachable.why(wrapped, "h", 1)
    assert msgspec.json.encode(unreachable.why(wrapped, "h", 1))


def test_an_unknown_error_is_told_as_it_is() -> None:
    """And no error gives no words."""
    assert unreachable.why(OSError(5, "Input/output error"), "h", 1) == "Input/output error"
    assert unreachable.why(None, "h", 1) == ""
    assert unreachable.refusal(0x80, "Unspecified error") == "Unspecified error"
