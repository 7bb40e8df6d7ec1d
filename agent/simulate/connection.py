"""A simulated device's MQTT connection: a paho client driven by the event loop, no thread."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.simulate.device import Device
from agent.simulate.downloads import Downloads
from agent.simulate.fate import Fates
from agent.simulate.host import Fetch, Fetched, Timer
from agent.simulate.state import Counters
from contracts.config import MqttConfig
from contracts.connection import connect_properties, new_client
from contracts.topics import Topics

RECONNECT_S = 1.0
MAX_RECONNECT_S = 30.0


class Connection:
    """One device on one connection; the host of the device's protocol.

    Args:
        index, name: of the device.
        mqtt: the broker.
        names: topics of the fleet.
        fates: what goes wrong.
        downloads: where bundles come from.
        counters: shared by all devices of the process.
        folder: what relative PEM paths are relative to.
    """

    __slots__ = (
        "_churn", "_client", "_closed", "_counters", "_delay", "_downloads", "_groups", "_loop",
        "_mqtt", "_names", "_tracked", "_wanted", "device", "up",
    )  # fmt: skip

    def __init__(
        self,
        index: int,
        name: str,
        mqtt: MqttConfig,
        names: Topics,
        fates: Fates,
        downloads: Downloads,
        counters: Counters,
        *,
        folder: Path = Path(),
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._mqtt = mqtt
        self._names = names
        self._downloads = downloads
        self._counters = counters
        self._groups = fates.scenario.groups
        self._closed = False
        self._wanted = False
        self._delay = RECONNECT_S
        self.up = False
        self._tracked: dict[int, Callable[[int], None]] = {}
        churn = fates.scenario.churn
        self._churn = churn if index in fates.chosen("churn", churn.share) else None
        self._client = self._new_client(name, folder)
        self.device = Device(index, name, names, fates, self, counters)

    def _new_client(self, name: str, folder: Path) -> paho.Client:
        client = new_client(self._mqtt, name, folder=folder)
        client.on_socket_open = self._socket_open
        client.on_socket_close = self._socket_close
        client.on_socket_register_write = self._socket_writable
        client.on_socket_unregister_write = self._socket_written
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    # The device's host --------------------------------------------------------------------

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return self._loop.time()

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Calls `call` in `seconds`."""
        return self._loop.call_later(seconds, call)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        done: Callable[[int], None] | None = None,
    ) -> None:
        """Publishes at QoS 1, and counts; paho keeps it while the connection is away."""
        self._counters.published += 1
        self._counters.published_bytes += len(payload)
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        if done is not None:
            self._tracked[info.mid] = done

    def fetch(self, wanted: Fetch, done: Callable[[Fetched], None]) -> None:
        """Downloads in the background."""
        self._downloads.start(wanted, done)

    # Lifecycle ----------------------------------------------------------------------------

    def open(self) -> None:
        """Connects, and connects again when the connection breaks."""
        self._wanted = True
        if self._closed or self.up:
            return
        device = self.device
        session = device.next_session()
        topic = self._names.of_device(device.name, "status")
        self._client.will_set(topic, device.status("offline"), qos=1, retain=True)
        properties = connect_properties(self._mqtt)
        try:
            self._client.connect(
                self._mqtt.host,
                self._mqtt.port,
                self._mqtt.keepalive_s,
                clean_start=session == device.first_session,
                properties=properties,
            )
        except OSError:
            self._again()

    def _again(self) -> None:
        self._delay = min(self._delay * 2, MAX_RECONNECT_S)
        self._loop.call_later(self._delay * self.device.chance.uniform(0.5, 1), self._reopen)

    def _reopen(self) -> None:
        if self._wanted and not self.up:
            self.open()

    def close(self) -> None:
        """Says goodbye, for good."""
        self._closed, self._wanted = True, False
        if self.up:
            topic = self._names.of_device(self.device.name, "status")
            self._client.publish(topic, self.device.status("offline"), qos=1, retain=True)
            self._client.loop_write()
            self._client.disconnect()

    def cut(self) -> None:
        """The connection breaks without a goodbye: the broker sends the will."""
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            sock.shutdown(socket.SHUT_RDWR)

    def keep_alive(self) -> None:
        """Pings and timeouts; to be called every few seconds."""
        if self._client.socket() is not None:
            self._client.loop_misc()

    def _break(self) -> None:
        """The scenario's churn."""
        assert self._churn is not None
        if self._closed or not self.up:
            return
        self._wanted = False
        self.cut()
        if self._churn.reboot:
            self.device.reboot()
        self._loop.call_later(self._churn.away_s, self.open)

    # paho's callbacks ---------------------------------------------------------------------

    def _socket_open(self, client: paho.Client, _userdata: Any, sock: Any) -> None:
        self._loop.add_reader(sock, client.loop_read)

    def _socket_close(self, _client: paho.Client, _userdata: Any, sock: Any) -> None:
        self._loop.remove_reader(sock)

    def _socket_writable(self, client: paho.Client, _userdata: Any, sock: Any) -> None:
        self._loop.add_writer(sock, client.loop_write)

    def _socket_written(self, _client: paho.Client, _userdata: Any, sock: Any) -> None:
        self._loop.remove_writer(sock)

    def _on_connect(
        self, client: paho.Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if reason.is_failure:
            return
        self.up = True
        self._delay = RECONNECT_S
        self._counters.connects += 1
        self._counters.online += 1
        name, once = self.device.name, SubscribeOptions(qos=1)
        wanted = [(self._names.of_device(name, "desired"), once),
                  (self._names.of_device(name, "ack"), once),
                  (self._names.requests_of(name), once)]  # fmt: skip
        wanted += [(self._names.group_requests(group), once) for group in self._groups]
        client.subscribe(wanted)
        self.device.connected()
        if self._churn is not None:
            chance = self.device.chance
            self._loop.call_later(chance.expovariate(1 / self._churn.every_s), self._break)

    def _on_disconnect(self, *_arguments: Any) -> None:
        if self.up:
            self.up = False
            self._counters.online -= 1
            self.device.disconnected()
        if self._wanted:
            self._again()

    def _on_publish(
        self, _client: paho.Client, _userdata: Any, mid: int, reason: Any, _properties: Any
    ) -> None:
        done = self._tracked.pop(mid, None)
        if done is not None:
            done(int(reason.value))

    def _on_message(self, _client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        self.device.message(message.topic, bytes(message.payload), _properties(message.properties))


def _properties(properties: Properties | None) -> dict[str, Any]:
    """The MQTT 5 properties that a request may use instead of its fields."""
    found: dict[str, Any] = {}
    if properties is None:
        return found
    correlation = getattr(properties, "CorrelationData", None)
    if correlation:
        try:
            found["id"] = correlation.decode("ascii")
        except UnicodeDecodeError:
            return found
    expiry = getattr(properties, "MessageExpiryInterval", None)
    if expiry:
        found["deadline_ms"] = int(expiry) * 1000
    return found
