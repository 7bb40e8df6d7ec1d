"""Many simulated devices in one thread, in fast time, and a witness of what they measured."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Self

from agent.simulate.connection import Connection
from agent.simulate.downloads import Downloads
from agent.simulate.fate import Fates
from agent.simulate.host import Timer
from agent.simulate.scenario import load
from agent.simulate.state import Counters
from agent.telemetry.memory import MemorySpool
from contracts import codec
from contracts.config import MqttConfig
from contracts.messages import Telemetry
from contracts.topics import Topics

Key = tuple[str, str, int]
"""Device, boot, number."""

SCENARIO = """
seed: 5
traffic: {{requests_per_s: 1, telemetry_s: {every}}}
start: [{{slot: classify, bundle: m, version: 1.0.0, manifest_sha256: "{digest}"}}]
"""


class Witness:
    """Notes every batch at the moment in which a device measured it, whatever then becomes of it.

    It knows nothing of how batches are sent: it reads what is handed to the spool.
    """

    def __init__(self) -> None:
        self.requests: dict[Key, int] = {}
        self.bytes = 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[Self]:
        """While it watches the spools of this process."""
        tell = MemorySpool.tell

        def told(
            spool: MemorySpool,
            topic: str,
            payload: Callable[[dict[str, int]], bytes],
            *,
            boot: str,
            seq: int,
            items: int,
        ) -> bool:
            batch = codec.decode(payload({}), Telemetry, what="telemetry")
            key = (topic.split("/")[4], batch.boot, batch.seq)
            assert key not in self.requests, "two batches of one number"
            self.requests[key] = sum(sample.requests for sample in batch.samples)
            self.bytes += len(payload({}))
            return tell(spool, topic, payload, boot=boot, seq=seq, items=items)

        MemorySpool.tell = told  # type: ignore[method-assign]
        try:
            yield self
        finally:
            MemorySpool.tell = tell  # type: ignore[method-assign]


class FastConnection(Connection):
    """A device's connection whose clock runs fast. Its MQTT client does not know."""

    __slots__ = ()
    speed = 1.0

    def monotonic(self) -> float:
        """Fast seconds."""
        return self._loop.time() * self.speed

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """After so many fast seconds."""
        return self._loop.call_later(seconds / self.speed, call)


class ManyDevices:
    """Devices that measure and send; a context manager.

    Args:
        mqtt: the broker.
        fleet: its name.
        count: of devices.
        speed: how many seconds of theirs are one.
        every_s: between two batches of a device, in its seconds.
        prefix: of their names.
    """

    def __init__(
        self,
        mqtt: MqttConfig,
        fleet: str,
        count: int,
        *,
        speed: float = 1.0,
        every_s: float = 10.0,
        prefix: str = "sim-",
    ) -> None:
        self.counters = Counters()
        self.connections: list[FastConnection] = []
        self._mqtt = mqtt
        self._names = Topics(fleet)
        self._prefix = prefix
        text = SCENARIO.format(every=every_s, digest="0" * 64)
        self._fates = Fates(load(text.encode()), count)
        self._count = count
        self._kind = type("Fast", (FastConnection,), {"speed": speed, "__slots__": ()})
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="devices", daemon=True)
        self._downloads = Downloads(None, self.counters)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(120)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(120)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()
        self._downloads.close()

    async def _open(self) -> None:
        for index in range(self._count):
            connection = self._kind(
                index, f"{self._prefix}{index:04}", self._mqtt, self._names, self._fates,
                self._downloads, self.counters,
            )  # fmt: skip
            self.connections.append(connection)
            connection.open()
            if index % 20 == 0:
                await asyncio.sleep(0.01)
        self._keeper = asyncio.ensure_future(self._keep())

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(1)
            for connection in self.connections:
                connection.keep_alive()

    async def _close(self) -> None:
        self._keeper.cancel()
        for connection in self.connections:
            connection.close()
        await asyncio.sleep(0.2)

    @property
    def waiting(self) -> int:
        """Messages that the devices hold."""
        return sum(connection.device.sending.spool.depth for connection in self.connections)

    def __str__(self) -> str:
        """What there is, for a test that fails."""
        known = sum(c.device.sending.spool.acknowledged for c in self.connections)
        return (
            f"{self.counters.online} online of {len(self.connections)}, {self.waiting} messages "
            f"held, {known} devices acknowledged"
        )
