"""Who counts apart from the product: what devices send, and what people ask of them.

Nothing here reads a message with the product's code: plain paho, `json`, `sqlite3`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import ssl
import threading
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho

if TYPE_CHECKING:
    from typing_extensions import Self

Key = tuple[str, str, int]
"""Device, boot, number."""

TEXTS = ("turn on the kitchen light", "set a timer for five minutes", "what is the weather today")


class Eavesdropper:
    """A subscriber that notes each telemetry batch that passes the broker. A context manager.

    What passes while the broker is down or it reconnects, it misses: it is a lower bound, batch
    by batch; that no number is missing below the highest is checked apart.

    Args:
        port: of the broker on loopback.
        files: paths of the authority, the certificate and its key.
        prefix: of the fleet's topics.
    """

    def __init__(self, port: int, files: tuple[Path, Path, Path], prefix: str) -> None:
        self.requests: dict[Key, int] = {}
        self.messages = 0
        self._prefix = prefix
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, "eavesdropper", protocol=paho.MQTTv5
        )
        context = ssl.create_default_context(cafile=str(files[0]))
        context.load_cert_chain(files[1], files[2])
        self._client.tls_set_context(context)
        self._client.reconnect_delay_set(1, 2)
        self._client.on_connect = lambda client, *_: client.subscribe(
            f"{prefix}/d/+/telemetry", qos=1
        )
        self._client.on_message = self._on_message
        self._client.connect_async("127.0.0.1", port, keepalive=10)

    def __enter__(self) -> Self:
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, _client: Any, _userdata: Any, message: Any) -> None:
        batch = json.loads(message.payload)
        self.messages += 1
        key = message.topic.split("/")[-2], batch["boot"], batch["seq"]
        self.requests[key] = count(batch)


def count(batch: dict[str, Any]) -> int:
    """Requests of a batch, as JSON."""
    return sum(sample.get("requests", 0) for sample in batch["samples"])


class Asker:
    """Writes lines to a device's local socket, and counts those that were taken.

    Args:
        path: of the socket.
        per_s: lines a second.
    """

    def __init__(self, path: Path, per_s: float) -> None:
        self.path = path
        self._at: list[float] = []
        self._lock = threading.Lock()
        self._pause = 1 / per_s
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"asker {path.parent.name}", daemon=True
        )

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; every line that was counted is with the device."""
        self._stop.set()
        self._thread.join()

    @property
    def asked(self) -> int:
        """Lines that were taken; none is on its way into an agent that was killed before."""
        with self._lock:
            return len(self._at)

    def since(self, moment: float) -> int:
        """Lines that were taken since a moment of the monotonic clock."""
        with self._lock:
            return sum(at >= moment for at in self._at)

    def first_since(self, moment: float) -> float | None:
        """When the first line was taken since a moment; None: none was."""
        with self._lock:
            return next((at for at in self._at if at >= moment), None)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(30)
                    connection.connect(str(self.path))
                    while not self._stop.wait(self._pause):
                        text = TEXTS[len(self._at) % len(TEXTS)]
                        with self._lock:
                            connection.sendall(text.encode() + b"\n")
                            self._at.append(time.monotonic())
                    # What is in the socket is read before the end of it.
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(1)
            except OSError:
                self._stop.wait(0.3)


def _read(database: Path, query: str, *values: str) -> list[tuple[Any, ...]]:
    """Rows of the controller's database; it is asked again while it is locked."""
    began = time.monotonic()
    while True:
        try:
            with contextlib.closing(
                sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)
            ) as db:
                return db.execute(query, values).fetchall()
        except sqlite3.OperationalError:
            if time.monotonic() - began > 60:
                raise
            time.sleep(0.2)


def numbers(database: Path) -> set[Key]:
    """The batches that are stored."""
    return set(_read(database, "SELECT device, boot, seq FROM telemetry"))


def batches_of(database: Path, device: str) -> dict[Key, bytes]:
    """The stored batches of one device."""
    query = "SELECT device, boot, seq, payload FROM telemetry WHERE device = ?"
    return {(row[0], row[1], row[2]): row[3] for row in _read(database, query, device)}


def requests_of(database: Path, device: str) -> int:
    """The stored requests of one device."""
    return sum(count(json.loads(payload)) for payload in batches_of(database, device).values())


def missing(found: Collection[Key], prefix: str) -> list[Key]:
    """Numbers that are missing below the highest, of devices whose name begins so."""
    seen: dict[tuple[str, str], set[int]] = {}
    for device, boot, seq in found:
        if device.startswith(prefix):
            seen.setdefault((device, boot), set()).add(seq)
    return [
        (*who, seq)
        for who, there in seen.items()
        for seq in range(min(1, *there), max(there))
        if seq not in there
    ]


class Stored:
    """What the controller's database has, read without the product.

    Args:
        database: the file.
    """

    def __init__(self, database: Path) -> None:
        rows = _read(database, "SELECT device, boot, seq, payload FROM telemetry")
        hour = (
            "SELECT coalesce(sum(requests), 0) FROM telemetry_rollup "
            "WHERE resolution = 3600 AND device <> ''"
        )
        self.rolled: int = _read(database, hour)[0][0]
        self.doubled = len(rows) - len({row[:3] for row in rows})
        self.requests: dict[Key, int] = {}
        self.drops: dict[str, Counter[str]] = {}
        for device, boot, seq, payload in rows:
            batch = json.loads(payload)
            self.requests[device, boot, seq] = count(batch)
            self.drops.setdefault(device, Counter()).update(batch.get("drops", {}))

    def of(self, device: str) -> int:
        """Requests of a device."""
        return sum(count for key, count in self.requests.items() if key[0] == device)


def unrolled(database: Path) -> int:
    """Batches that are in no roll-up yet."""
    return int(_read(database, "SELECT count(*) FROM telemetry WHERE rolled = 0")[0][0])
