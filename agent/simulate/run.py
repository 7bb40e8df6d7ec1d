"""One run of a simulated device: the agent's parts, and what is made up for them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.device import Device, Means
from agent.reporting import Facts
from agent.runtime import model as models
from agent.serving.models import Models
from agent.serving.worker import Job, Worker
from agent.simulate.host import Alarm, Arrivals, Turns, Waiting
from agent.simulate.repository import Reach
from agent.simulate.runtime import ScriptedModel, requests_in
from agent.system.state import new_boot
from agent.system.tail import Tail
from agent.telemetry.observed import Observed
from agent.trust.client import Signed
from agent.update.fetch import Fetcher
from agent.update.fit import Device as Measured
from agent.update.health import Health, Trials
from agent.update.program import Own
from contracts import __version__, codec
from contracts import board as boards
from contracts.answers import Answer, Selftested
from contracts.bundle import Bundle
from contracts.config import AgentConfig
from contracts.desired import Desired
from contracts.errors import RefusedError, ShoalError, UnavailableError
from contracts.messages import BundleRef, UpdateEvent

if TYPE_CHECKING:
    from agent.simulate.device import SimulatedDevice

ROOT: Final = Path("/state")
"""The state folder on such a device's disk."""

MAX_GROUPS: Final = 256
"""Requests of one window that are counted one by one; more come in so many groups of the same."""

MEMORY_BYTES: Final = 4_000_000_000
RSS_BYTES: Final = 45_000_000
"""Of a device, and of its agent without a model."""

_OPTIONS: Final = models.Options()


class Clock:
    """The agent's clock on a host (:class:`agent.system.clock.Clock`)."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self.time = waiting.host.time
        self.monotonic = waiting.host.monotonic

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Waits at most `seconds`."""
        if not event.is_set():
            self._waiting.pause(seconds)
        return event.is_set()


class Run(Device):
    """One run of a simulated device: the agent's parts, and a turn for each from the loop.

    Args:
        owner: the device.
    """

    def __init__(self, owner: SimulatedDevice) -> None:
        world = owner.world
        self.owner = owner
        self.index, self.chance, self.slowness = owner.index, owner.chance, owner.slowness
        self.flowing = False
        self.shown: tuple[ScriptedModel, str, str] | None = None
        self._waiting = Waiting(world.host)
        self._scenario = scenario = world.fates.scenario
        self._flowed_at = world.host.monotonic()
        clock = Clock(self._waiting)
        config = AgentConfig(
            fleet=world.fleet,
            device=owner.name,
            board=world.fates.board(owner.index),
            trust_root="",
            mqtt=world.mqtt,
            labels=world.fates.labels(owner.index),
            groups=scenario.groups,
            telemetry_s=scenario.traffic.telemetry_s,
            idle_s=scenario.traffic.idle_s,
        )
        board = _board(config.board)
        boot = new_boot()
        updater, reporter = Alarm(), Alarm()
        own = Own(fixed="a simulated device has no program of its own")
        tail = Tail(clock.time)
        tail.note("info", "ready", "agent.simulate", {"boot": boot})
        means = Means(
            own=own,
            tail=tail,
            clock=clock,
            facts=Facts(
                device=owner.name,
                boot=boot,
                agent_version=f"{__version__}+simulated",
                board=config.board,
                runtime="simulated",
                labels=config.labels,
                groups=config.groups,
                platform=world.platform | own.facts(),
            ),
            root=ROOT,
            fs=owner.disk,
            spool=owner.spool,
            models=Models(
                _OPTIONS,
                board.model_ram_bytes,
                open_bundle=owner.disk.bundle,
                load=self._load,
                adapt=lambda base, bundle: self._load(bundle, _OPTIONS),
            ),
            selftest=self._selftest,
            link=lambda on_message, on_change, on_refusal: world.make_link(
                world.mqtt,
                fleet=world.fleet,
                device=owner.name,
                groups=config.groups,
                folder=world.folder,
                boot=boot,
                next_session=owner.next_session,
                clock=clock,
                on_message=on_message,
                on_change=on_change,
                on_refusal=on_refusal,
            ),
            worker=functools.partial(_LoopWorker, self._waiting, config.serving.queue),
            reach=self._reach,
            trust=lambda fetch: _Trusted(self, fetch),
            room=lambda: (MEMORY_BYTES, owner.disk.free),
            gauges=self._gauges,
            every_s=config.telemetry_s,
            idle_s=config.idle_s,
            first_s=config.telemetry_s * owner.chance.random(),
            chance=owner.chance,
            rss=self._rss,
            measure=self._measure,
            health=lambda counts, worker: _Health(self, Trials(counts, worker)),
            updater=updater,
            reporter=reporter,
            arrived=Arrivals(self._waiting),
            stopping=world.stopping,
        )
        super().__init__(config, board, means)
        self._updates = Turns(self._waiting, self.engine.step)
        self._reports = Turns(self._waiting, self._report)
        if scenario.updates.trial_factor != 1.0:
            offer = self.engine.offer
            self.engine.offer = lambda desired: offer(self._hurried(desired))  # type: ignore[method-assign]
        updater.ring, reporter.ring = self._updates.wake, self._reports.wake

    # Life. ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Recovers, connects, and gets on."""
        self._waiting.start(self._begin)

    def _begin(self) -> None:
        self.engine.recover()
        self._updates.wake()
        self._reports.wake()
        self.on_desired(self.engine.journal.desired)
        self.link.start()

    def shut_down(self) -> None:
        """Samples once more, and says goodbye."""
        self._updates.stop()
        self._reports.stop()
        self.flow()
        self.reporter.end()
        self.link.stop()

    def end(self) -> None:
        """Ends where it is."""
        self._updates.stop()
        self._reports.stop()
        abandon = getattr(self.link, "abandon", None)
        if abandon is not None:
            abandon()
        self._waiting.kill()

    def _report(self) -> float:
        if self.clock.monotonic() >= self.reporter.due:
            self.flow()
        pause = self.reporter.turn()
        return min(pause, max(self.reporter.delivery.due(self.clock.monotonic()), 0.05))

    def pause(self, seconds: float) -> None:
        """Takes so long."""
        self._waiting.pause(seconds)

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return self.clock.monotonic()

    # What is made up. -------------------------------------------------------------------

    def flow(self) -> None:
        """Counts the local requests that have come since this was called last."""
        now = self.clock.monotonic()
        window, self._flowed_at = now - self._flowed_at, now
        mean = self._scenario.traffic.requests_per_s * window
        if mean <= 0 or self.flowing:
            return
        self.flowing = True
        try:
            for slot in self.models.slots:
                if "/" not in slot:
                    self._ask_locally(slot, requests_in(mean, self.chance))
        finally:
            self.flowing = False

    def _ask_locally(self, slot: str, requests: int) -> None:
        try:
            with self.models.use(slot) as model:
                if model.manifest.task != "classify":
                    return
        except ShoalError:
            return
        groups = min(requests, MAX_GROUPS)
        for number in range(groups):
            times = requests // groups + (number < requests % groups)
            self.shown = None
            try:
                answer = self.answering.label(slot, "", 1, times=times)
            except ShoalError as error:
                self.failed(slot, error, times)
                continue
            self.answering.shadow(slot, "", answer, times=times)

    def fail_requests(self, slot: str) -> None:
        """So many requests fail on the bundle that serves as a trial needs to see."""
        update = self.engine.journal.update
        times = max(1, update.trial.min_requests if update is not None else 1)
        error = UnavailableError("model-failed", "simulated: no answer in the trial")
        for _ in range(2):
            self.failed(slot, error, times)

    def _hurried(self, desired: Desired) -> Desired:
        """With shorter trials, as the scenario says."""
        change, factor = msgspec.structs.replace, self._scenario.updates.trial_factor
        slots = {
            name: change(wish, trial=change(wish.trial, seconds=wish.trial.seconds * factor))
            for name, wish in desired.slots.items()
        }
        return change(desired, slots=slots)

    def _load(self, bundle: Bundle, options: models.Options) -> ScriptedModel:
        """As a runtime loads a bundle, but for what its model answers."""
        del options
        self.flow()  # what came until now met what serves until now
        self._step()
        bundle.read(bundle.manifest.model.file)
        behaviour = self.owner.world.fates.behaviour(bundle.ref.name, bundle.ref.version)
        fails = self.owner.outcome(bundle.ref) == "fails-selftest"
        return ScriptedModel(
            bundle,
            behaviour,
            self,
            holds=0.0 if fails else behaviour.golden_accuracy,
            tokens_per_s=self._scenario.traffic.tokens_per_s,
        )

    def _selftest(self, folder: Path) -> Selftested:
        bundle = self.owner.disk.bundle(folder)
        return models.selftest(bundle, _OPTIONS, self._load)

    def _step(self) -> None:
        """A step of an update takes its time."""
        update = self.engine.journal.update
        if update is not None and not update.final and not self.flowing:
            pause = self._scenario.updates.step_s * self.slowness
            self.pause(pause * self.chance.uniform(0.5, 1.5))

    def _reach(self, heard: Callable[[float, float], None]) -> list[Fetcher]:
        repository = self.owner.world.repository
        if repository.url is None:
            return []
        once = self._scenario.updates.download != "full"
        return [Reach(repository, self._waiting, heard, once=once)]

    def _measure(self) -> Measured:
        update = self.engine.journal.update
        if update is not None and self.owner.outcome(update.bundle) == "does-not-fit":
            return Measured(list(self.board.runtimes), 0)
        return Measured(list(self.board.runtimes), MEMORY_BYTES)

    def _rss(self) -> int:
        found = RSS_BYTES
        for slot in self.models.slots:
            ref = self.models.ref(slot)
            if ref is not None:
                behaviour = self.owner.world.fates.behaviour(ref.name, ref.version)
                found = max(found, behaviour.rss_bytes)
        return found

    def _gauges(self) -> dict[str, float]:
        return {
            "rss_bytes": float(round(self._rss() * self.chance.uniform(0.97, 1.0))),
            "cpu_ratio": round(self.chance.uniform(0.02, 0.2), 3),
            "threads": 8.0,
            "memory_available_bytes": float(MEMORY_BYTES),
            "disk_free_bytes": float(self.owner.disk.free),
            "temperature_c": round(self.chance.gauss(52, 0.8), 1),
        }

    # What is counted. -------------------------------------------------------------------

    def update_ended(self, event: UpdateEvent) -> None:
        """For the progress of the simulation, and for what is known to hold."""
        if event.boot != self.boot:
            return
        counters, count = self.owner.world.counters, event.state.replace("-", "_")
        setattr(counters, count, getattr(counters, count) + 1)
        if event.state == "committed":
            self.owner.known_good.add(event.bundle)

    def _send_answer(self, topic: str, payload: bytes, correlation: bytes | None) -> None:
        super()._send_answer(topic, payload, correlation)
        if codec.decode(payload, Answer, what="an answer").done:
            self.owner.world.counters.answers += 1


class _Trusted:
    """Signed manifests for one device (:class:`agent.update.obtain.Trusted`)."""

    def __init__(self, run: Run, fetch: Callable[[str, int], bytes]) -> None:
        self._run = run
        self._fetch = fetch

    def newest(self, ref: BundleRef) -> bytes:
        """As of the agent's; a step of an update takes its time."""
        run = self._run
        run._step()
        return run.owner.world.trust.newest(run._waiting, self._fetch, ref)

    def signed(self, name: str) -> Signed:
        """No simulated device has a program of its own."""
        raise RefusedError("program-fixed", f"a simulated device does not install {name}")


class _Health:
    """What is seen of a trial, up to this moment (:class:`agent.update.health.Health`)."""

    def __init__(self, run: Run, seen: Health) -> None:
        self._run = run
        self._seen = seen

    def begin_trial(self, slot: str) -> None:
        """Starts counting; of a bundle that is to be rolled back, requests fail."""
        self._seen.begin_trial(slot)
        ref = self._run.models.ref(slot)
        if ref is not None and self._run.owner.outcome(ref) == "rolls-back":
            self._run.fail_requests(slot)

    def trial(self, slot: str) -> Observed:
        """What was seen since."""
        self._run.flow()
        return self._seen.trial(slot)


class _LoopWorker(Worker):
    """Runs requests in turn, on the loop."""

    def __init__(
        self,
        waiting: Waiting,
        capacity: int,
        on_failure: Callable[[str, ShoalError], None] | None = None,
    ) -> None:
        super().__init__(capacity, on_failure)
        self._turns = Turns(waiting, self._all)

    def submit(self, job: Job, *, wait: threading.Event | None = None) -> None:
        """As of the agent's."""
        super().submit(job, wait=wait)
        self._turns.wake()

    def _all(self) -> None:
        while self.turn():
            pass


@functools.cache
def _board(name: str) -> Any:
    return boards.load(name)
