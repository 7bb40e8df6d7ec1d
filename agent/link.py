"""The connection to the broker.

MQTT 5, a will with a session number, and always the same subscriptions, whatever the broker
still knows of us.

Over 400 lines: one connection, whose callbacks share its state.
"""

from __future__ import annotations

import functools
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.connection import (
    GOODBYE_S,
    Backoff,
    Client,
    Inbound,
    Rival,
    fingerprint,
    kind,
    time_told,
    why,
)
from agent.refusals import FAILURE, NOT_AUTHORIZED, Refusals
from agent.system.clock import Clock
from agent.system.log import logger
from agent.system.unreachable import refusal
from contracts import codec
from contracts.answers import Answer
from contracts.config import MqttConfig, TlsConfig
from contracts.connection import (
    connect_properties,
    device_client_id,
    load_pair,
    new_client,
    tls_context,
)
from contracts.errors import ShoalError, UnavailableError
from contracts.messages import Leave, Status
from contracts.topics import Topics

log = logger(__name__)

MAX_QUEUED: Final = 1000
"""Messages that may wait for the connection in memory; more are refused, and the spool keeps
what must not be lost."""

MAX_INFLIGHT: Final = 64
"""QoS 1 messages on the way to the broker at once."""


_properties = functools.lru_cache(maxsize=16)(connect_properties)
"""Thousands of simulated devices have the same, and nobody changes them."""


def _nothing(code: int) -> None:
    """For messages whose fate nobody asks for; so that every message id is accounted for."""


class Link:
    """One device's connection. Reconnects by itself, with jittered exponential back-off.

    A device whose session another client takes (two boards with one image) waits longer and
    longer, and says so once; one that was told to leave tries now and then.

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
        on_refusal: told when the broker refuses a topic, or does not any more.

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
        on_refusal: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._topics = Topics(fleet)
        self._device = device
        self._boot = boot
        self._next_session = next_session
        self._clock = clock
        self._on_message = on_message
        self._on_change = on_change
        self._backoff = Backoff()
        self._session = 0
        self._since = clock.time()
        self._up_at = clock.monotonic()
        self._told = False
        self._tracked: dict[int, tuple[str, Callable[[int], None]]] = {}
        self._early: dict[int, int] = {}
        self._lock = threading.Lock()
        own = self._topics.of_device(device, "status").removesuffix("status")
        self.refusals = Refusals(own, clock, lambda: self._safely(on_refusal))
        self._status_topic = self._topics.of_device(device, "status")
        self._filters = [
            self._topics.of_device(device, "desired"),
            self._topics.requests_of(device),
            self._topics.blobs_of(device),
            self._topics.of_device(device, "ack"),
            self._status_topic,
        ]
        self._groups = [self._topics.group_requests(group) for group in groups]
        self._asked: dict[int, list[str]] = {}
        self._stale: list[str] = []
        self.connected = threading.Event()
        self.connections = 0
        self._rival = Rival()
        self._complained = self._looked = False
        self.last_error = ""
        self.farewell = ""
        self._refused = ""
        self._context = tls_context(config.tls, folder) if config.tls else None
        self._certificate = self._used = fingerprint(config.tls)
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
        client.on_subscribe = self._guarded(self._subscribed)

    # Life. ------------------------------------------------------------------------------

    def start(self) -> None:
        """Connects in the background, now and after every loss."""
        self._aim()
        self._client.loop_start()
        self._running = True

    def _aim(self) -> None:
        """Says where the client connects to, whenever it does."""
        self._client.connect_async(
            self._config.host,
            self._config.port,
            keepalive=self._config.keepalive_s,
            clean_start=False,
            properties=_properties(self._config),
        )

    @property
    def alive(self) -> bool:
        """Whether the network thread runs, if it should."""
        return self._client.alive or not self._running

    @property
    def takeovers(self) -> int:
        """How often another client with the same identity took the session."""
        return self._rival.taken

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
            self._certificate = fingerprint(tls)

    def hear_groups(self, groups: list[str]) -> None:
        """Answers requests to these groups from now on, and to no others."""
        wanted = [self._topics.group_requests(group) for group in groups]
        gone = [topic for topic in self._groups if topic not in wanted]
        news = [topic for topic in wanted if topic not in self._groups]
        self._groups = wanted
        if gone and self.connected.is_set():
            self._client.unsubscribe(gone)
        elif gone:
            self._stale = [*self._stale, *gone]
        if news and self.connected.is_set():
            self._subscribe(news)

    def _subscribe(self, topics: list[str]) -> None:
        _, mid = self._client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in topics])
        if mid is not None:
            self._asked[mid] = topics

    def leave(self, request: Leave) -> None:
        """The controller's last word: says it, and tries to connect only now and then.

        Whether it is meant shows at the next connection: nothing is given up here. The answer
        tells that it was read, before the broker ends the connection.
        """
        said = f": {request.message}" if request.message else ""
        self.farewell = f"the controller says that this device was {request.reason}{said}"
        self._backoff.dismissed(dismissed=True)
        log.error("dismissed by the controller", reason=request.reason, message=request.message)
        if request.id is not None:
            heard = codec.encode(Answer(id=request.id, device=self._device))
            self._safely(self.publish, self._topics.response(self._device, request.id), heard)
        number = self.connections
        self._later(GOODBYE_S, lambda: self._hang_up(number))

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        timer.start()

    def _hang_up(self, number: int) -> None:
        if self.farewell and self.connections == number:
            self._client.hang_up()

    # Sending. ---------------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        done: Callable[[int], None] | None = None,
        correlation: bytes | None = None,
    ) -> None:
        """Sends a message.

        Args:
            topic: where to.
            payload: what.
            qos: 0 or 1.
            retain: the broker keeps it.
            done: told once the reason code of the broker's acknowledgement (QoS 1); on the
                network thread.
            correlation: sent with it as MQTT 5 correlation data.

        Raises:
            UnavailableError: ``offline``; too much waits already. ``not-allowed``; the broker
                refused the topic a while ago.
        """
        self.refusals.check(topic)
        properties = None
        if correlation is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.CorrelationData = correlation
        info = self._client.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        if info.rc == paho.MQTT_ERR_QUEUE_SIZE:
            raise UnavailableError("offline", "too many messages wait for the connection")
        done = done or _nothing
        with self._lock:  # the acknowledgement may have been faster
            early = self._early.pop(info.mid, None)
            if early is None:
                self._tracked[info.mid] = topic, done
        if early is not None:
            self.refusals.answered("publish to", topic, allowed=early < FAILURE)
            done(early)

    def _status(self, state: str) -> bytes:
        online = state == "online"
        status = Status(
            state,  # type: ignore[arg-type]
            self._boot,
            self._session,
            self._since,
            address=self._client.address if online else "",
            certificate=self._used if online else "",
            takeovers=self.takeovers,
        )
        return codec.encode(status)

    # Callbacks of the network thread. One that raises in the middle of connecting ends that
    # connection, and the next is tried; what the others raise is told, and all goes on. -----

    def _before_connect(self, client: paho.Client, userdata: Any) -> None:
        del userdata
        self._session = self._next_session()
        self._used, self._told = self._certificate, False
        client.will_set(self._status_topic, self._status("offline"), qos=1, retain=True)

    def _connected(
        self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        del userdata, properties
        if reason.is_failure:
            self._told = True
            self._refusal(f"the broker refuses: {refusal(int(reason.value), str(reason))}")
            self._wait(self._backoff.failed())
            return
        self._since = self._clock.time()
        self._up_at = self._clock.monotonic()
        self._looked = False
        self.connections += 1
        self.refusals.connected()
        # Always: a broker that lost our session would otherwise send nothing, for ever.
        self._asked.clear()
        stale, self._stale = [t for t in self._stale if t not in self._groups], []
        if stale:
            client.unsubscribe(stale)  # the broker may have kept them with the session
        self._subscribe([*self._filters, *self._groups])
        self.last_error = ""
        self.farewell = self._refused = ""
        self._backoff.dismissed(dismissed=False)
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
        lasted = self._clock.monotonic() - self._up_at
        if was and self._rival.ended(reason.value):
            self._wait(self._backoff.taken(lasted))
            self._taken_over()
        elif was:
            self._wait(self._backoff.lost(lasted))
            cause = why(self._client.failure, reason, self._config.host, self._config.port)
            self._say(f"connection lost: {cause}")
            log.warning("connection lost", reason=cause)
            self._blame(lasted, reason.value)
        elif not self._told:
            self._not_connected()
        if was:
            self._told = True
            self._safely(self._on_change, False)

    def _blame(self, lasted: float, code: int) -> None:
        """Gives up the message at which the broker ended the connection, if it was one."""
        with self._lock:
            oldest = next(iter(self._tracked.values()), ("", _nothing))[0]
        blamed = self.refusals.cut(oldest or None, lasted, code)
        if blamed is None:
            return
        with self._lock:
            gone = [m for m, (t, _) in self._tracked.items() if self.refusals.blamed(t, blamed)]
            dropped = [self._tracked.pop(mid)[1] for mid in gone]
        for mid in gone:
            self._client.forget(mid)
        for done in dropped:
            self._safely(done, NOT_AUTHORIZED)

    def _taken_over(self) -> None:
        """Two devices with one key: each takes the session that the other has."""
        self._say(
            "taken over by another client with the same identity: two devices have this "
            "agent.yaml; enrol one of them anew"
        )
        if not self._complained:
            self._complained = True
            log.error(
                "taken over by another client with the same identity: waiting longer and longer "
                "between connections; enrol one of the two devices anew",
                session=self._session,
            )

    def _not_connected(self, *_: Any) -> None:
        self._told = True
        host, port, failure = self._config.host, self._config.port, self._client.failure
        cause = why(failure, host=host, port=port) or "it was closed without a word"
        if failure is None or isinstance(failure, ConnectionResetError | BrokenPipeError):
            tls = "expects" if self._config.tls is None else "speaks"
            cause += f". Is this the port of MQTT, and one that {tls} TLS?"
        self._say(f"no connection to {self._config.where}: {cause}")
        if kind(self._client.failure) != self._refused:  # said once, however often it is tried
            self._refused = kind(self._client.failure)
            refused = isinstance(self._client.failure, ssl.SSLError)
            (log.error if refused else log.warning)("no connection", reason=cause)
        self._wait(self._backoff.failed())

    def _refusal(self, cause: str) -> None:
        self._say(f"no connection to {self._config.where}: {cause}")
        if cause != self._refused:
            self._refused = cause
            log.error("connection refused", reason=cause)

    def _say(self, what: str) -> None:
        self.last_error = f"{self.farewell} ({what})" if self.farewell else what

    def _wait(self, seconds: float) -> None:
        """Sets when paho tries again."""
        # Typed as whole seconds; it only adds and compares them.
        self._client.reconnect_delay_set(seconds, seconds)  # type: ignore[arg-type]

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
            time_told(getattr(properties, "UserProperty", [])),
            bool(message.retain),
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
        # Of a first connection it may be of the boot before.
        if self.connections > 1 and not self._looked:
            other = status.boot != self._boot and status.state == "online"
            if self._rival.status(other):
                self._taken_over()
        self._looked = True
        if status.session < self._session or status.boot != self._boot:
            self._safely(self.publish, self._status_topic, self._status("online"), retain=True)

    def _published(
        self, client: paho.Client, userdata: Any, mid: int, reason: Any, properties: Any
    ) -> None:
        del client, userdata, properties
        code = int(reason.value)
        if reason.is_failure:
            log.warning("the broker refused a message", reason=str(reason))
        with self._lock:
            known = self._tracked.pop(mid, None)
            if known is None:
                self._early[mid] = code
        if known is not None:
            topic, done = known
            self.refusals.answered("publish to", topic, allowed=code < FAILURE)
            self._safely(done, code)
        if code == NOT_AUTHORIZED and self.farewell:
            self._client.hang_up()  # whether it is meant shows at the next connection

    def _subscribed(
        self, client: paho.Client, userdata: Any, mid: int, reasons: Any, properties: Any
    ) -> None:
        del client, userdata, properties
        for topic, reason in zip(self._asked.pop(mid, []), reasons, strict=False):
            self.refusals.answered("subscribe to", topic, allowed=not reason.is_failure)

    def _guarded(self, callback: Callable[..., object]) -> Callable[..., None]:
        return lambda *args: self._safely(callback, *args)

    def _safely(self, function: Callable[..., object], *args: Any, **options: Any) -> None:
        try:
            function(*args, **options)
        except ShoalError as error:
            log.warning("message handling failed", code=error.code)
        except Exception:
            log.exception("message handling failed")
