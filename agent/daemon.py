"""The agent's parts put together: what ``shoal-agent run`` runs."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

import msgspec

import contracts
from agent.certificates.child import CertificateApart
from agent.certificates.renewal import Renewer
from agent.connection import Inbound
from agent.generate.handler import Generating
from agent.generate.memory import give_back
from agent.link import Link
from agent.runtime import check
from agent.runtime import model as models
from agent.runtime.engine import available, installed_version
from agent.serving.dispatch import Dispatcher
from agent.serving.handlers import Answering
from agent.serving.inflight import RunningMark
from agent.serving.limiter import RateLimiter
from agent.serving.models import Models
from agent.serving.registry import Registry
from agent.serving.worker import STALL_S, Worker
from agent.sources.feed import Feed
from agent.sources.readers import reader
from agent.system import statusfile, systemd
from agent.system.clock import Clock, SystemClock, is_set
from agent.system.controller_clock import ControllerClock
from agent.system.filesystem import Disk
from agent.system.log import logger
from agent.system.state import StateFolder
from agent.telemetry import homeassistant
from agent.telemetry.gauges import Gauges, room
from agent.telemetry.news import News
from agent.telemetry.recorder import DEVICE, Recorder
from agent.telemetry.reporter import Reporter
from agent.telemetry.spool import Spool
from agent.trust.child import TrustApart
from agent.update.blocks import Blocks
from agent.update.engine import Engine
from agent.update.fetch import Fallback, Fetcher, read_all
from agent.update.health import Trials
from agent.update.http import Http
from contracts import board as boards
from contracts import codec, drops, limits, progress
from contracts.config import AgentConfig, SourceConfig
from contracts.connection import device_client_id, tls_context
from contracts.errors import ErrorInfo, InputError, ShoalError, UnavailableError
from contracts.messages import (
    FINAL_UPDATE_STATES,
    Ack,
    Acknowledged,
    BlobGet,
    Desired,
    Generated,
    Leave,
    Reported,
    Result,
    Selftested,
    UpdateEvent,
    Wait,
)
from contracts.topics import LEAVE, Topics, home_assistant_discovery, parse

if TYPE_CHECKING:
    import ssl

    from agent.telemetry.prometheus import MetricsServer

log = logger(__name__)

DRAIN_S: Final = 10.0
"""Seconds that waiting requests get when the agent stops."""

STATUS_S: Final = 1.0
"""Seconds that a change waits for others before the status file is written."""


class Agent:
    """One agent.

    Args:
        config: ``agent.yaml``.
        folder: what its relative paths are relative to.
        clock: the time.

    Raises:
        InputError: the configuration cannot be used.
        UnavailableError: ``already-running``.
        RefusedError: the root of trust is none.
    """

    def __init__(self, config: AgentConfig, folder: Path, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.started = self.clock.time()
        self.stopping = threading.Event()
        self.board = boards.load(config.board)
        self.topics = Topics(config.fleet)
        self.state = StateFolder(folder / config.state_dir, self.clock)
        root = self.state.path
        self.certificate = CertificateApart(config, folder, root)
        # Of the first key: a renewal, which brings another, must not end the session.
        client_id = device_client_id(config.fleet, config.device, config.mqtt.tls, folder)
        self.config = config = msgspec.structs.replace(
            config, mqtt=msgspec.structs.replace(config.mqtt, tls=self.certificate.tls)
        )
        self.gauges = Gauges()
        self.spool = Spool(
            root / "spool.db",
            config.spool_bytes,
            config.spool_age_s,
            self.clock.time,
            self.clock.monotonic,
        )
        serving = config.serving
        self.options = models.Options(threads=serving.threads or self.board.threads)
        self.models = Models(self.options, serving.memory_bytes or self.board.model_ram_bytes)
        self.recorder = Recorder(serving=self.models.ref)
        self.worker = Worker(
            serving.queue, lambda slot, error: self.recorder.failed(slot, error.code)
        )
        self.registry = Registry()
        self.answering = Answering(self.models, self.recorder, self.worker, self.reported)
        self.answering.register(self.registry)
        Generating(self.models, self._generated).register(self.registry)
        self.link = Link(
            config.mqtt,
            fleet=config.fleet,
            device=config.device,
            groups=config.groups,
            folder=folder,
            boot=self.state.boot,
            next_session=self.state.next_session,
            clock=self.clock,
            on_message=self._message,
            on_change=self._link_changed,
            client_id=client_id,
            on_refusal=self._changed,
        )
        self.dispatcher = Dispatcher(
            self.registry,
            self.worker,
            RateLimiter(serving.rate_per_s),
            topics=self.topics,
            device=config.device,
            send=self._send_answer,
            monotonic=self.clock.monotonic,
            mark=RunningMark(root / "running"),
            refused=self.recorder.failed,
        )
        self.controller_clock = ControllerClock(self.clock, self._clock_changed)
        self.blocks = Blocks(
            self._ask_block, self.clock.monotonic, self.stopping, self.controller_clock.heard
        )
        fetcher = Fallback(self._ways(folder))
        self.engine = Engine(
            fs=Disk(),
            root=root,
            board=self.board,
            trust=TrustApart(
                root / "trust",
                config.trust_root.encode(),
                lambda path, cap: read_all(fetcher, path, cap),
                clock=self.clock.time,
            ),
            fetcher=fetcher,
            models=self.models,
            selftest=self._selftest,
            health=Trials(self.recorder, self.worker),
            clock=self.clock,
            stop=self.stopping,
            boot=self.state.boot,
            emit=self._emit,
            changed=self._changed,
            clock_fault=self.controller_clock.fault,
        )
        self.reporter = Reporter(
            self.spool,
            self.recorder,
            self._all_gauges,
            lambda topic, payload, done: self.link.publish(topic, payload, done=done),
            topics={
                kind: self.topics.of_device(config.device, kind) for kind in get_args(Acknowledged)
            },
            boot=self.state.boot,
            every_s=config.telemetry_s,
            clock=self.clock,
            stop=self.stopping,
            beat=self._beat,
        )
        self._sources = [
            (source.name, reader(self._feed(source), folder, config.mqtt, config.device))
            for source in config.sources
        ]
        self._threads: list[threading.Thread] = []
        self._metrics: MetricsServer | None = None
        self._status_due = 0.0
        self._status_refused = False
        self._told_in_memory = False
        self._told: Reported | None = None
        self._result_seq = 0  # of the worker's thread alone
        self._news = News()
        self._watchdog_s = systemd.watchdog_s()
        self._fed = 0.0
        self._ready = False
        self._runtime = next((r for r in self.board.runtimes if r in available()), "none")
        self._platform = _platform()

    def _feed(self, source: SourceConfig) -> Feed:
        return Feed(
            source,
            self.answering,
            self.worker,
            self._send_result,
            self.clock,
            self.stopping,
            # Of the device: no bundle in its trial is to blame.
            lambda code: self.recorder.failed(DEVICE, code),
            lambda: self.spool.count_dropped(drops.LINE),
        )

    def _ways(self, folder: Path) -> list[Fetcher]:
        """How to reach the repository, best first."""
        ways: list[Fetcher] = []
        url = self.config.repository_url
        if url is not None:
            heard = self.controller_clock.heard
            context = functools.partial(self._tls_context, folder)
            ways.append(Http(url, context, self.clock.monotonic, heard))
        ways.append(self.blocks)
        return ways

    def _tls_context(self, folder: Path) -> ssl.SSLContext | None:
        """With the certificate of now: it may have been renewed."""
        tls = self.certificate.tls
        return tls_context(tls, folder) if tls else None

    # Life. ------------------------------------------------------------------------------

    def start(self) -> None:
        """Recovers, loads the models, connects, and serves.

        Raises:
            OSError: the state folder cannot be read.
        """
        if self.config.prometheus_port:
            from agent.telemetry.prometheus import MetricsServer

            self._metrics = MetricsServer(self.config.prometheus_port, self._render_metrics)
        self.controller_clock.look()
        self.engine.recover()
        self.worker.start()
        self.link.start()
        renewer = Renewer(self.certificate, self.link.renewed, self.clock, self.stopping)
        for name, target in (
            ("updater", self.engine.run),
            ("reporter", self.reporter.run),
            ("renewer", renewer.run),
        ):
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        for name, read in self._sources:
            threading.Thread(
                target=self._read, args=(name, read), name=f"source-{name}", daemon=True
            ).start()
        give_back()
        systemd.notify("READY=1")
        self._ready = True
        log.info("ready", device=self.config.device, boot=self.state.boot)

    def stop(self) -> None:
        """Drains, says goodbye, and stops every thread."""
        systemd.notify("STOPPING=1")
        log.info("stopping", queue=self.worker.depth)
        self.worker.drain(DRAIN_S)
        self.stopping.set()
        self.engine.wake()
        self.reporter.wake()
        for thread in self._threads:
            thread.join(10)
        self.link.stop()
        if self._metrics is not None:
            self._metrics.close()
        self.models.close()
        self.spool.close()
        self._write_status()
        self.state.close()

    # Messages. --------------------------------------------------------------------------

    def _message(self, inbound: Inbound) -> None:
        """Takes a message on the network thread."""
        try:
            address = parse(inbound.topic)
            match address.kind:
                case "request" if address.name == LEAVE:
                    self.link.leave(codec.decode(inbound.payload, Leave, what="a farewell"))
                case "request":
                    self.dispatcher.handle(address.name, inbound)
                    return
                case "group-request":
                    self.dispatcher.handle(address.name, inbound, group=True)
                    return
                case "blob":
                    self.blocks.on_block(address.name, inbound.payload, inbound.at)
                case "desired":
                    self._desired(inbound.payload)
                case "ack":
                    self.reporter.heard(codec.decode(inbound.payload, Ack, what="an ack"))
        except ShoalError as error:
            log.warning("message refused", topic=inbound.topic[:200], reason=str(error))
        inbound.ack()

    def _desired(self, payload: bytes) -> None:
        if not payload:  # the broker keeps none any more
            return
        try:
            self.engine.offer(codec.decode(payload, Desired, what="a desired document"))
        except InputError as error:
            reason = msgspec.structs.replace(error.info, code="bad-desired")
            self.engine.refuse(reason)

    def _ask_block(self, request: BlobGet) -> None:
        if not self.link.connected.is_set():
            raise UnavailableError("offline", "no connection to the broker")
        topic = self.topics.blob_get(self.config.device)
        self.link.publish(topic, codec.encode(request))

    def _link_changed(self, connected: bool) -> None:
        self.reporter.link_changed(connected)
        if connected:
            self._changed()
            self.engine.wake()

    def _read(self, name: str, read: Callable[[], None]) -> None:
        """A source's thread."""
        read()
        log.info("source ended", source=name)

    def _send_answer(self, topic: str, payload: bytes) -> None:
        try:
            self.link.publish(topic, payload)
        except ShoalError:
            self.spool.count_dropped(drops.QUEUE)
            raise

    def _send_result(self, result: Result) -> None:
        topic = self.topics.of_device(self.config.device, "result")
        boot, seq = self.state.boot, self._result_seq
        numbered = msgspec.structs.replace(result, boot=boot, seq=seq)
        self._result_seq += self.spool.put(topic, codec.encode(numbered), boot=boot, seq=seq)
        self.reporter.wake()

    def _discover(self) -> None:
        """Tells Home Assistant what this device has; again whenever its slots change."""
        slots = [slot for slot in self.models.slots if "/" not in slot]
        document = homeassistant.document(self.topics, self.config.device, self.board.title, slots)
        topic = home_assistant_discovery(self.config.fleet, self.config.device)
        self.link.publish(topic, codec.encode(document), retain=True)

    def _render_metrics(self) -> str:
        from agent.telemetry.prometheus import render

        return render(self.recorder.totals, self._all_gauges())

    # What others are told. --------------------------------------------------------------

    def reported(self) -> Reported:
        """The reported document."""
        journal = self.engine.journal
        memory, disk = room(self.state.path)
        return Reported(
            device=self.config.device,
            boot=self.state.boot,
            agent_version=contracts.__version__,
            board=self.config.board,
            runtime=self._runtime,
            at=self.clock.time(),
            labels=self.config.labels,
            groups=self.config.groups,
            slots=self.engine.slots(),
            desired_revision=journal.reached,
            desired_fence=journal.desired.fence if journal.desired else 0,
            last_update=journal.last_event,
            free_bytes=disk,
            memory_bytes=memory,
            clock="synced" if is_set(self.clock) else "unsynced",
            platform=self._platform,
            waits=self._waits(),
            clock_offset_s=self.controller_clock.offset_s,
        )

    def _waits(self) -> list[Wait]:
        """What keeps the device from getting on, or what it does without."""
        waits = self.engine.waits()
        clock = self.controller_clock.wait()
        if clock is not None and all(wait.reason.code != clock.reason.code for wait in waits):
            waits.append(clock)
        waits += self.link.refusals.waits()
        lasts = self.spool.in_memory_s
        if lasts is not None:
            words = (
                f"the spool's disk takes nothing: {self.spool.depth} messages wait in memory, "
                "lost if the power fails: make room on the device"
            )
            reason = ErrorInfo("telemetry-in-memory", words)
            waits.append(Wait(reason, self.clock.time() - lasts, blocks=False))
        return waits[: limits.MAX_WAITS]

    def _clock_changed(self) -> None:
        """The clock was set, or is known to be wrong: what waited for it is tried at once."""
        self._changed()
        self.engine.wake()

    def _changed(self) -> None:
        """Publishes the reported document; when offline, the next connection does."""
        if not self.link.connected.is_set():
            return
        topic = self.topics.of_device(self.config.device, "reported")
        try:
            self._told = self.reported()
            self.link.publish(topic, codec.encode(self._told), retain=True)
            if self.config.home_assistant:
                with contextlib.suppress(UnavailableError):  # told by what refused it
                    self._discover()
        except (ShoalError, OSError) as error:
            log.warning("reported not sent", reason=str(error))
        self._status_due = min(self._status_due, self.clock.monotonic() + STATUS_S)

    def _emit(self, event: UpdateEvent) -> None:
        """Spools an event: what is new in precious messages, and the rest as telemetry.

        Progress and the same failure again are not kept while there is no connection: the
        reported document of the next one has the last event. The one that a start tells again
        may be in the spool already.
        """
        new = self._news.is_new(event)
        again = event.boot != self.state.boot
        if new or self.link.connected.is_set():
            topic = self.topics.of_device(self.config.device, "update")
            self.spool.put(
                topic,
                codec.encode(event),
                boot=event.boot,
                seq=event.seq,
                precious=new and not again,
            )
            self.reporter.wake()
        if event.state in FINAL_UPDATE_STATES:
            give_back()

    def _generated(self, slot: str, result: Generated, latency_us: float) -> None:
        self.recorder.answered(slot, result.bundle, latency_us, tokens=result.tokens)

    def _all_gauges(self) -> dict[str, float]:
        gauges = self.gauges.read(self.state.path)
        gauges["queue"] = float(self.worker.depth)
        gauges["spool_messages"] = float(self.spool.depth)
        gauges["spool_bytes"] = float(self.spool.payload_bytes)
        gauges["spool_in_memory"] = float(self.spool.in_memory)
        gauges["connections"] = float(self.link.connections)
        gauges["refused_by_broker"] = float(self.link.refusals.count)
        return gauges

    def _selftest(self, folder: Path) -> Selftested:
        return check.run(
            folder,
            threads=self.options.threads,
            memory_bytes=self.board.model_ram_bytes,
            digest=folder.name,  # the store names a release by it
        )

    # Signs of life. ---------------------------------------------------------------------

    def healthy(self) -> bool:
        """Whether every thread that must run does, and the request that runs gets on."""
        return (
            self.worker.alive
            and self.link.alive
            and self.worker.silent_s() <= STALL_S
            and all(thread.is_alive() for thread in self._threads)
        )

    def _beat(self) -> None:
        now = self.clock.monotonic()
        self.controller_clock.look()
        if self.spool.in_memory != self._told_in_memory:
            self._told_in_memory = self.spool.in_memory
            self._changed()
        if self._ready and self._watchdog_s is not None and now - self._fed >= self._watchdog_s / 3:
            self._fed = now
            if self.healthy():
                systemd.notify("WATCHDOG=1")
            else:
                silent = round(self.worker.silent_s(), 1)
                log.error(
                    "not healthy: the watchdog is not fed",
                    worker_silent_s=silent,
                    network=self.link.alive,
                )
        if now >= self._status_due:
            self._status_due = now + 5
            self._write_status()

    def _write_status(self) -> None:
        mqtt = self.config.mqtt
        try:
            status = statusfile.LocalStatus(
                pid=os.getpid(),
                at=self.clock.time(),
                started=self.started,
                connected=self.link.connected.is_set(),
                broker=f"{mqtt.host}:{mqtt.port}",
                waits_for=self._waits_for(),
                queue=self.worker.depth,
                spool=self.spool.depth,
                connections=self.link.connections,
                reported=self._lately() or self.reported(),
                takeovers=self.link.takeovers,
            )
            statusfile.write(self.state.path / "status.json", status)
            self._status_refused = False
        except OSError as error:
            if not self._status_refused:  # it is tried every few seconds
                log.warning("status not written", reason=str(error))
            self._status_refused = True

    def _lately(self) -> Reported | None:
        """The document that was sent a moment ago; there is none later."""
        told, self._told = self._told, None
        return told if told and self.clock.time() - told.at < 2 * STATUS_S else None

    def _waits_for(self) -> str:
        if self.stopping.is_set():
            return "nothing: it has stopped"
        if self.link.farewell and self.link.connected.is_set():
            return self.link.farewell
        if not self.link.connected.is_set():
            return self.link.last_error or "the first connection to the broker"
        update, event = self.engine.journal.update, self.engine.journal.last_event
        found = self._waits()
        waits = "; ".join(wait.reason.message for wait in found)
        if update is not None and not update.final:
            how = "; ".join(wait.reason.message for wait in found if wait.blocks) or (
                progress.download(event) if event else ""
            )
            return f"update to {update.bundle}: {update.state}" + (f" ({how})" if how else "")
        if waits:
            return waits
        if not self.models.slots:
            return "a first bundle from the controller"
        return "requests"


def _platform() -> dict[str, str]:
    found = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
    for name in available():
        found[{"litert": "ai-edge-litert"}.get(name, name)] = installed_version(name)
    return found
