"""The connection to the broker.

MQTT 5, a will with a session number, and always the same subscriptions, whatever the broker
still knows of us.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.system.clock import Clock
from agent.system.controller_clock import certificate_time
from agent.system.log import logger
from contracts import codec
from contracts.blocks import TIME_PROPERTY
from contracts.config import MqttConfig, TlsConfig
from contracts.connection import (
    connect_properties,
    device_client_id,
    load_pair,
    new_client,
    tls_context,
)
from contracts.errors import ShoalError, UnavailableError
from contracts.messages import Status
from contracts.topics import Topics

log = logger(__name__)

FIRST_RETRY_S: Final = 0.5
MAX_RETRY_S: Final = 60.0
"""Seconds between two tries to connect: doubled from the first to the second, then jittered."""

SAY_AGAIN_S: Final = 600.0
"""Seconds after which the log says again why there is no connection."""

MAX_QUEUED: Final = 1000
"""Messages that may wait for the connection in memory; more are refused, and the spool keeps
what must not be lost."""

MAX_TIME_CHARS: Final = 32
"""Characters of the time that is told with a message."""

MAX_INFLIGHT: Final = 64
"""QoS 1 messages on the way to the broker at once."""


def _nothing(taken: bool) -> None:
    """For messages whose fate nobody asks for; so that every message id is accounted for."""


class Client(paho.Client):
    """paho's client, whose network thread ends at no exception: it connects anew instead."""

    def loop_forever(
        self, timeout: float = 1.0, retry_first_connection: bool = False
    ) -> MQTTErrorCode:
        """Handles network events until the client is stopped."""
        while True:
            try:
                return super().loop_forever(timeout, retry_first_connection)
            except BaseException as error:  # Rust's panics too
                log.exception("network thread failed: connecting anew", reason=repr(error))
                self._loop_rc_handle(
                    MQTTErrorCode.MQTT_ERR_UNKNOWN
                )  # as after an error that paho knows

    failure: BaseException | None = None
    """Why the last try to connect failed."""

    def reconnect(self) -> MQTTErrorCode:
        """Connects, and remembers why it cannot."""
        try:
            return super().reconnect()
        except OSError as error:
            self.failure = error
            raise

    @property
    def alive(self) -> bool:
        """Whether the network thread runs."""
        thread = self._thread
        return thread is not None and thread.is_alive()


class Inbound(msgspec.Struct, frozen=True):
    """A message as it came.

    Attributes:
        topic: where it was sent.
        payload: its bytes, any bytes.
        response_topic, correlation, expiry_s: its MQTT 5 properties, where given.
        ack: acknowledges it to the broker; until then it comes again after a restart.
        again: the broker marks it as sent before.
        at: the sender's time, where it is told with the message.
    """

    topic: str
    payload: bytes
    response_topic: str | None
    correlation: bytes | None
    expiry_s: int | None
    ack: Callable[[], None]
    again: bool = False
    at: float | None = None


class Link:
    """One device's connection. Reconnects by itself, with jittered exponential back-off.

    Args:
        config: the broker.
        fleet, device: names.
        groups: whose requests are answered too.
        folder: what relative PEM paths are relative to.
        boot: the boot id.
        next_session: gives the next session number, durably.
        clock: the time.
        on_message: takes every message; runs on the network thread.
        on_change: told after each connect and disconnect.
        client_id: under which the broker keeps the session; None: made from `config`.

    Raises:
        InputError: the TLS settings cannot be used.
    """

    def __init__(
        self,
        config: MqttConfig,
        *,
        fleet: str,
        device: str,
        groups: list[str],
        folder: Path,
        boot: str,
        next_session: Callable[[], int],
        clock: Clock,
        on_message: Callable[[Inbound], None],
        on_change: Callable[[bool], None],
        client_id: str | None = None,
    ) -> None:
        self._config = config
        self._topics = Topics(fleet)
        self._device = device
        self._boot = boot
        self._next_session = next_session
        self._clock = clock
        self._on_message = on_message
        self._on_change = on_change
        self._retry_s = FIRST_RETRY_S
        self._session = 0
        self._since = clock.time()
        self._tracked: dict[int, Callable[[bool], None]] = {}
        self._early: dict[int, bool] = {}
        self._lock = threading.Lock()
        self._status_topic = self._topics.of_device(device, "status")
        self._filters = [
            self._topics.of_device(device, "desired"),
            self._topics.requests_of(device),
            self._topics.blobs_of(device),
            self._status_topic,
            *(self._topics.group_requests(group) for group in groups),
        ]
        self.connected = threading.Event()
        self.connections = 0
        self.last_error = ""
        self._said = ""
        self._say_again = 0.0
        self._context = tls_context(config.tls, folder) if config.tls else None
        if client_id is None:
            client_id = device_client_id(fleet, device, config.tls, folder)
        client = new_client(config, client_id, manual_ack=True, context=self._context, kind=Client)
        assert isinstance(client, Client)
        self._client = client
        self._running = False
        client.max_queued_messages_set(MAX_QUEUED)
        client.max_inflight_messages_set(MAX_INFLIGHT)
        client.on_pre_connect = self._before_connect
        client.on_connect = self._connected
        client.on_connect_fail = self._guarded(self._not_connected)
        client.on_disconnect = self._guarded(self._disconnected)
        client.on_message = self._guarded(self._message)
        client.on_publish = self._guarded(self._published)

    # Life. ------------------------------------------------------------------------------

    def start(self) -> None:
        """Connects in the background, now and after every loss."""
        self._client.connect_async(
            self._config.host,
            self._config.port,
            keepalive=self._config.keepalive_s,
            clean_start=False,
            properties=connect_properties(self._config),
        )
        self._client.loop_start()
        self._running = True

    @property
    def alive(self) -> bool:
        """Whether the network thread runs, if it should."""
        return self._client.alive or not self._running

    def stop(self) -> None:
        """Says goodbye and ends the network thread."""
        self._running = False
        if self.connected.is_set():
            done = threading.Event()
            try:
                self.publish(
                    self._status_topic,
                    self._status("offline"),
                    retain=True,
                    done=lambda _: done.set(),
                )
                done.wait(2)
            except UnavailableError:
                pass
        self._client.disconnect()
        self._client.loop_stop()

    def renewed(self, tls: TlsConfig) -> None:
        """Uses another certificate from the next connection on."""
        if self._context is not None:
            load_pair(self._context, tls)

    # Sending. ---------------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        done: Callable[[bool], None] | None = None,
    ) -> None:
        """Sends a message.

        Args:
            topic: where to.
            payload: what.
            qos: 0 or 1.
            retain: the broker keeps it.
            done: told once whether the broker took it (QoS 1); on the network thread.

        Raises:
            UnavailableError: ``offline``; too much waits already.
        """
        info = self._client.publish(topic, payload, qos=qos, retain=retain)
        if info.rc == paho.MQTT_ERR_QUEUE_SIZE:
            raise UnavailableError("offline", "too many messages wait for the connection")
        done = done or _nothing
        with self._lock:  # the acknowledgement may have been faster
            early = self._early.pop(info.mid, None)
            if early is None:
                self._tracked[info.mid] = done
        if early is not None:
            done(early)

    def _status(self, state: str) -> bytes:
        status = Status(state, self._boot, self._session, self._since)  # type: ignore[arg-type]
        return codec.encode(status)

    # Callbacks of the network thread. One that raises in the middle of connecting ends that
    # connection, and the next is tried; what the others raise is told, and all goes on. -----

    def _before_connect(self, client: paho.Client, userdata: Any) -> None:
        del userdata
        self._session = self._next_session()
        client.will_set(self._status_topic, self._status("offline"), qos=1, retain=True)

    def _connected(
        self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        del userdata, properties
        if reason.is_failure:
            self.last_error = f"the broker refused the connection: {reason}"
            log.warning("connection refused", reason=str(reason))
            self._back_off()
            return
        self._since = self._clock.time()
        self.connections += 1
        # Always: a broker that lost our session would otherwise send nothing, for ever.
        client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in self._filters])
        self._retry_s = FIRST_RETRY_S
        self.last_error = self._said = ""
        self.connected.set()
        log.info("connected", session=self._session, session_present=flags.session_present)
        self._safely(self.publish, self._status_topic, self._status("online"), retain=True)
        self._safely(self._on_change, True)

    def _disconnected(
        self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        del client, userdata, flags, properties
        was = self.connected.is_set()
        self.connected.clear()
        self._back_off()
        if was:
            self.last_error = f"connection lost: {reason}"
            log.warning("connection lost", reason=str(reason))
            self._safely(self._on_change, False)

    def _not_connected(self, client: paho.Client, userdata: Any) -> None:
        del client, userdata
        reason, kind = _reason(self._client.failure, self._clock.time())
        self.last_error = f"no connection to {self._config.host}:{self._config.port}: {reason}"
        now = self._clock.monotonic()
        if kind != self._said or now >= self._say_again:
            self._said, self._say_again = kind, now + SAY_AGAIN_S
            log.warning("no connection", broker=self._config.host, reason=reason)
        self._back_off()

    def _back_off(self) -> None:
        """Sets when paho tries again: full jitter, so that a fleet does not come back at once."""
        wait = random.uniform(0.1, self._retry_s)
        self._retry_s = min(MAX_RETRY_S, self._retry_s * 2)
        # Typed as whole seconds; it only adds and compares them.
        self._client.reconnect_delay_set(wait, wait)  # type: ignore[arg-type]

    def _message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        del userdata
        mid, qos = message.mid, message.qos
        properties = message.properties
        try:
            topic = message.topic
        except UnicodeDecodeError:
            log.warning("message refused", reason="its topic is not UTF-8")
            client.ack(mid, qos)
            return
        inbound = Inbound(
            topic,
            bytes(message.payload),
            getattr(properties, "ResponseTopic", None),
            getattr(properties, "CorrelationData", None),
            getattr(properties, "MessageExpiryInterval", None),
            lambda: self._safely(client.ack, mid, qos),
            bool(message.dup),
            _time_told(getattr(properties, "UserProperty", [])),
        )
        if inbound.topic == self._status_topic:
            self._own_status(inbound)
            return
        self._safely(self._on_message, inbound)

    def _own_status(self, inbound: Inbound) -> None:
        """A late will of an older connection must not stay as our retained status."""
        inbound.ack()
        try:
            status = codec.decode(inbound.payload, Status, what="a status")
        except ShoalError:
            status = Status("offline", "unknown", 0, 0.0)
        if status.session < self._session or status.boot != self._boot:
            self._safely(self.publish, self._status_topic, self._status("online"), retain=True)

    def _published(
        self, client: paho.Client, userdata: Any, mid: int, reason: Any, properties: Any
    ) -> None:
        del client, userdata, properties
        taken = not reason.is_failure
        if not taken:
            log.warning("the broker refused a message", reason=str(reason))
        with self._lock:
            done = self._tracked.pop(mid, None)
            if done is None:
                self._early[mid] = taken
        if done is not None:
            self._safely(done, taken)

    def _guarded(self, callback: Callable[..., object]) -> Callable[..., None]:
        return lambda *args: self._safely(callback, *args)

    def _safely(self, function: Callable[..., object], *args: Any, **options: Any) -> None:
        try:
            function(*args, **options)
        except ShoalError as error:
            log.warning("message handling failed", code=error.code, reason=str(error))
        except Exception:
            log.exception("message handling failed")


def _reason(error: BaseException | None, now: float) -> tuple[str, str]:
    """Why there is no connection, in words; and what tells it from other reasons."""
    if error is None:
        return "it was not made", ""
    clock = certificate_time(error, now)
    if clock:
        return clock, clock[:40]
    text = str(error)[:300] or type(error).__name__
    return text, f"{type(error).__name__} {text[:100]}"


def _time_told(properties: list[tuple[str, str]]) -> float | None:
    """The time in a message's user properties; None where there is none that is a number."""
    for name, value in properties:
        if name == TIME_PROPERTY and len(value) <= MAX_TIME_CHARS:
            with contextlib.suppress(ValueError):
                return float(value)
    return None
