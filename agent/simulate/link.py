"""A simulated device's MQTT connection: the agent's, driven by the event loop, no thread."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho

from agent.connection import Inbound
from agent.link import Link
from agent.simulate.host import Timer
from contracts.simulation import Counters


class LoopLink(Link):
    """One device's connection.

    Args:
        *args, **options: as of :class:`agent.link.Link`.
        loop: drives it.
        counters: shared by all devices of the process.
    """

    def __init__(
        self, *args: Any, loop: asyncio.AbstractEventLoop, counters: Counters, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._loop = loop
        self._counters = counters
        self._again: Timer | None = None
        self._away = False
        self._opened = self._client.on_socket_open
        client = self._client
        client.on_socket_open = self._socket_open
        client.on_socket_close = self._socket_close
        client.on_socket_register_write = self._socket_writable
        client.on_socket_unregister_write = self._socket_written

    # Life. ------------------------------------------------------------------------------

    def start(self) -> None:
        """Connects, now and after every loss."""
        self._aim()
        self._running = True
        self._try()

    def _try(self) -> None:
        self._again = None
        if not self._running or self._away or self.connected.is_set():
            return
        try:
            self._client.reconnect()
        except OSError:
            self._not_connected()

    def _wait(self, seconds: float) -> None:
        """Tries again then; whoever is away comes back by itself."""
        if self._again is not None:
            self._again.cancel()
        self._again = self._loop.call_later(seconds, self._try)

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._loop.call_later(seconds, call)

    @property
    def alive(self) -> bool:
        """The loop runs."""
        return True

    def stop(self) -> None:
        """Says goodbye, for good."""
        self._running = False
        if self.connected.is_set():
            self.publish(self._status_topic, self._status("offline"), retain=True)
            self._client.loop_write()
            self._client.disconnect()

    def abandon(self) -> None:
        """The device has lost its power: nobody says or hears anything any more."""
        self._running = False
        self._on_message = _ignore
        self._on_change = lambda connected: None
        self.cut()

    def cut(self) -> None:
        """The connection breaks without a goodbye: the broker sends the will."""
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            sock.shutdown(socket.SHUT_RDWR)

    def leave_for(self, seconds: float) -> None:
        """The connection breaks, and there is no other for a while."""
        self._away = True
        self.cut()
        self._loop.call_later(seconds, self._back)

    def _back(self) -> None:
        self._away = False
        self._try()

    def keep_alive(self) -> None:
        """Pings and timeouts; to be called every few seconds."""
        if self._client.socket() is not None:
            self._client.loop_misc()

    # Sending, and what comes. -----------------------------------------------------------

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
        """As :meth:`agent.link.Link.publish`, and counted."""
        super().publish(topic, payload, qos=qos, retain=retain, done=done, correlation=correlation)
        self._counters.published += 1
        self._counters.published_bytes += len(payload)

    def _message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        self._counters.received += 1
        self._counters.received_bytes += len(message.payload)
        super()._message(client, userdata, message)

    def _connected(
        self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        if not reason.is_failure:
            self._counters.connects += 1
            self._counters.online += 1
        super()._connected(client, userdata, flags, reason, properties)

    def _disconnected(
        self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        if self.connected.is_set():
            self._counters.online -= 1
        super()._disconnected(client, userdata, flags, reason, properties)

    # The socket. ------------------------------------------------------------------------

    def _socket_open(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        if self._opened is not None:
            self._opened(client, userdata, sock)
        self._loop.add_reader(sock, client.loop_read)

    def _socket_close(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        del client, userdata
        self._loop.remove_reader(sock)

    def _socket_writable(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        del userdata
        self._loop.add_writer(sock, client.loop_write)

    def _socket_written(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        del client, userdata
        self._loop.remove_writer(sock)


def _ignore(inbound: Inbound) -> None:
    del inbound
