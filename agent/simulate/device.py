"""One simulated device: what it keeps over restarts."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from agent.link import Link
from agent.runtime.engine import platform_facts
from agent.simulate.disk import Contents, MemoryDisk
from agent.simulate.fate import Fates, Outcome
from agent.simulate.host import Host, Waiting
from agent.simulate.repository import Installed, Repository, SharedTrust
from agent.simulate.run import ROOT, Clock, Run
from agent.system.state import next_session
from agent.telemetry.memory import MemorySpool
from agent.update.journal import Journal, JournalFiles
from agent.update.store import Store
from contracts.config import MqttConfig
from contracts.messages import BundleRef
from contracts.simulation import Counters

START_SEQ_PER_S: Final = 10
"""Update events are numbered from the clock on, so that a new simulation goes on higher, as the
device of a name does that is there for years."""

MakeLink = Callable[..., Link]
"""As :class:`agent.link.Link`, but for what drives it."""


class World(msgspec.Struct, kw_only=True):
    """What all devices of a process have together.

    Attributes:
        fleet: its name.
        mqtt: the broker.
        folder: what relative PEM paths are relative to.
        fates: what goes wrong.
        host: the time.
        repository, trust, contents: where bundles come from, and where they are.
        counters: of what all did.
        make_link: makes a device's connection.
        start: bundles that devices have from the start.
        stopping: never set: a device ends with its process.
    """

    fleet: str
    mqtt: MqttConfig
    fates: Fates
    host: Host
    repository: Repository
    counters: Counters
    make_link: MakeLink
    folder: Path = Path()
    start: list[Installed] = []
    contents: Contents = msgspec.field(default_factory=Contents)
    stopping: threading.Event = msgspec.field(default_factory=threading.Event)
    platform: dict[str, str] = msgspec.field(default_factory=platform_facts)
    _trust: SharedTrust | None = None

    @property
    def trust(self) -> SharedTrust:
        """Of all devices."""
        if self._trust is None:
            self._trust = SharedTrust(self.contents)
        return self._trust


class SimulatedDevice:
    """A device. What is here survives its restarts: its disk, its spool, its name.

    Args:
        index: which of the simulation's devices it is.
        name: its id.
        world: of the process.
    """

    def __init__(self, index: int, name: str, world: World) -> None:
        self.index = index
        self.name = name
        self.world = world
        self.chance = random.Random(f"{world.fates.scenario.seed}/device/{index}")
        self.slowness = world.fates.slowness(index)
        self.disk = MemoryDisk(world.contents)
        self.spool = MemorySpool()
        self.known_good: set[BundleRef] = {one.ref for one in world.start}
        self._session = 0
        self.run: Run | None = None
        self._prepare()

    def _prepare(self) -> None:
        """The disk of a device that has been there before."""
        self.disk.make_folder(ROOT)
        store = Store(self.disk, ROOT, clock=self.world.host.time)
        store.prepare()
        for one in self.world.start:
            for sha256, data in one.files.items():
                self.disk.append(ROOT / "blobs" / sha256, data)
                self.disk.digest(ROOT / "blobs" / sha256)  # one copy for all devices
            store.build(one.manifest_bytes, one.manifest)
            store.link(one.slot, "current", one.ref.manifest_sha256)
        seq = int(self.world.host.time() * START_SEQ_PER_S)
        JournalFiles(self.disk, ROOT).save(Journal(event_seq=seq))

    def next_session(self) -> int:
        """The number of the connection that is about to be made."""
        self._session = next_session(self._session, Clock(Waiting(self.world.host)))
        return self._session

    def start(self) -> None:
        """Starts, or does so again after :meth:`stop`."""
        self.run = Run(self)
        self.run.begin()

    def stop(self) -> None:
        """Loses its power."""
        if self.run is not None:
            self.run.end()
            self.run = None

    def shut_down(self) -> None:
        """Ends well: sends what it has measured, and says goodbye."""
        if self.run is not None:
            self.run.shut_down()
            self.run = None

    def reboot(self, away_s: float) -> None:
        """Loses its power, and starts again after a while."""
        self.stop()
        self.world.host.later(away_s, self.start)

    def outcome(self, ref: BundleRef) -> Outcome:
        """What becomes of a bundle here; what held before holds now."""
        if ref in self.known_good:
            return "commits"
        return self.world.fates.outcome(self.index, ref.name, ref.version)
