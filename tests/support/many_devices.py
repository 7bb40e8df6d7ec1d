"""Many simulated devices in one thread, in fast time, and a witness of what they measured."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agent.simulate.device import SimulatedDevice, World
from agent.simulate.fate import Fates
from agent.simulate.host import LoopHost
from agent.simulate.link import LoopLink
from agent.simulate.repository import Installed, Repository
from agent.simulate.runner import link_of
from agent.simulate.scenario import load
from agent.telemetry.memory import MemorySpool
from contracts import codec
from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.messages import Telemetry
from contracts.simulation import Counters
from tests.support.controller import TINY

if TYPE_CHECKING:
    from typing_extensions import Self

Key = tuple[str, str, int]
"""Device, boot, number."""

SCENARIO = """
seed: 5
traffic: {{requests_per_s: 1, telemetry_s: {every}}}
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


def installed(folder: Path, slot: str = "classify") -> Installed:
    """A bundle that devices have from the start."""
    bundle = Bundle.open(folder)
    files = {entry.sha256: bundle.read(entry.path) for entry in bundle.manifest.files}
    return Installed(slot, bundle.ref, bundle.manifest_bytes, bundle.manifest, files)


class ManyDevices:
    """Devices that measure and send; a context manager.

    Args:
        mqtt: the broker.
        fleet: its name.
        count: of devices.
        speed: how many seconds of theirs are one.
        every_s: between two batches of a device, in its seconds.
        prefix: of their names.
        scenario: YAML text; None: one request a second.
        start: what they have from the start; None: a classifier.
        repository_url: where bundles come from; None: blocks over MQTT.
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
        scenario: str | None = None,
        start: list[Installed] | None = None,
        repository_url: str | None = None,
    ) -> None:
        self.counters = Counters()
        self.devices: list[SimulatedDevice] = []
        self._names = [f"{prefix}{index:04}" for index in range(count)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="devices", daemon=True)
        self._repository = Repository(repository_url, self.counters)
        text = SCENARIO.format(every=every_s) if scenario is None else scenario
        self._speed = speed
        self._host = LoopHost(self._loop)
        self._world = World(
            fleet=fleet,
            mqtt=mqtt,
            fates=Fates(load(text.encode()), count),
            host=self._host,
            repository=self._repository,
            counters=self.counters,
            make_link=functools.partial(LoopLink, loop=self._loop, counters=self.counters),
            start=[installed(TINY)] if start is None else start,
        )

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(600)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(120)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()
        self._repository.close()

    async def _open(self) -> None:
        self._keeper = asyncio.ensure_future(self._keep())
        for index, name in enumerate(self._names):
            self.devices.append(SimulatedDevice(index, name, self._world))
            self.devices[-1].start()
            if index % 20 == 0:
                await asyncio.sleep(0.01)
        # Only then: in fast time those that are there would leave none for the others to come.
        deadline = self._loop.time() + 300
        while self.counters.online < len(self.devices) and self._loop.time() < deadline:
            await asyncio.sleep(0.05)
        self._host.go_at(self._speed)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(1)
            for link in map(link_of, self.devices):
                if link is not None:
                    link.keep_alive()

    async def _close(self) -> None:
        self._keeper.cancel()
        for device in self.devices:
            device.shut_down()
        await asyncio.sleep(0.2)

    def call(self, work: Callable[[], object]) -> None:
        """Does something in the devices' thread, and waits for it."""

        async def wrapped() -> None:
            work()

        asyncio.run_coroutine_threadsafe(wrapped(), self._loop).result(30)

    def go_at(self, speed: float) -> None:
        """Their time goes so fast from now on."""
        self.call(lambda: self._host.go_at(speed))

    @property
    def waiting(self) -> int:
        """Messages that the devices hold."""
        return sum(device.spool.depth for device in self.devices)

    def __str__(self) -> str:
        """What there is, for a test that fails."""
        known = sum(device.spool.acknowledged for device in self.devices)
        return (
            f"{self.counters.online} online of {len(self.devices)}, {self.waiting} messages "
            f"held, {known} devices acknowledged"
        )
