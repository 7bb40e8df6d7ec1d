"""paho's client, fit for a flood in one direction: it reads ahead and acknowledges in bulk.

paho asks the socket for one byte, then for the length, then for the rest, selects before each
packet, and wakes its own thread and writes once for every acknowledgement: some nine system
calls a message, each of which gives the interpreter lock away while ingest's worker waits for
it. Here one read brings what the socket holds, paho's parser is run over all of it, and the
acknowledgements of a batch, to the broker and to devices, are one write each.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode

from contracts.config import MqttConfig
from contracts.connection import Client, new_client

if TYPE_CHECKING:
    from typing_extensions import Self

_READ_BYTES: Final = 256 * 1024
_PACKETS: Final = 500
"""Packets read between two looks at what is to be written."""

_WRITE_BYTES: Final = 64 * 1024
"""Bytes that are written at once, or one message more."""

_PUBACK: Final = struct.Struct("!BBH")
"""MQTT 5, section 3.4: without reason code and properties it means success."""


def _variable(number: int) -> bytes:
    """A variable byte integer (section 1.5.5)."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


class ReadAhead:
    """A connected socket, TLS or not, that reads more than it is asked for and keeps the rest.

    Args:
        inner: the socket.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._data = b""
        self._at = 0

    def recv(self, size: int) -> bytes:
        """At most `size` bytes; raises what the socket raises when there are none."""
        if self._at == len(self._data):
            self._data, self._at = b"", 0
            self._data = self._inner.recv(max(size, _READ_BYTES))
        part = self._data[self._at : self._at + size]
        self._at += len(part)
        return part

    def pending(self) -> int:
        """Bytes that can be had without waiting."""
        kept = len(self._data) - self._at
        return kept or (self._inner.pending() if hasattr(self._inner, "pending") else 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class IngestClient(Client):
    """A client that takes many messages and acknowledges them later, many at a time."""

    @classmethod
    def of(cls, mqtt: MqttConfig, client_id: str) -> Self:
        """A client, not yet connected; see :func:`contracts.connection.new_client`."""
        client = new_client(mqtt, client_id, manual_ack=True, kind=cls)
        assert isinstance(client, cls)
        return client

    def _create_socket(self) -> Any:
        return ReadAhead(super()._create_socket())

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Handles the packets that have arrived, up to a bound."""
        result = super().loop_read(max_packets)
        for _ in range(_PACKETS):
            # paho's type knows the plain sockets only.
            sock: Any = self.socket()
            if result != MQTTErrorCode.MQTT_ERR_SUCCESS or sock is None or not sock.pending():
                break
            result = super().loop_read(max_packets)
        return result

    def send(self, messages: Sequence[tuple[str, bytes]], *, retain: bool = False) -> None:
        """Publishes messages at QoS 0, many in one write."""
        packets = bytearray()
        for topic, payload in messages:
            if len(packets) > _WRITE_BYTES:
                self._write(packets)
                packets = bytearray()
            name = topic.encode()
            packets.append(paho.PUBLISH | retain)
            packets += _variable(2 + len(name) + 1 + len(payload))
            packets += len(name).to_bytes(2, "big") + name
            packets.append(0)  # bytes of properties
            packets += payload
        if packets:
            self._write(packets)

    def _write(self, packets: bytearray) -> None:
        # As QoS 1, though it is 0: of its own QoS 0 messages paho tells that they are written.
        self._packet_queue(paho.PUBLISH, bytes(packets), 0, 1)

    def acknowledge(self, mids: Sequence[int]) -> None:
        """Sends PUBACK for QoS 1 messages of the present connection, as one write."""
        if mids:
            packets = b"".join([_PUBACK.pack(paho.PUBACK, 2, mid) for mid in mids])
            self._packet_queue(paho.PUBACK, packets, mids[-1], 1)
