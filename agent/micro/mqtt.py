"""An MQTT 5 client on asyncio: QoS 0 and 1, will, keep-alive, TLS, the properties we need.

Source: MQTT Version 5.0, OASIS Standard. One connection a client object; who uses it makes a
new one after it broke. A message that does not fit into the receive buffer is drained, and
handed on without its payload: who asked is told, where topic and properties fit. (A broker
that knew of the buffer would drop such a message, and nobody would be told.)
"""

import asyncio
import struct


CONNECT_SECONDS = 15
ACK_SECONDS = 20
# Bytes of the largest packet that is read at all: the protocol's MAX_MESSAGE_BYTES, with its
# topic and properties.
MAX_PACKET = 256 * 1024 + 1024
# Bytes of each property's value, by identifier (2.2.2.2); -1: text or binary, -2: two
# texts, -3: a variable byte integer.
_PROPERTIES = {
    0x01: 1, 0x02: 4, 0x03: -1, 0x08: -1, 0x09: -1, 0x0B: -3, 0x11: 4, 0x12: -1, 0x13: 2,
    0x15: -1, 0x16: -1, 0x17: 1, 0x18: 4, 0x19: 1, 0x1A: -1, 0x1C: -1, 0x1F: -1, 0x21: 2,
    0x22: 2, 0x23: 2, 0x24: 1, 0x25: 1, 0x26: -2, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1,
}


class Broken(Exception):
    """The connection is gone, or the other side broke the protocol: connect again."""


def _length(number):
    """A variable byte integer (1.5.5)."""
    out = bytearray()
    while True:
        byte = number & 127
        number >>= 7
        out.append(byte | 128 if number else byte)
        if not number:
            return out


def _text(value):
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(data)) + data


class Message:
    """A received message: `topic`, `payload`, and its `properties` by identifier.

    The payload is a view of the client's one receive buffer: it is valid until the handler
    returns. It is None where the message did not fit.
    """

    RESPONSE_TOPIC = 0x08
    CORRELATION = 0x09
    EXPIRY = 0x02
    AT = 0x26  # of the user properties the one that tells the sender's time

    def __init__(self, topic, payload, properties, retained):
        self.topic = topic
        self.payload = payload
        self.properties = properties
        self.retained = retained


class _Scan:
    """Takes fields off a packet."""

    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, count):
        if self.at + count > len(self.data):
            raise Broken("a packet is shorter than its fields")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, size):
        return int.from_bytes(bytes(self.take(size)), "big")

    def variable(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if not byte & 128:
                return value
            if shift > 21:
                raise Broken("a length is too long")

    def properties(self):
        found = {}
        end = self.variable() + self.at
        if end > len(self.data):
            raise Broken("properties are longer than their packet")
        while self.at < end:
            kind = self.take(1)[0]
            size = _PROPERTIES.get(kind, 0)
            if size > 0:
                found[kind] = self.number(size)
            elif size == -1:
                found[kind] = bytes(self.take(self.number(2)))
            elif size == -2:
                name = self.take(self.number(2))
                value = self.take(self.number(2))
                if name == b"at" and len(value) <= 32:
                    found[kind] = bytes(value)
            elif size == -3:
                self.variable()
            else:
                raise Broken("an unknown property")
        return found


class Client:
    """One connection.

    Args:
        client_id: unique on the broker.
        on_message: called with each :class:`Message`; it must not block.
        buffer: bytearray for one received packet; of a larger message no payload is kept.
        keepalive_s: seconds between pings.
        session_expiry_s: how long the broker keeps the session.
    """

    def __init__(self, client_id, on_message, buffer, keepalive_s=30, session_expiry_s=3600):
        self._id = client_id
        self._on_message = on_message
        self._keepalive = keepalive_s
        self._expiry = session_expiry_s
        self._buffer = memoryview(buffer)
        self._max = len(buffer)
        self._next = 0
        self._waiting = {}
        self._reader = self._writer = None
        self._task = self._ping = None
        self._alive = False
        self._lock = asyncio.Lock()
        self._heard = True
        self.closed = asyncio.Event()
        self.reason = ""

    async def connect(self, host, port, will, tls=None, server_name=None, credentials=None):
        """Connects; `will` is ``(topic, payload)``, sent retained by the broker when we vanish.

        Args:
            host, port: of the broker.
            will: topic and payload.
            tls: an ``ssl.SSLContext``, or None for plain TCP.
            server_name: whom the broker's certificate must name.
            credentials: ``(user name, password)`` or None.

        Raises:
            Broken: no connection, or refused by the broker.
        """
        try:
            await asyncio.wait_for(
                self._open(host, port, will, tls, server_name, credentials), CONNECT_SECONDS
            )
        except (OSError, asyncio.TimeoutError, ValueError, EOFError) as error:
            self._close("cannot connect: %r" % error)
            raise Broken(self.reason)
        self._alive = True
        self._task = asyncio.create_task(self._receive())
        self._ping = asyncio.create_task(self._pings())

    async def _open(self, host, port, will, tls, server_name, credentials):
        if tls is None:
            streams = await asyncio.open_connection(host, port)
        else:
            streams = await asyncio.open_connection(
                host, port, ssl=tls, server_hostname=server_name or host
            )
        self._reader, self._writer = streams
        flags = 0x04 | 0x08 | 0x20  # will, at QoS 1, retained
        if credentials:
            flags |= 0xC0
        body = _text("MQTT") + bytes([5, flags]) + struct.pack(">H", self._keepalive)
        properties = struct.pack(">BIBHBI", 0x11, self._expiry, 0x21, 8, 0x27, MAX_PACKET)
        body += _length(len(properties)) + properties + _text(self._id)
        body += b"\0" + _text(will[0]) + _text(will[1])
        if credentials:
            body += _text(credentials[0]) + _text(credentials[1])
        await self._send(0x10, body)
        kind, data, _ = await self._packet()
        scan = _Scan(data)
        scan.take(1)
        code = scan.number(1)
        if kind != 0x20 or code:
            self._close("the broker refused the connection with code %d" % code)
            raise Broken(self.reason)
        keepalive = scan.properties().get(0x13)
        if keepalive:
            self._keepalive = keepalive

    async def _send(self, head, body, payload=b""):
        # The payload is written as it is: a joined packet would need its size once more.
        async with self._lock:
            self._writer.write(bytes([head]) + _length(len(body) + len(payload)) + body)
            if payload:
                self._writer.write(payload)
            await self._writer.drain()

    async def _fill(self, count):
        """Reads `count` bytes into the receive buffer and returns a view of them."""
        at = 0
        while at < count:
            got = await self._reader.readinto(self._buffer[at:count])
            if not got:
                raise EOFError()
            self._heard = True
            at += got
        return self._buffer[:count]

    async def _packet(self):
        """The first byte, what fits of the rest, and how many bytes of it are still to come."""
        head = (await self._reader.readexactly(1))[0]
        size = shift = 0
        while True:
            byte = (await self._reader.readexactly(1))[0]
            size |= (byte & 127) << shift
            shift += 7
            if not byte & 128:
                break
            if shift > 21:
                raise Broken("a length is too long")
        left = max(0, size - self._max)
        if left and (head & 0xF0 != 0x30 or size > MAX_PACKET):
            raise Broken("a packet of %d bytes, at most %d fit" % (size, self._max))
        return head, await self._fill(size - left), left

    async def _receive(self):
        reason = "the broker closed the connection"
        try:
            while True:
                head, data, left = await self._packet()
                self._heard = True
                kind = head & 0xF0
                if kind == 0x30:
                    await self._message(head, data, left)
                elif kind in (0x40, 0x90):
                    scan = _Scan(data)
                    number = scan.number(2)
                    if kind == 0x90:
                        scan.properties()
                    code = data[scan.at] if scan.at < len(data) else 0
                    waiting = self._waiting.pop(number, None)
                    if waiting is not None:
                        waiting[1] = code
                        waiting[0].set()
                elif kind == 0xE0:
                    reason = "the broker said goodbye with code %d" % (data[0] if data else 0)
                    break
                elif kind != 0xD0:
                    raise Broken("an unexpected packet %d" % kind)
        except (OSError, EOFError, Broken) as error:
            reason = str(error) or reason
        except asyncio.CancelledError:
            pass
        self._close(reason)

    async def _message(self, head, data, left):
        scan = _Scan(data)
        try:
            topic = bytes(scan.take(scan.number(2))).decode()
        except UnicodeError:
            raise Broken("a topic is not UTF-8")
        quality = (head >> 1) & 3
        number = scan.number(2) if quality else 0
        try:
            properties = scan.properties()
        except Broken:
            if not left:
                raise
            properties = {}  # they do not fit either
        payload = None if left else data[scan.at :]
        while left:
            left -= len(await self._fill(min(left, self._max)))
        try:
            self._on_message(Message(topic, payload, properties, bool(head & 1)))
        except (ValueError, MemoryError) as error:
            # One message that cannot be handled must not cost the connection.
            print("message dropped:", type(error).__name__)  # its message may hold a text
        if quality == 1:
            await self._send(0x40, struct.pack(">H", number))

    async def _pings(self):
        # Twice in the time of the keep-alive: a broker that is silent for all of it is gone.
        try:
            while True:
                await asyncio.sleep_ms(self._keepalive * 500)
                if not self._heard:
                    await asyncio.sleep_ms(50)  # what came while the device was busy is read
                if not self._heard:
                    self._close("the broker is silent")
                    return
                self._heard = False
                await self._send(0xC0, b"")
        except (OSError, asyncio.CancelledError):
            pass

    def _close(self, reason):
        if not self.closed.is_set():
            self.reason = reason
            self._alive = False
            self.closed.set()
            for waiting in self._waiting.values():
                waiting[1] = -1
                waiting[0].set()
            self._waiting.clear()
            if self._writer is not None:
                try:
                    self._writer.close()
                except OSError:
                    pass

    async def _acknowledged(self, head, make, payload=b""):
        """Sends a packet with a packet id and waits for its acknowledgement."""
        if not self._alive:
            raise Broken(self.reason or "not connected")
        self._next = self._next % 65535 + 1
        number = self._next
        waiting = self._waiting[number] = [asyncio.Event(), 0]
        try:
            await self._send(head, make(struct.pack(">H", number)), payload)
            await asyncio.wait_for(waiting[0].wait(), ACK_SECONDS)
        except (OSError, asyncio.TimeoutError) as error:
            self._close("no acknowledgement: %r" % error)
            raise Broken(self.reason)
        finally:
            self._waiting.pop(number, None)
        if waiting[1] < 0:
            raise Broken(self.reason)
        return waiting[1]

    async def subscribe(self, topic):
        """Subscribes at QoS 1; returns the broker's reason code: 0x80 or more, it refused."""
        return await self._acknowledged(
            0x82, lambda number: number + b"\0" + _text(topic) + b"\x01"
        )

    async def publish(self, topic, payload, retain=False, quality=1, correlation=None):
        """Publishes; at QoS 1 it returns the broker's reason code: 0x80 or more, it refused."""
        properties = b"\x09" + _text(correlation) if correlation else b""
        rest = bytes(_length(len(properties))) + properties
        if quality == 0:
            if not self._alive:
                raise Broken(self.reason or "not connected")
            try:
                await self._send(0x30 | retain, _text(topic) + rest, payload)
            except OSError as error:
                self._close(str(error))
                raise Broken(self.reason)
            return 0
        return await self._acknowledged(
            0x32 | retain, lambda number: _text(topic) + number + rest, payload
        )

    async def disconnect(self):
        """Says goodbye: the broker drops the will."""
        if self._alive:
            try:
                await self._send(0xE0, b"")
            except OSError:
                pass
        for task in (self._task, self._ping):
            if task is not None:
                task.cancel()
        self._close("disconnected")
