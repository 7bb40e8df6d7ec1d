"""Readers of local sources: a file's tail, standard input, a Unix socket, an MQTT topic.

Each runs on a thread of its own until ``feed.stop`` is set, and holds at most one line of
:data:`agent.sources.lines.MAX_LINE_BYTES` of each stream in memory.
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

from agent.connection import Client
from agent.sources.feed import Feed
from agent.sources.lines import MAX_LINE_BYTES, Lines
from agent.sources.tail import Tail
from contracts.config import MqttConfig
from contracts.connection import connect_properties, new_client
from contracts.errors import InputError

POLL_S: Final = 0.2
"""Seconds between two looks for a stop."""

FIRST_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 60.0
"""Seconds after an error until a source is read again: doubled from the first to the second."""

MAX_CONNECTIONS: Final = 16
"""Programs that may write to a Unix socket at once."""

_CHUNK: Final = 16 * 1024


def keep_reading(feed: Feed, read: Callable[[], None]) -> None:
    """Reads to the end of a source, or until the agent stops; after an error anew, with a pause."""
    pause = FIRST_PAUSE_S
    while not feed.stop.is_set():
        began = feed.clock.monotonic()
        try:
            read()
            return
        except Exception as error:  # noqa: BLE001  # whatever it is: the device must not be deaf
            feed.failed(error)
        if feed.clock.monotonic() - began >= MAX_PAUSE_S:
            pause = FIRST_PAUSE_S
        feed.clock.wait(feed.stop, pause)
        pause = min(MAX_PAUSE_S, pause * 2)


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
    open_now: dict[socket.socket, Lines] = {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.setblocking(False)
        server.bind(str(path))
        path.chmod(0o660)
        server.listen(MAX_CONNECTIONS)
        try:
            _serve(feed, server, open_now)
        finally:
            for connection in open_now:
                connection.close()
    path.unlink(missing_ok=True)


def _serve(feed: Feed, server: socket.socket, open_now: dict[socket.socket, Lines]) -> None:
    accept_due = 0.0
    while not feed.stop.is_set():
        accepts = len(open_now) < MAX_CONNECTIONS and feed.clock.monotonic() >= accept_due
        wanted = [server, *open_now] if accepts else [*open_now]
        for ready in select.select(wanted, [], [], POLL_S)[0]:
            if ready is server:
                try:
                    connection, _ = server.accept()
                except (BlockingIOError, ConnectionAbortedError):
                    continue  # whoever came is gone
                except OSError as error:  # as of too many open files: those that are open go on
                    feed.failed(error)
                    accept_due = feed.clock.monotonic() + FIRST_PAUSE_S
                    continue
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


def read_mqtt(feed: Feed, topic: str, broker: MqttConfig, name: str, folder: Path) -> None:
    """Subscribes to a topic of a local broker; every message is one text."""
    client = new_client(broker, name, folder=folder, kind=Client)
    assert isinstance(client, Client)

    def connected(client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            feed.failed(OSError(f"the broker refused the connection: {reason}"))
            return
        client.subscribe(topic, 1)

    def subscribed(client: Any, userdata: Any, mid: Any, reasons: Any, properties: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            feed.failed(OSError(f"the broker does not allow to subscribe to {topic}"))

    def not_connected(*_: object) -> None:
        feed.failed(OSError(f"no connection to {broker.where}"))

    def message(client: Any, userdata: Any, message: Any) -> None:
        feed.line(message.payload[:MAX_LINE_BYTES])

    client.on_connect = connected
    client.on_connect_fail = not_connected
    client.on_subscribe = subscribed
    client.on_message = message
    client.connect_async(
        broker.host, broker.port, broker.keepalive_s, properties=connect_properties(broker)
    )
    client.loop_start()
    try:
        while client.alive and not feed.stop.wait(1.0):
            pass
    finally:
        client.disconnect()
        client.loop_stop()
    if not feed.stop.is_set():
        raise OSError("the network thread ended")


def reader(feed: Feed, folder: Path, mqtt: MqttConfig, device: str) -> Callable[[], None]:
    """The function that reads a source, and goes on after errors.

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
    read = _reader(feed, folder, mqtt, device)
    return lambda: keep_reading(feed, read)


def _reader(feed: Feed, folder: Path, mqtt: MqttConfig, device: str) -> Callable[[], None]:
    source = feed.source
    match source.kind:
        case "file":
            return Tail(feed, folder / source.path).run
        case "stdin":
            return lambda: read_stdin(feed)
        case "unix":
            return lambda: read_unix(feed, folder / source.path)
        case "mqtt":
            name = f"source-{device}-{source.name}"
            return lambda: read_mqtt(feed, source.path, source.mqtt or mqtt, name, folder)
