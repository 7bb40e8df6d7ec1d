"""One device's parts put together, whoever drives them: an agent's threads, or an event loop.

What a device decides and says is here, once. Where it keeps things, what runs its models, how it
reaches the repository and who gives its parts their turns is passed in (:class:`Means`).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, get_args

import msgspec

from agent.connection import Inbound
from agent.generate.handler import Generating
from agent.link import Link
from agent.reporting import Facts, Reporting
from agent.routing import Routing
from agent.serving.answers import Answers
from agent.serving.dispatch import Dispatcher
from agent.serving.examples import Examples
from agent.serving.feedback import Feedback
from agent.serving.handlers import Answering
from agent.serving.inflight import RunningMark
from agent.serving.lessons import Lessons
from agent.serving.limiter import RateLimiter
from agent.serving.logs import Logs
from agent.serving.models import Models
from agent.serving.registry import Registry
from agent.serving.teaching import Teaching
from agent.serving.worker import Worker
from agent.sharing.giving import Giving
from agent.system.clock import Clock
from agent.system.controller_clock import ControllerClock
from agent.system.filesystem import FileSystem
from agent.system.tail import Tail
from agent.telemetry.held import Spooling
from agent.telemetry.recorder import Recorder, resident_bytes
from agent.telemetry.reporter import Reporter
from agent.update import fit
from agent.update.blocks import Blocks
from agent.update.engine import Engine
from agent.update.fetch import TIMED, Fallback, Fetcher, read_all
from agent.update.health import Health, Trials
from agent.update.hold import Holding
from agent.update.obtain import Trusted
from agent.update.program import Own
from contracts import codec, drops, limits
from contracts.answers import Generated, Selftested
from contracts.board import Board
from contracts.config import AgentConfig
from contracts.desired import Desired
from contracts.errors import ShoalError, UnavailableError
from contracts.messages import Acceleration, Ack, Acknowledged, BundleRef, UpdateEvent
from contracts.requests import BlobGet
from contracts.topics import Topics

TRUST: Final = "trust"
"""Folder of the trusted metadata, below the state folder."""

Fetch = Callable[[str, int], bytes]
"""Reads a whole file of the repository: ``fetch(path, cap)``."""

MakeLink = Callable[[Callable[[Inbound], None], Callable[[bool], None], Callable[[], None]], Link]
"""Makes the connection, given ``on_message``, ``on_change`` and ``on_refusal``."""


class Means(msgspec.Struct, kw_only=True):
    """What one run of a device works with.

    Attributes:
        clock: the time.
        facts: of the device, for its reported document.
        root: the state folder, on `fs`.
        fs: the disk.
        spool: what waits to be sent.
        models: what serves.
        selftest: replays the golden vectors of a bundle folder.
        link: makes the connection.
        worker: makes what runs requests, given who is told of those that fail.
        reach: the ways to the repository, best first, given who takes the controller's time;
            the blocks over MQTT come last.
        trust: makes what checks signatures, given how it reads files.
        room: free bytes of memory and disk.
        gauges: facts of the process and the board.
        chance: spreads the devices of a fleet over pauses.
        rss: resident bytes of the agent.
        mark: the request that runs; None: no mark is kept.
        examples: keeps texts with hard answers; None: none is kept.
        measure: what the device has for a bundle.
        health: makes the observations of a trial from the counts.
        every_s: seconds between samples; `first_s` before the first one, None: the same; `idle_s`
            while nothing happens.
        updater, reporter: set when there is something to do for them.
        arrived: told when a block has come.
        stopping: set when the device stops.
        own: what it has to replace its own program.
        tail: the newest lines of its log; None: it keeps none.
        accelerated: what came of an accelerator with a bundle.
    """

    clock: Clock
    facts: Facts
    root: Path
    fs: FileSystem
    spool: Spooling
    models: Models
    selftest: Callable[[Path], Selftested]
    link: MakeLink
    worker: Callable[[Callable[[str, ShoalError], None]], Worker]
    reach: Callable[[Callable[[float, float], None]], Sequence[Fetcher]]
    trust: Callable[[Fetch], Trusted]
    room: Callable[[], tuple[int, int]]
    gauges: Callable[[], dict[str, float]]
    every_s: float
    idle_s: float = 0.0
    first_s: float | None = None
    chance: random.Random | None = None
    rss: Callable[[], int] = resident_bytes
    mark: RunningMark | None = None
    examples: Examples | None = None
    measure: Callable[[], fit.Device] = fit.Device.measure
    health: Callable[[Health, Worker], Health] = Trials
    updater: threading.Event = msgspec.field(default_factory=threading.Event)
    reporter: threading.Event = msgspec.field(default_factory=threading.Event)
    arrived: threading.Condition = msgspec.field(default_factory=threading.Condition)
    stopping: threading.Event = msgspec.field(default_factory=threading.Event)
    own: Own = msgspec.field(default_factory=Own)
    tail: Tail | None = None
    accelerated: Callable[[BundleRef | None], Acceleration | None] = lambda _: None


class Device:
    """One run of a device, from its start to its end.

    Args:
        config: who it is; what else stands there is for whoever makes `means`.
        board: its profile.
        means: what it works with.
    """

    def __init__(self, config: AgentConfig, board: Board, means: Means) -> None:
        self.config = config
        self.board = board
        self.clock = means.clock
        self.boot = means.facts.boot
        self.stopping = means.stopping
        self.topics = Topics(config.fleet)
        self.spool = means.spool
        self.models = means.models
        self.accelerated = means.accelerated
        self._told_in_memory = False
        self._wished: tuple[int, int] | None = None
        self._measured = means.gauges
        self.recorder = Recorder(means.rss, serving=self.models.ref)
        self.worker = means.worker(self.failed)
        self.routing = Routing(self)
        self.lessons = Lessons(means.fs, means.root, self.models.ref)
        self.reporting = Reporting(self, means.facts, self.topics, means.room)
        self.registry = Registry()
        self.examples = means.examples
        self.answers = Answers(self.recorder, self.clock.monotonic, self.examples)
        self.answering = Answering(
            self.models,
            self.recorder,
            self.worker,
            self.reporting.document,
            self.answers,
            self.examples,
            self.lessons,
        )
        self.answering.register(self.registry)
        Teaching(self.models, self.lessons, self.clock.time, self.reporting.changed).register(
            self.registry
        )
        Generating(
            self.models, self._generated, self.clock.monotonic, self.answers.generated
        ).register(self.registry)
        Feedback(self.answers, self.recorder, self.clock.monotonic).register(self.registry)
        Giving(means.root, config, self.examples, self.clock.time, self.clock.monotonic).register(
            self.registry
        )
        tail = means.tail if config.share_logs else None
        Logs(tail, self.boot, self.clock.monotonic, shared=config.share_logs).register(
            self.registry
        )
        self.link = means.link(self.routing.message, self._link_changed, self.reporting.changed)
        self.dispatcher = Dispatcher(
            self.registry,
            self.worker,
            RateLimiter(config.serving.rate_per_s),
            topics=self.topics,
            device=config.device,
            send=self._send_answer,
            monotonic=self.clock.monotonic,
            mark=means.mark,
            refused=self.recorder.failed,
        )
        self.controller_clock = ControllerClock(self.clock, self._clock_changed)
        self.blocks = Blocks(
            self._ask_block,
            self.clock.monotonic,
            self.stopping,
            self.controller_clock.heard,
            means.arrived,
        )
        self.fetcher = Fallback([*means.reach(self.controller_clock.heard), self.blocks])
        self.engine = Engine(
            fs=means.fs,
            root=means.root,
            board=board,
            trust=means.trust(lambda path, cap: read_all(self.fetcher, path, cap)),
            fetcher=self.fetcher,
            models=self.models,
            selftest=means.selftest,
            health=means.health(self.recorder, self.worker),
            clock=self.clock,
            stop=self.stopping,
            boot=self.boot,
            emit=self.reporting.emit,
            changed=self.reporting.changed,
            device=means.measure,
            clock_fault=self.controller_clock.fault,
            holding=Holding(self.controller_clock.now, self._ask_time),
            wake=means.updater,
            own=msgspec.structs.replace(means.own, connected=self.link.connected.is_set),
        )
        self.reporter = Reporter(
            self.spool,
            self.recorder,
            self.gauges_now,
            lambda topic, payload, done: self.link.publish(topic, payload, done=done),
            topics={
                kind: self.topics.of_device(config.device, kind) for kind in get_args(Acknowledged)
            },
            boot=self.boot,
            every_s=means.every_s,
            first_s=means.first_s,
            clock=self.clock,
            stop=self.stopping,
            beat=self.beat,
            wake=means.reporter,
            chance=means.chance,
            idle_s=means.idle_s,
        )

    # What its parts tell it. ------------------------------------------------------------

    def on_block(self, name: str, payload: bytes, at: float | None) -> None:
        """Takes a block of the repository, with the controller's time if it was told."""
        self.blocks.on_block(name, payload, at)

    def on_desired(self, desired: Desired | None) -> None:
        """Answers requests of the groups that the controller names, or else of the configured."""
        named = desired.groups if desired is not None else None
        self.link.hear_groups(self.config.groups if named is None else named)
        wished = (desired.fence, desired.revision) if desired is not None else None
        if wished != self._wished:  # the broker says what it retains at each connection
            self._wished = wished
            self.stir()

    def on_ack(self, ack: Ack) -> None:
        """Takes the controller's word on what it has."""
        self.reporter.heard(ack)

    def failed(self, slot: str, error: ShoalError, times: int = 1) -> None:
        """A request failed, or `times` of them in the same way."""
        self.recorder.failed(slot, error.code, times=times)

    def wake_reporter(self) -> None:
        """There is something in the spool."""
        self.reporter.wake()

    def stir(self) -> None:
        """Something begins: what is measured from now on is of interest."""
        self.reporter.stir()

    def told(self) -> None:
        """What the device has or does has changed."""

    def update_ended(self, event: UpdateEvent) -> None:
        """An update has ended, well or not."""

    def _generated(self, slot: str, result: Generated, latency_us: float) -> None:
        self.recorder.answered(slot, result.bundle, latency_us, tokens=result.tokens)

    def _link_changed(self, connected: bool) -> None:
        self.reporter.link_changed(connected)
        if connected:
            self.reporting.changed()
            self.engine.wake()

    def _clock_changed(self) -> None:
        """The clock was set, or is known to be wrong: what waited for it is tried at once."""
        self.reporting.changed()
        self.engine.wake()

    def beat(self) -> None:
        """Called in every turn of the reporter."""
        if self.examples is not None:
            self.examples.flush()
        self.controller_clock.look()
        if self.spool.in_memory != self._told_in_memory:
            self._told_in_memory = self.spool.in_memory
            self.reporting.changed()

    # What it sends. ---------------------------------------------------------------------

    def _ask_block(self, request: BlobGet) -> None:
        if not self.link.connected.is_set():
            raise UnavailableError("offline", "no connection to the broker")
        topic = self.topics.blob_get(self.config.device)
        self.link.publish(topic, codec.encode(request))

    def _ask_time(self) -> None:
        """Has the controller's time told with a file; over MQTT, where a server does not say it."""
        for way in (self.fetcher, self.blocks):
            if self.controller_clock.offset_s is None:
                read_all(way, TIMED, limits.MAX_METADATA_BYTES)

    def _send_answer(self, topic: str, payload: bytes, correlation: bytes | None) -> None:
        try:
            self.link.publish(topic, payload, correlation=correlation)
        except ShoalError:
            self.spool.count_dropped(drops.QUEUE)
            raise

    def gauges_now(self) -> dict[str, float]:
        """Every gauge: of the process and the board, and of the parts."""
        gauges = self._measured()
        gauges["queue"] = float(self.worker.depth)
        gauges["spool_messages"] = float(self.spool.depth)
        gauges["spool_bytes"] = float(self.spool.payload_bytes)
        gauges["spool_in_memory"] = float(self.spool.in_memory)
        gauges["connections"] = float(self.link.connections)
        gauges["refused_by_broker"] = float(self.link.refusals.count)
        return gauges
