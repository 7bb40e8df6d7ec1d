"""A broker that refuses what a test says, in the way that a test says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any


class Broker:
    """Speaks as much MQTT 5 as is needed, and answers as a test says.

    Args:
        answer: for a topic of a message at QoS 1: the reason code of its acknowledgement; None:
            the connection is closed; negative: after a DISCONNECT with that reason code.
        granted: the reason code for a topic that is subscribed to.
    """

    def __init__(
        self,
        answer: Callable[[str], int | None] = lambda _: 0,
        granted: Callable[[str], int] = lambda _: 1,
    ) -> None:
        self._answer, self._granted = answer, granted
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.connections = 0
        self.heard: list[tuple[str, bytes]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            with (
                one,
                one.makefile("rwb", buffering=0) as stream,
                contextlib.suppress(OSError, IndexError, ValueError),
            ):
                while self._packet(stream):
                    pass
                # What is not read would reset the connection, and what was said were lost.
                one.shutdown(socket.SHUT_WR)
                while stream.read(4096):
                    pass

    def _packet(self, stream: Any) -> bool:
        head, size, shift = stream.read(1)[0], 0, 0
        while True:
            byte = stream.read(1)[0]
            size |= (byte & 127) << shift
            shift += 7
            if not byte & 128:
                break
        body = b""
        while len(body) < size:
            body += stream.read(size - len(body))
        kind = head & 0xF0
        if kind == 0x10:
            stream.write(b"\x20\x03\x00\x00\x00")
        elif kind == 0x80:
            topics, rest = [], body[3:]
            while rest:
                length = int.from_bytes(rest[:2], "big")
                topics.append(rest[2 : 2 + length].decode())
                rest = rest[3 + length :]
            codes = bytes(self._granted(topic) for topic in topics)
            stream.write(bytes([0x90, 3 + len(codes)]) + body[:2] + b"\0" + codes)
        elif kind == 0x30:
            length = int.from_bytes(body[:2], "big")
            topic = body[2 : 2 + length].decode()
            properties = body[4 + length]
            self.heard.append((topic, body[5 + length + properties :]))
            code = self._answer(topic)
            if code is None:
                return False
            if code < 0:
                stream.write(bytes([0xE0, 1, -code]))
                return False
            stream.write(b"\x40\x03" + body[2 + length : 4 + length] + bytes([code]))
        return kind != 0xE0

    def close(self) -> None:
        """Ends it."""
        self._server.close()
