"""One connection of the controller that publishes, and hears answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import paho.mqtt.client as paho
import structlog
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from contracts.blocks import TIME_PROPERTY
from contracts.config import MqttConfig
from contracts.connection import connect_properties, new_client
from contracts.errors import UnavailableError

_LOG: Final = structlog.get_logger("mqtt")
_IN_FLIGHT: Final = 200

Handler = Callable[[str, bytes], None]
_Take = Callable[[paho.MQTTMessage], None]


class Link:
    """A connection that reconnects by itself. It keeps no session: who asks, asks again.

    Args:
        mqtt: the broker.
        client_id: unique on the broker.
        filters: what it subscribes to, with the handler of each; handlers run on the network
            thread and must not block.
        on_retained: called with the topic of each message that is retained where nothing may be;
            it is removed, and no handler gets it. None: what is retained is handled too.
        on_up: called on the network thread after each connect.
        on_down: called on the network thread after each loss of the connection.
        will: topic and payload of what the broker retains when the connection is lost.
        on_acknowledged: called with the id of each message that the broker has acknowledged, on
            the network thread and perhaps before `publish` has returned. What a lost connection
            left is sent again on the next one, and acknowledged there.
    """

    def __init__(
        self,
        mqtt: MqttConfig,
        client_id: str,
        *,
        filters: dict[str, Handler] | None = None,
        on_retained: Callable[[str], None] | None = None,
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[], None] = lambda: None,
        will: tuple[str, bytes] | None = None,
        on_acknowledged: Callable[[int], None] | None = None,
    ) -> None:
        self._mqtt = mqtt
        self._client_id = client_id
        self._filters = filters or {}
        self._on_up = on_up
        self._on_retained = on_retained
        self._on_down = on_down
        self._will = will
        self._on_acknowledged = on_acknowledged
        self.connected = threading.Event()
        self._client = self._new_client()
        self._running = self._used = False

    def _new_client(self) -> paho.Client:
        client = new_client(self._mqtt, self._client_id)
        client.max_inflight_messages_set(_IN_FLIGHT)
        client.reconnect_delay_set(1, 10)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        if self._will is not None:
            client.will_set(*self._will, qos=1, retain=True)
        if (acknowledged := self._on_acknowledged) is not None:
            client.on_publish = lambda _client, _userdata, mid, *_: acknowledged(mid)
        for pattern, handler in self._filters.items():
            # A shared subscription delivers under the plain topic.
            plain = pattern.split("/", 2)[2] if pattern.startswith("$share/") else pattern
            client.message_callback_add(plain, _guarded(self._without_retained(handler)))
        return client

    def start(self) -> None:
        """Connects in the background, and goes on trying while the broker is away.

        Raises:
            InputError: the TLS settings cannot be used now; it may be tried again.
        """
        if self._running:
            return
        if self._used:
            # Another client: the one before would send again what it has not got rid of.
            self._client = self._new_client()
        self._running = self._used = True
        properties = connect_properties(self._mqtt)
        properties.SessionExpiryInterval = 0
        self._client.connect_async(
            self._mqtt.host,
            self._mqtt.port,
            self._mqtt.keepalive_s,
            clean_start=True,
            properties=properties,
        )
        self._client.loop_start()

    def stop(self) -> None:
        """Disconnects; what waits to be sent is dropped, and it may be started again."""
        self._running = False
        self._client.disconnect()
        self._client.loop_stop()
        self.connected.clear()

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        expiry_s: float | None = None,
        correlation: str | None = None,
        at: float | None = None,
    ) -> paho.MQTTMessageInfo:
        """Publishes at QoS 1.

        Args:
            topic: where to.
            payload: at most what the protocol allows.
            retain: the broker keeps it.
            expiry_s: after which the broker drops it.
            correlation: a request's id, for a device that cannot read the request itself.
            at: the time, which is told with it.

        Raises:
            UnavailableError: ``broker-unreachable``; not connected.
        """
        if not self.connected.is_set():
            raise UnavailableError("broker-unreachable", "the MQTT broker cannot be reached now")
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if expiry_s is not None:
            properties.MessageExpiryInterval = max(1, round(expiry_s))
        if correlation is not None:
            properties.CorrelationData = correlation.encode()
        if at is not None:
            properties.UserProperty = [(TIME_PROPERTY, f"{at:.3f}")]
        return self._client.publish(topic, payload, 1, retain, properties)

    def _without_retained(self, handler: Handler) -> _Take:
        """What takes the messages of a filter."""
        told = self._on_retained
        if told is None:
            return _plain(handler)

        def take(message: paho.MQTTMessage) -> None:
            if not message.retain:
                handler(message.topic, bytes(message.payload))
            elif message.payload:  # else it was removed, by us or another
                self._client.publish(message.topic, b"", 1, retain=True)
                told(message.topic)

        return take

    def _on_connect(
        self, client: paho.Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if reason.is_failure:
            _LOG.warning("broker refused the controller", reason=str(reason))
            return
        if self._filters:
            # As published: what is retained is seen as that also when it comes live.
            options = SubscribeOptions(qos=1, retainAsPublished=self._on_retained is not None)
            client.subscribe([(pattern, options) for pattern in self._filters])
        else:
            self._up()

    def _on_subscribe(
        self, _client: paho.Client, _userdata: Any, _mid: int, reasons: Any, _properties: Any
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            _LOG.error("broker refused a subscription", reasons=[str(r) for r in reasons])
            return
        self._up()

    def _up(self) -> None:
        self.connected.set()
        self._on_up()

    def _on_disconnect(self, *_arguments: Any) -> None:
        self.connected.clear()
        self._on_down()


def _plain(handler: Handler) -> _Take:
    return lambda message: handler(message.topic, bytes(message.payload))


def _guarded(take: _Take) -> Callable[[paho.Client, Any, paho.MQTTMessage], None]:
    def call(_client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        try:
            take(message)
        except Exception:  # noqa: BLE001
            # paho's thread would end, and the connection with it.
            _LOG.exception("message not handled", topic=message.topic[:200])

    return call
