"""One simulated device: state, messages and answers; no sockets and no clock of its own."""

from __future__ import annotations

import functools
import random
from typing import Any

from agent.simulate.answers import Answers
from agent.simulate.fate import Fates
from agent.simulate.host import Fetch, Fetched, Host, Running
from agent.simulate.model import FakeModel, requests_in
from agent.simulate.sending import Sending
from agent.simulate.state import Counters, Slot
from agent.simulate.update import apply
from contracts import __version__, codec, topics
from contracts.errors import InputError
from contracts.manifest import Baseline
from contracts.messages import (
    Ack,
    BundleRef,
    Desired,
    Reported,
    Sample,
    Status,
    UpdateEvent,
)

START_SEQ_PER_S = 10
"""Update events are numbered from the clock on, so that a new simulation goes on higher."""


class Device:
    """A simulated device.

    Args:
        index: which of the simulation's devices it is.
        name: its id.
        names: topics of the fleet.
        fates: what goes wrong.
        host: its world.
        counters: shared by all devices of the process.
    """

    __slots__ = (
        "_boots",
        "_known_good",
        "_online_before",
        "_updating",
        "_window_began",
        "answers",
        "boot",
        "chance",
        "counters",
        "fates",
        "first_session",
        "host",
        "index",
        "last_update",
        "name",
        "names",
        "reached",
        "revision",
        "sending",
        "seq",
        "session",
        "slots",
    )  # fmt: skip

    def __init__(
        self,
        index: int,
        name: str,
        names: topics.Topics,
        fates: Fates,
        host: Host,
        counters: Counters,
    ) -> None:
        self.index = index
        self.name = name
        self.names = names
        self.fates = fates
        self.host = host
        self.counters = counters
        self.chance = random.Random(f"{fates.scenario.seed}/device/{index}")
        self.slots: dict[str, Slot] = {}
        self.revision = 0
        self.reached = 0
        self.seq = int(host.time() * START_SEQ_PER_S)
        self.session = int(host.time() * 1000)
        self.first_session = self.session + 1
        self.last_update: UpdateEvent | None = None
        self.answers = Answers(self)
        self._boots = 0
        self.boot = ""
        self.sending = Sending(host, names, name, self.chance)
        self._updating: Running | None = None
        self._online_before = False
        self._window_began = host.monotonic()
        self._known_good: set[BundleRef] = set()
        for start in fates.scenario.start:
            ref = BundleRef(start.bundle, start.version, start.manifest_sha256)
            self._known_good.add(ref)
            self.slots[start.slot] = Slot(active=self.model(ref, None))
            host.fetch(Fetch(ref, full=False), functools.partial(self._started, start.slot))
        self.reboot()

    def _started(self, slot: str, got: Fetched) -> None:
        """The baseline of a bundle that the device ran from the start has come."""
        model = self.slots[slot].active
        if got.manifest is not None and model is not None:
            self.slots[slot].active = self.model(model.ref, got.manifest.baseline)

    def model(self, ref: BundleRef, baseline: Baseline | None) -> FakeModel:
        """A bundle as it runs here."""
        behaviour = self.fates.behaviour(ref.name, ref.version)
        return FakeModel(ref, behaviour, baseline, self.fates.slowness(self.index))

    def reboot(self) -> None:
        """A new boot: telemetry numbers start anew."""
        self._boots += 1
        self.boot = f"sim{self.session:x}-{self._boots}"
        self.sending.rebooted()

    def is_known_good(self, ref: BundleRef) -> bool:
        """Whether the device ran it before: what held then holds now."""
        return ref in self._known_good

    def remember_good(self, ref: BundleRef) -> None:
        """Notes that a bundle was committed."""
        self._known_good.add(ref)

    # Connection ---------------------------------------------------------------------------

    def next_session(self) -> int:
        """The number of the connection that is about to be made."""
        self.session += 1
        return self.session

    def status(self, state: str) -> bytes:
        """The status document; the will is the one for ``offline``."""
        since = round(self.host.time(), 3)
        return codec.encode(Status(state, self.boot, self.session, since))  # type: ignore[arg-type]

    def connected(self) -> None:
        """The connection is up."""
        topic = self.names.of_device(self.name, "status")
        self.publish(topic, self.status("online"), retain=True)
        self.report()
        self.sending.link_changed(True)
        if not self._online_before:
            self._online_before = True
            every = self.fates.scenario.traffic.telemetry_s
            self._window_began = self.host.monotonic()
            self.host.later(every * self.chance.random(), self._telemetry)

    def disconnected(self) -> None:
        """The connection is gone."""
        self.sending.link_changed(False)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publishes."""
        self.host.publish(topic, payload, retain=retain)

    def message(self, topic: str, payload: bytes, properties: dict[str, Any]) -> None:
        """A message came. What is wrong in it is answered, or ignored as a real agent does."""
        self.counters.received += 1
        self.counters.received_bytes += len(payload)
        try:
            address = topics.parse(topic)
            if address.kind == "desired":
                self.desire(codec.decode(payload, Desired, what="desired"))
            elif address.kind in ("request", "group-request"):
                self.answers.request(address.name, payload, properties)
            elif address.kind == "ack":
                self.sending.heard(codec.decode(payload, Ack, what="an ack"))
        except InputError:
            return

    # State --------------------------------------------------------------------------------

    def desire(self, desired: Desired) -> None:
        """Begins to do what the controller wants; an older revision is ignored."""
        if desired.revision <= self.revision:
            return
        self.revision = desired.revision
        if self._updating is not None:
            self._updating.stop()
            self._settle()
        self._updating = Running(self.host, apply(self, desired))

    def _settle(self) -> None:
        """An update was cut short by a newer document: what is on trial is not kept."""
        for slot in self.slots.values():
            if slot.trial:
                slot.active, slot.previous, slot.trial = slot.previous, None, False

    def reported(self) -> Reported:
        """The reported document."""
        return Reported(
            device=self.name,
            boot=self.boot,
            agent_version=f"{__version__}+simulated",
            board=self.fates.board(self.index),
            runtime="simulated",
            at=round(self.host.time(), 3),
            labels=self.fates.labels(self.index),
            groups=self.fates.scenario.groups,
            slots={name: slot.report() for name, slot in self.slots.items()},
            desired_revision=self.reached,
            last_update=self.last_update,
            free_bytes=8_000_000_000,
            memory_bytes=4_000_000_000,
        )

    def report(self) -> None:
        """Publishes the reported document."""
        topic = self.names.of_device(self.name, "reported")
        self.publish(topic, codec.encode(self.reported()), retain=True)

    # Telemetry ----------------------------------------------------------------------------

    def _telemetry(self) -> None:
        every = self.fates.scenario.traffic.telemetry_s
        self.host.later(every, self._telemetry)
        now = self.host.monotonic()
        window, self._window_began = now - self._window_began, now
        self.sending.telemetry(self.boot, self.samples(window))

    def samples(self, window_s: float) -> list[Sample]:
        """What was done in a window: one sample for each model, one for the process."""
        at, traffic = round(self.host.time(), 3), self.fates.scenario.traffic
        found: list[Sample] = []
        rss = 45_000_000
        for name, slot in self.slots.items():
            if slot.active is None:
                continue
            requests = requests_in(traffic, window_s, self.chance)
            found.append(slot.active.sample(name, at, window_s, requests, self.chance))
            rss = max(rss, slot.active.behaviour.rss_bytes)
            if slot.shadow is not None:
                shadow = slot.shadow.sample(name, at, window_s, requests, self.chance)
                share = slot.shadow.behaviour.disagreement
                shadow.shadow_requests, shadow.requests = requests, 0
                shadow.shadow_disagreements = sum(
                    self.chance.random() < share for _ in range(min(requests, 1000))
                )
                found.append(shadow)
        gauges = {
            "rss_bytes": round(rss * self.chance.uniform(0.97, 1.0)),
            "cpu_ratio": round(self.chance.uniform(0.02, 0.2), 3),
            "temperature_c": round(self.chance.gauss(52, 3), 1),
        }
        found.append(Sample(at=at, window_s=window_s, gauges=gauges))
        return found
