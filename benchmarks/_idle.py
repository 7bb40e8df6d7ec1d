"""What an idle fleet costs its controller, by devices and by rollouts that have ended.

Fleets of some sizes, each after one rollout and after many, on both databases. All of one database
are measured in turns: a tick of the engine with nothing to do, finding one device, a tick after
one device came back, a page of the device list, the dashboard's overview and its list of devices,
a plan of a rollout to all. Of what a person waits for, the longest of all turns is given too.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa
from _figures import ROOT, Row, row

sys.path.insert(0, str(ROOT))

from contracts.messages import Reported, SlotReport, Status, UpdateEvent
from fleet.conductor.runner import Runner
from fleet.controller import Controller
from fleet.dashboard.data import Data
from fleet.folder import Fleet, FleetConfig
from fleet.ingest.decode import Message
from fleet.ingest.writer import Writer
from fleet.rollout.selector import parse
from fleet.rollout.spec import RolloutSpec
from fleet.store import devices, rollouts, selection
from fleet.store.listing import Listing
from fleet.store.schema import MEMBER, ROLLOUT
from tests.support.postgres import postgres

BUNDLE = ROOT / "tests" / "data" / "tiny-classifier-1.0.0"
NEXT = ROOT / "tests" / "data" / "tiny-classifier-1.1.0"
LIMIT = 1.5
"""How much dearer the largest fleet with the longest history may be."""


class Idle:
    """A fleet that did all that was asked of it."""

    def __init__(self, folder: Path, database: str, count: int, history: int) -> None:
        fleet = Fleet.init(folder, FleetConfig("idle", database=database))
        ref, _ = fleet.publish(BUNDLE)
        fleet.publish(NEXT)
        self.ref = ref
        self.controller = Controller(fleet, clock=lambda: self.now)
        self.store = self.controller.store
        self.now = time.time()
        self.runner = Runner(self.store, clock=lambda: self.now)
        self.writer = Writer(self.store)
        self.session = 0
        self.names = [f"dev-{index:05}" for index in range(count)]
        with self.store.write() as connection:
            for index, name in enumerate(self.names):
                labels = {"site": ("lyon", "graz", "porto", "aarhus")[index % 4]}
                devices.enroll(
                    self.store, connection, name, "raspberry-pi-5", labels, ["all"], self.now
                )
        self._obey(online=True)
        spec = {"bundle": ref.name, "version": ref.version, "waves": [{"percent": 100}]}
        first = self.runner.create(RolloutSpec.model_validate(spec | {"bake_s": 0}), "bench")
        for _ in range(5):
            self.runner.tick()
            self._obey()
            self.now += 1
        while self.runner.tick():
            pass
        with self.store.read() as connection:
            done = rollouts.get(connection, first.state.id, members=False).state.header.status
        assert done == "succeeded", done
        self._repeat(first.state.id, history)
        self.now += 60

    def _obey(self, *, online: bool = False) -> None:
        """All devices report that they have what is asked of them."""
        with self.store.read() as connection:
            known = devices.every(connection)
        said = []
        for device in known:
            slots = device.desired.slots if device.desired else {}
            event = None
            for slot, wish in slots.items():
                event = UpdateEvent(
                    "boot", device.desired_revision, device.desired_revision, slot, wish.bundle,
                    "committed", self.now,
                )  # fmt: skip
            report = Reported(
                device.id, "boot", "1.0.0", "raspberry-pi-5", "litert", self.now,
                slots={slot: SlotReport(active=wish.bundle) for slot, wish in slots.items()},
                desired_revision=device.desired_revision, last_update=event,
                platform={"machine": "aarch64", "python": "3.11", "kernel": "6.1"},
            )  # fmt: skip
            said.append(Message(device.id, report, b""))
            if online:
                said.append(Message(device.id, Status("online", "boot", 0, self.now), b""))
        for start in range(0, len(said), 2000):
            self.writer.write(said[start : start + 2000], self.now)

    def _repeat(self, first: str, history: int) -> None:
        """The same rollout again and again, as it ended."""
        with self.store.write() as connection:
            row = connection.execute(sa.select(ROLLOUT).where(ROLLOUT.c.id == first)).one()
            for number in range(2, history + 1):
                again = row._asdict() | {"id": f"r{number}", "number": number}
                connection.execute(ROLLOUT.insert(), again)
                columns = [c for c in MEMBER.c if c is not MEMBER.c.rollout]
                copy = sa.select(sa.literal(f"r{number}"), *columns).where(
                    MEMBER.c.rollout == first
                )
                names = ["rollout", *(c.name for c in columns)]
                connection.execute(MEMBER.insert().from_select(names, copy))
        if not self.store.is_sqlite:
            with self.store.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(
                    "ANALYZE"
                )

    # What is measured ---------------------------------------------------------------------

    def tick(self) -> None:
        """A look of the engine with nothing to do."""
        assert not self.runner.tick()

    def find(self) -> None:
        """Whom a query of one device means."""
        with self.store.read() as connection:
            found = devices.contacts(connection, selection.means(parse("dev-00007")))
        assert len(found) == 1

    def back(self) -> None:
        """One device goes and comes; the engine looks at it."""
        for state in ("offline", "online"):
            self.session += 1
            status = Status(state, "boot", self.session, self.now)  # type: ignore[arg-type]
            self.writer.write([Message("dev-00007", status, b"")], self.now)
        self.runner.tick()

    def page(self) -> None:
        """A page of the device list, by a label."""
        with self.store.read() as connection:
            found, _ = devices.page(connection, parse("site=graz"), "dev-00010", 50)
            devices.counts(connection)
        assert found

    def listed(self) -> None:
        """A page of the dashboard's list: words, sorted, with totals."""
        found = Data(self.controller).device_page(
            Listing(parse("site=graz"), "dev", "heard", True), 2
        )
        assert found.total >= len(self.names) // 4

    def plan(self) -> None:
        """What a rollout of another version to all devices would do."""
        spec = {"bundle": self.ref.name, "version": "1.1.0", "waves": [{"percent": 100}]}
        assert self.runner.plan(RolloutSpec.model_validate(spec)).moving == len(self.names)

    def overview(self) -> None:
        """The dashboard's first page."""
        Data(self.controller).overview()


FIGURES: tuple[tuple[str, Callable[[Idle], None], int, bool], ...] = (
    ("tick_us", Idle.tick, 40, True),
    ("find_device_us", Idle.find, 40, True),
    ("device_back_us", Idle.back, 5, False),
    ("device_page_us", Idle.page, 5, False),
    ("overview_us", Idle.overview, 5, False),
    ("device_list_us", Idle.listed, 5, False),
    ("plan_us", Idle.plan, 2, False),
)
"""Name, work, repetitions in one turn, and whether its cost must not grow."""


WAITED_FOR: Final = frozenset({"device_page_us", "overview_us", "device_list_us", "plan_us"})
"""What a person waits for."""


class IdleSize(msgspec.Struct, frozen=True):
    """How much is measured."""

    devices: tuple[int, ...]
    rollouts: tuple[int, int]
    rounds: int


FULL = IdleSize((100, 10_000, 20_000), (1, 50), 12)
QUICK = IdleSize((20, 300), (1, 5), 4)


def measure(size: IdleSize) -> list[Row]:
    """Figures of every fleet, and how much dearer the dearest is than the smallest."""
    rows: list[Row] = []
    with postgres() as server, tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        for kind in ("sqlite", "postgres"):
            with contextlib.ExitStack() as stack:
                fleets: dict[tuple[int, int], Idle] = {}
                for count in size.devices:
                    for history in size.rollouts:
                        place = Path(folder) / f"{kind}-{count}-{history}"
                        database = ""
                        if kind == "postgres":
                            database = stack.enter_context(server.database())
                        fleets[count, history] = Idle(place, database, count, history)
                        stack.callback(fleets[count, history].store.close)
                rows += _turns(kind, fleets, size.rounds)
    return rows


def _turns(kind: str, fleets: dict[tuple[int, int], Idle], rounds: int) -> list[Row]:
    rows: list[Row] = []
    smallest = min(fleets)
    for figure, work, times, bounded in FIGURES:
        found: dict[tuple[int, int], list[float]] = {key: [] for key in fleets}
        for turn in range(rounds + 1):
            for key, fleet in fleets.items():
                spans = list(_spans(fleet, work, times))
                if turn:  # the first warms caches up
                    found[key] += spans
        medians = {key: statistics.median(spans) * 1e6 for key, spans in found.items()}
        for (count, history), value in medians.items():
            case = f"idle-{kind}-{count}-{history}"
            rows.append(row(case, "shoal", figure, value, "us", rounds * times))
            if figure in WAITED_FOR:
                longest = max(found[count, history])
                name = f"{figure.removesuffix('_us')}_longest_s"
                rows.append(row(case, "shoal", name, longest, "s", rounds * times))
        ratio = max(medians.values()) / medians[smallest]
        name = f"{figure.removesuffix('_us')}_growth"
        rows.append(row(f"idle-{kind}", "shoal", name, ratio, "ratio", rounds * times))
        if bounded and ratio > LIMIT:
            print(f"{name} on {kind} is {ratio:.2f}, over {LIMIT}", file=sys.stderr)
    return rows


def _spans(fleet: Idle, work: Callable[[Idle], None], times: int) -> Iterator[float]:
    for _ in range(times):
        began = time.perf_counter()
        work(fleet)
        yield time.perf_counter() - began
