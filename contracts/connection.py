"""A paho-mqtt client set up from a :class:`contracts.config.MqttConfig`: MQTT 5, TLS, session."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from contracts import authorities, files, limits
from contracts.config import MqttConfig, TlsConfig
from contracts.errors import InputError

_HANDLES: Final = Path("/proc/self/fd")


def is_loopback(host: str) -> bool:
    """Whether `host` is an address of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_pem(value: str, folder: Path) -> str:
    """PEM text, from text or the path of a file; ``InputError`` (``bad-certificate``)."""
    if "-----BEGIN" in value:
        return value
    try:
        return files.read_small(folder / value, what="PEM file", code="bad-certificate").decode()
    except UnicodeDecodeError as error:
        raise InputError("bad-certificate", f"cannot read PEM file {value}: {error}") from None


def tls_context(tls: TlsConfig, folder: Path = Path()) -> ssl.SSLContext:
    """An SSL context for mutual TLS: with our certificate, and the authorities that we believe.

    Args:
        tls: PEM texts or paths.
        folder: what relative paths are relative to.

    Raises:
        InputError: ``bad-certificate``.
    """
    try:
        context = authorities.context(read_pem(tls.ca, folder) if tls.ca else "")
        load_pair(context, tls, folder)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise InputError("bad-certificate", f"the TLS settings cannot be used: {error}") from None
    return context


def _waker() -> tuple[socket.socket, socket.socket]:
    """Two ends that wake a network thread. paho's go over 127.0.0.1, which not all hosts have."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends


paho._socketpair_compat = _waker


class Client(paho.Client):
    """paho's client, which leaves no socket behind: of a handshake that fails, or when it stops.

    paho forgets them, and each stays open until the garbage collector finds it.
    """

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        sock = tcp_sock
        try:
            tcp_sock.getpeername()  # the peer may be gone already
            assert self._ssl_context is not None and self._ssl_context.check_hostname
            sock = self._ssl_context.wrap_socket(
                tcp_sock, server_hostname=self._host, do_handshake_on_connect=False
            )
            sock.settimeout(self._connect_timeout)
            sock.do_handshake()
        except BaseException:
            sock.close()
            raise
        return sock

    def loop_stop(self) -> MQTTErrorCode:
        """Ends the network thread, waits for its end, and closes what woke it."""
        result = super().loop_stop()
        if threading.current_thread() != self._thread:
            self._reset_sockets(sockpair_only=True)
        return result

    def close(self) -> None:
        """Closes what is open of a client without a network thread."""
        self._reset_sockets()


def _send_at_once(client: paho.Client, userdata: Any, connection: Any) -> None:
    """Small packets do not wait for the acknowledgement of the ones before (Nagle): 40 ms."""
    del client, userdata
    with suppress(OSError, AttributeError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@contextmanager
def _private_file() -> Iterator[tuple[IO[bytes], str]]:
    """A file that only we can read, and its path: the ssl module loads a key from files alone.

    In memory where the system has that: a disk may be full or read-only, and keeps what it had.
    """
    if hasattr(os, "memfd_create") and _HANDLES.is_dir():
        with os.fdopen(os.memfd_create("pair.pem"), "wb") as file:
            yield file, str(_HANDLES / str(file.fileno()))
        return
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        yield file, file.name


def load_pair(context: ssl.SSLContext, tls: TlsConfig, folder: Path = Path()) -> None:
    """Makes new connections of `context` use the certificate and key of `tls`, if it has them.

    Raises:
        InputError: ``bad-certificate``.
    """
    if not tls.certificate or not tls.key:
        return
    try:
        pair = read_pem(tls.certificate, folder) + "\n" + read_pem(tls.key, folder)
        with _private_file() as (file, path):
            file.write(pair.encode())
            file.flush()
            context.load_cert_chain(path)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise InputError("bad-certificate", f"the TLS settings cannot be used: {error}") from None


def _reading_again(
    context: ssl.SSLContext, tls: TlsConfig, folder: Path
) -> Callable[[paho.Client, Any], None]:
    def read(client: paho.Client, userdata: Any) -> None:
        del client, userdata
        # Half of a pair that is just being written does not open: the next try reads it again.
        with suppress(InputError):
            load_pair(context, tls, folder)

    return read


def device_client_id(fleet: str, device: str, tls: TlsConfig | None, folder: Path = Path()) -> str:
    """A device's client id, which nobody can guess who has not its private key.

    A broker ends the session of whoever is connected under an id, whoever asks: mosquitto does
    not bind ids to certificates. The id stays while the key does, and nothing is stored for it.

    Args:
        fleet: its name.
        device: its name.
        tls: as the device was enrolled with it; without a key (loopback) the id has no secret.
        folder: what relative PEM paths are relative to.

    Raises:
        InputError: ``bad-certificate``.
    """
    name = f"shoal-{fleet}-{device}"
    if tls is None or not tls.key:
        return name
    key = "".join(read_pem(tls.key, folder).split())
    digest = hashlib.sha256(b"shoal client id v1\0" + key.encode())
    return f"{name}-{digest.hexdigest()[:32]}"


def new_client(
    config: MqttConfig,
    client_id: str,
    *,
    folder: Path = Path(),
    manual_ack: bool = False,
    context: ssl.SSLContext | None = None,
    kind: type[Client] = Client,
) -> Client:
    """A paho client, not yet connected.

    Args:
        config: the broker.
        client_id: unique on the broker, and hard to guess: who connects under it takes it.
        folder: what relative PEM paths are relative to.
        context: for TLS; None: made from `config`, whose certificate and key are read again
            before each connection: the files may have been renewed.
        manual_ack: the caller acknowledges each QoS 1 message itself.
        kind: its class.

    Raises:
        InputError: ``tls-needed`` for a plain connection beyond loopback; ``bad-certificate``.
    """
    client = kind(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=MQTTProtocolVersion.MQTTv5,
        manual_ack=manual_ack,
    )
    client.on_socket_open = _send_at_once
    if config.tls is not None:
        if context is None:
            context = tls_context(config.tls, folder)
            client.on_pre_connect = _reading_again(context, config.tls, folder)
        client.tls_set_context(context)
    elif not is_loopback(config.host):
        raise InputError(
            "tls-needed",
            f"the broker {config.host} is not on this machine: configure mqtt.tls, "
            "plain connections are for loopback alone",
        )
    if config.username is not None:
        client.username_pw_set(config.username, config.password)
    return client


def connect_properties(config: MqttConfig) -> Properties:
    """CONNECT properties: session expiry and a receive maximum that bounds our queue."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = config.session_expiry_s
    properties.ReceiveMaximum = limits.MAX_IN_FLIGHT
    return properties
