"""What one connection is made of: paho's client made to last, messages, retries, why it ended."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

import msgspec
from paho.mqtt.enums import MQTTErrorCode

from agent.system import unreachable
from agent.system.log import logger, reason_of
from contracts.blocks import TIME_PROPERTY
from contracts.config import TlsConfig
from contracts.connection import Client as _Client

log = logger(__name__)

FIRST_RETRY_S: Final = 0.5
MAX_RETRY_S: Final = 60.0
"""Seconds between two tries to connect: doubled from the first to the second, then jittered."""

STEADY_S: Final = 10.0
"""Seconds that a connection must have lasted for the next waits to begin anew."""

FIRST_TAKEN_S: Final = 5.0
MAX_TAKEN_S: Final = 600.0
"""The same, after another client took the session: two that share an identity would take it
from one another for ever."""

DISMISSED_S: Final = 900.0
"""Seconds between two tries of a device that was told that it is not of the fleet any more."""

GOODBYE_S: Final = 5.0
"""Seconds after which a device that was told to leave ends its connection, where the broker has
not: the next one shows whether it is meant."""

TAKEN_OVER: Final = 0x8E
"""MQTT 5, section 3.14.2.1: the reason code of a session that another client took."""

MAX_TIME_CHARS: Final = 32
"""Characters of the time that is told with a message."""

_UNSPECIFIED: Final = "Unspecified error"
"""What paho says of a connection that ended without a word."""


def why(error: OSError | None, reason: object = "", host: str = "", port: int = 0) -> str:
    """Why a connection could not be made or broke, in words; empty: nothing is known.

    Args:
        error: of the socket.
        reason: what the broker said, or paho in its place.
        host: of the broker.
        port: of the broker.
    """
    if error is not None:
        return unreachable.why(error, host, port)
    return "the broker closed it" if str(reason) == _UNSPECIFIED else str(reason)


def kind(error: OSError | None) -> str:
    """What tells one failure from another, however its words change."""
    facts = [getattr(error, name, None) for name in ("errno", "verify_code", "reason")]
    return f"{type(error).__name__} {facts}"


def fingerprint(tls: TlsConfig | None) -> str:
    """The SHA-256 of the certificate that TLS settings name by its text."""
    pem = "" if tls is None else tls.certificate or ""
    start, end = pem.find(ssl.PEM_HEADER), pem.find(ssl.PEM_FOOTER)
    if start < 0 or end < 0:
        return ""
    try:
        der = ssl.PEM_cert_to_DER_cert(pem[start : end + len(ssl.PEM_FOOTER)])
    except ValueError:
        return ""
    return hashlib.sha256(der).hexdigest()


class Inbound(msgspec.Struct, frozen=True):
    """A message as it came.

    Attributes:
        topic: where it was sent.
        payload: its bytes, any bytes.
        response_topic, correlation, expiry_s: its MQTT 5 properties, where given.
        ack: acknowledges it to the broker; until then it comes again after a restart.
        again: the broker marks it as sent before.
        at: the sender's time, where it is told with the message.
        retained: the broker had kept it, for whoever subscribes.
    """

    topic: str
    payload: bytes
    response_topic: str | None
    correlation: bytes | None
    expiry_s: int | None
    ack: Callable[[], None]
    again: bool = False
    at: float | None = None
    retained: bool = False


def time_told(properties: list[tuple[str, str]]) -> float | None:
    """The time in a message's user properties; None where there is none that is a number."""
    for name, value in properties:
        if name == TIME_PROPERTY and len(value) <= MAX_TIME_CHARS:
            with contextlib.suppress(ValueError):
                return float(value)
    return None


class Client(_Client):
    """paho's client, whose network thread ends at no exception: it connects anew instead.

    Attributes:
        failure: what the socket raised last; it is not in paho's callbacks.
    """

    failure: OSError | None = None

    def loop_forever(
        self, timeout: float = 1.0, retry_first_connection: bool = False
    ) -> MQTTErrorCode:
        """Handles network events until the client is stopped."""
        while True:
            try:
                return super().loop_forever(timeout, retry_first_connection)
            except BaseException as error:  # Rust's panics too
                log.exception("network thread failed: connecting anew", reason=reason_of(error))
                self._loop_rc_handle(
                    MQTTErrorCode.MQTT_ERR_UNKNOWN
                )  # as after an error that paho knows

    @property
    def alive(self) -> bool:
        """Whether the network thread runs."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    @property
    def address(self) -> str:
        """The address of this device on the connection; empty without one."""
        # paho's type knows plain sockets only.
        sock: Any = self.socket()
        try:
            return str(sock.getsockname()[0])[:64]
        except (OSError, AttributeError, IndexError):
            return ""

    def hang_up(self) -> None:
        """Ends the connection as a loss of it would, and the next try follows; from any thread."""
        # paho's type knows plain sockets only.
        sock: Any = self.socket()
        with contextlib.suppress(OSError, AttributeError):
            sock.shutdown(socket.SHUT_RDWR)

    def reconnect(self) -> MQTTErrorCode:
        """As paho's; keeps why it failed."""
        self.failure = None
        try:
            return super().reconnect()
        except OSError as error:
            self.failure = error
            raise

    def forget(self, mid: int) -> None:
        """Sends a message no more that is not acknowledged; called between two connections."""
        with self._out_message_mutex:
            self._out_messages.pop(mid, None)

    def _sock_recv(self, bufsize: int) -> bytes:
        # With TLS 1.3 a broker refuses a certificate after the handshake: in the first read.
        try:
            return super()._sock_recv(bufsize)
        except BlockingIOError:
            raise
        except OSError as error:
            self.failure = error
            raise


class Backoff:
    """How long to wait before the next try to connect; full jitter, so that a fleet spreads out.

    Args:
        chance: a random number between two.
    """

    def __init__(self, chance: Callable[[float, float], float] = random.uniform) -> None:
        self._chance = chance
        self._next_s = FIRST_RETRY_S
        self._taken_s = FIRST_TAKEN_S
        self._least_s = 0.0

    def failed(self) -> float:
        """No connection was made."""
        wait = self._chance(0.1, self._next_s)
        self._next_s = min(MAX_RETRY_S, self._next_s * 2)
        return max(wait, self._chance(0.5, 1.0) * self._least_s)

    def lost(self, lasted_s: float) -> float:
        """A connection ended after so many seconds."""
        if lasted_s >= STEADY_S:
            self._next_s = FIRST_RETRY_S
        return self.failed()

    def taken(self, lasted_s: float) -> float:
        """Another client took the session after so many seconds."""
        if lasted_s > 2 * MAX_TAKEN_S:
            self._taken_s = FIRST_TAKEN_S
        wait = self._chance(0.5, 1.0) * self._taken_s
        self._taken_s = min(MAX_TAKEN_S, self._taken_s * 2)
        return wait

    def dismissed(self, dismissed: bool) -> None:
        """Whether the device was told that the fleet has no use for it: then there is no hurry."""
        self._least_s = DISMISSED_S if dismissed else 0.0


class Rival:
    """Whether another client has this device's identity, and takes its session.

    A broker may say so when it ends a connection, and many do not. The retained status tells it,
    too: at a later connection of a boot it is the boot's own, unless another was there.

    Attributes:
        taken: how often the session was taken.
    """

    def __init__(self) -> None:
        self.taken = 0
        self._seen = False
        self._told = False

    def ended(self, reason: int) -> bool:
        """A connection ended; whether it was taken, as far as can be known."""
        self._told = reason == TAKEN_OVER
        if self._told:
            self.taken += 1
            self._seen = True
        return self._seen

    def status(self, other: bool) -> bool:
        """The retained status of a later connection; whether it says that it was taken.

        Args:
            other: it is of another boot, and online.
        """
        self._seen = other
        news = other and not self._told
        if news:
            self.taken += 1
        self._told = False
        return news
