"""Brokers that run as part of something: a process each, on loopback, gone afterwards."""

from __future__ import annotations

import abc
import contextlib
import errno
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

import paho.mqtt.client as paho

from contracts import limits
from contracts.config import MqttConfig, endpoint
from contracts.connection import new_client
from contracts.errors import UnavailableError
from fleet.broker.mosquitto import write_configuration

if TYPE_CHECKING:
    from typing_extensions import Self

_START_S: Final = 15.0
_STOP_S: Final = 10.0
_POLL_S: Final = 0.02

# rumqttd, the broker inside the iotcore wheel. Its default listener speaks MQTT 3.1.1 on every
# interface; this one speaks MQTT 5 on loopback. A payload is capped as mosquitto's is.
_EMBEDDED: Final = """\
id = 0

[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10

[v5.1]
name = "v5"
listen = "{where}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 5000
max_payload_size = {max_payload}
max_inflight_count = 500
dynamic_filters = true
"""


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_taken(port: int) -> bool:
    """Whether a program of this machine listens on a TCP port, on any address."""
    for family, everywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((everywhere, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
    return False


def wait_until_connectable(config: MqttConfig, timeout_s: float = _START_S) -> None:
    """Returns once an MQTT 5 client can connect.

    Raises:
        UnavailableError: ``broker-unreachable`` after `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        client = new_client(config, f"probe-{time.monotonic_ns()}")
        try:
            client.connect(config.host, config.port)
            while time.monotonic() < deadline and client.loop(0.05) == paho.MQTT_ERR_SUCCESS:
                if client.is_connected():
                    client.disconnect()
                    return
        except OSError:
            pass
        finally:
            client.close()
        time.sleep(_POLL_S)
    raise UnavailableError(
        "broker-unreachable",
        f"no MQTT 5 broker answers on {config.where} after {timeout_s:.0f} s",
    )


def _wait_until_listening(process: subprocess.Popen[bytes], host: str, port: int) -> None:
    deadline = time.monotonic() + _START_S
    why = "it took too long"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            why = f"it ended with exit code {process.returncode}; what it said is above"
            break
        try:
            with socket.create_connection((host, port), 1) as probe:
                probe.shutdown(socket.SHUT_WR)
                # Hung up on: it serves connections, so its other listeners are open too.
                with contextlib.suppress(ConnectionResetError):
                    probe.recv(1)
                return
        except OSError as error:
            why = str(error.strerror or error)
        time.sleep(_POLL_S)
    raise UnavailableError(
        "broker-unreachable", f"mosquitto did not start on {endpoint(host, port)}: {why}"
    )


class _Broker(abc.ABC):
    """A broker that runs between :meth:`start` and :meth:`stop`; a context manager."""

    config: MqttConfig

    @abc.abstractmethod
    def start(self) -> None:
        """Starts it and returns once it accepts connections."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Ends it in order and removes what was temporary."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class MosquittoBroker(_Broker):
    """A mosquitto process; a context manager.

    Args:
        configuration: a ``mosquitto.conf``; None: one without access control, on loopback.
        port: of the listener (must be the configuration's); None: a free one.
        host: of the listener.
        program: None: looked up.

    Raises:
        UnavailableError: ``no-mosquitto``, ``broker-unreachable``.
    """

    def __init__(
        self,
        configuration: Path | None = None,
        *,
        port: int | None = None,
        host: str = "127.0.0.1",
        program: str | None = None,
    ) -> None:
        self.config = MqttConfig(host=host, port=port or free_port())
        self._configuration = configuration
        self._program = program
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process and returns once it accepts connections."""
        program = self._program or find_mosquitto()
        if self._configuration is None:
            folder = Path(
                self._stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-broker-"))
            )
            self._configuration = write_configuration(
                folder, port=self.config.port, host=self.config.host, persistence=False
            )
        # In a session of its own: Ctrl-C ends the controller first, which then ends it.
        self._process = subprocess.Popen(
            [program, "-c", str(self._configuration)], start_new_session=True
        )
        try:
            _wait_until_listening(self._process, self.config.host, self.config.port)
        except UnavailableError:
            self.stop()
            raise

    @property
    def ended(self) -> int | None:
        """The exit code of a process that ended by itself; None: it runs."""
        return None if self._process is None else self._process.poll()

    def reload(self) -> None:
        """Makes the broker read its ACL, certificate and revocation list again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """Ends the process as a power cut would; :meth:`start` may follow."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOP_S)
            self._process = None

    def stop(self) -> None:
        """Ends the process in order and removes what was temporary."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(_STOP_S)
            self._process = None
        self._stack.close()


def find_mosquitto() -> str:
    """The path of mosquitto, also where Debian puts it out of a user's PATH.

    Raises:
        UnavailableError: ``no-mosquitto``.
    """
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise UnavailableError(
            "no-mosquitto", "mosquitto is not installed: apt-get install mosquitto"
        )
    return found


class EmbeddedBroker(_Broker):
    """The broker that comes with the `fleet` extra; a context manager. No access control.

    For a demo and for rehearsals on one machine: it listens on loopback alone.

    Args:
        port: None: a free one.
        host: an address of this machine alone.

    Raises:
        UnavailableError: ``broker-unreachable``; also when the port is taken.
    """

    def __init__(self, port: int | None = None, host: str = "127.0.0.1") -> None:
        self.config = MqttConfig(host=host, port=port or free_port())
        self._stack = contextlib.ExitStack()

    def start(self) -> None:
        """Starts the process and returns once an MQTT 5 client can connect."""
        import iotcore

        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-broker-"))
            file = Path(folder) / "broker.toml"
            file.write_text(_EMBEDDED.format(where=self.config.where, max_payload=limits.MIB))
            try:
                stack.enter_context(iotcore.Broker(config_path=str(file)))
                wait_until_connectable(self.config)
            except (OSError, RuntimeError) as error:
                raise UnavailableError(
                    "broker-unreachable", f"the embedded broker did not start: {error}"
                ) from None
            self._stack = stack.pop_all()

    def stop(self) -> None:
        """Ends the process."""
        self._stack.close()
