"""Readers of local sources: a file's tail, standard input, a Unix socket, an MQTT topic.

Each runs on a thread of its own until ``feed.stop`` is set, and holds at most one line of
:data:`MAX_LINE_BYTES` in memory.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from agent.log import logger
from agent.sources.feed import Feed
from contracts import limits
from contracts.config import MqttConfig
from contracts.connection import connect_properties, new_client
from contracts.errors import InputError

log = logger(__name__)

MAX_LINE_BYTES: Final = limits.MAX_TEXT_BYTES + 2
"""Bytes of a line with its end; the rest of a longer one is read and thrown away."""

POLL_S: Final = 0.2
"""Seconds between two looks at a file or for a stop."""

MAX_CONNECTIONS: Final = 16
"""Programs that may write to a Unix socket at once."""

_CHUNK: Final = 16 * 1024


class Lines:
    """Cuts bytes into lines, in bounded memory.

    Args:
        take: gets every line without its end. One that is too long comes once, cut just over
            the cap, so that it is refused and counted.
    """

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._rest = b""
        self._skipping = False

    def add(self, data: bytes) -> None:
        """Takes the next bytes of the stream."""
        *whole, rest = (self._rest + data).split(b"\n")
        for line in whole:
            if not self._skipping:
                self._take(line[:MAX_LINE_BYTES])
            self._skipping = False
        self._rest = rest
        if len(rest) > MAX_LINE_BYTES:
            if not self._skipping:
                self._take(rest[:MAX_LINE_BYTES])
            self._skipping = True
        if self._skipping:
            self._rest = b""

    def end(self) -> None:
        """The stream ended: a last line without an end counts."""
        if self._rest and not self._skipping:
            self._take(self._rest)
        self._rest = b""
        self._skipping = False


def read_file(feed: Feed, path: Path) -> None:
    """Follows a file from its end, over rotation (renamed or removed) and truncation."""
    lines = Lines(feed.line)
    stream = None
    first = True
    while not feed.stop.is_set():
        if stream is None:
            try:
                stream = path.open("rb", buffering=0)
            except OSError as error:
                if first:
                    log.warning("source waits for its file", path=str(path), reason=str(error))
                first = False
                feed.stop.wait(POLL_S)
                continue
            if first:  # what was written before the agent started is not news
                stream.seek(0, os.SEEK_END)
            first = False
        data = stream.read(_CHUNK)
        if data:
            lines.add(data)
            continue
        if _replaced(stream, path):
            lines.end()
            stream.close()
            stream = None
            continue
        feed.stop.wait(POLL_S)
    if stream is not None:
        stream.close()


def _replaced(stream: Any, path: Path) -> bool:
    """Whether the path is another file now, or the file was cut."""
    here = os.fstat(stream.fileno())
    if stream.tell() > here.st_size:
        return True
    try:
        there = path.stat()
    except OSError:
        return False
    return (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino)


def read_stdin(feed: Feed) -> None:
    """Reads standard input to its end."""
    lines = Lines(feed.line)
    handle = sys.stdin.fileno()
    while not feed.stop.is_set():
        if not select.select([handle], [], [], POLL_S)[0]:
            continue
        data = os.read(handle, _CHUNK)
        if not data:
            break
        lines.add(data)
    lines.end()


def read_unix(feed: Feed, path: Path) -> None:
    """Listens on a Unix socket (mode 0660); every connection sends lines."""
    try:
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()  # of an agent that died
    except FileNotFoundError:
        pass
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        try:
            server.bind(str(path))
        except OSError as error:
            log.error("source cannot listen", path=str(path), reason=str(error))
            return
        path.chmod(0o660)
        server.listen(MAX_CONNECTIONS)
        open_now: dict[socket.socket, Lines] = {}
        while not feed.stop.is_set():
            wanted = [server, *open_now] if len(open_now) < MAX_CONNECTIONS else [*open_now]
            for ready in select.select(wanted, [], [], POLL_S)[0]:
                if ready is server:
                    connection, _ = server.accept()
                    open_now[connection] = Lines(feed.line)
                    continue
                try:
                    data = ready.recv(_CHUNK)
                except OSError:
                    data = b""
                if data:
                    open_now[ready].add(data)
                else:
                    open_now.pop(ready).end()
                    ready.close()
        for connection in open_now:
            connection.close()
    path.unlink(missing_ok=True)


def read_mqtt(feed: Feed, topic: str, broker: MqttConfig, name: str, folder: Path) -> None:
    """Subscribes to a topic of a local broker; every message is one text."""
    client = new_client(broker, name, folder=folder)

    def connected(client: Any, *_: object) -> None:
        client.subscribe(topic, 1)

    def message(client: Any, userdata: Any, message: Any) -> None:
        feed.line(message.payload[:MAX_LINE_BYTES])

    client.on_connect = connected
    client.on_message = message
    client.connect_async(
        broker.host, broker.port, broker.keepalive_s, properties=connect_properties(broker)
    )
    client.loop_start()
    feed.stop.wait()
    client.disconnect()
    client.loop_stop()


def reader(feed: Feed, folder: Path, mqtt: MqttConfig, device: str) -> Callable[[], None]:
    """The function that reads a source.

    Args:
        feed: of the source.
        folder: what its path is relative to.
        mqtt: the broker, for sources that name none of their own.
        device: whose source it is, for the client id.

    Raises:
        InputError: ``bad-source``; it lacks its path.
    """
    source = feed.source
    if source.kind != "stdin" and not source.path:
        raise InputError("bad-source", f"source {source.name} of kind {source.kind} needs 'path'")
    match source.kind:
        case "file":
            return lambda: read_file(feed, folder / source.path)
        case "stdin":
            return lambda: read_stdin(feed)
        case "unix":
            return lambda: read_unix(feed, folder / source.path)
        case "mqtt":
            name = f"source-{device}-{source.name}"
            return lambda: read_mqtt(feed, source.path, source.mqtt or mqtt, name, folder)
