"""The agent's parts put together: what ``shoal-agent run`` runs."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

import contracts
from agent.certificates.child import CertificateApart
from agent.certificates.renewal import Renewer
from agent.device import TRUST, Device, Means
from agent.link import Link
from agent.release.environment import Venvs
from agent.release.home import Home, Started
from agent.reporting import Facts
from agent.runtime import check
from agent.runtime import model as models
from agent.runtime.engine import available, platform_facts
from agent.serving.accelerators import Accelerators
from agent.serving.door import Door
from agent.serving.examples import Examples
from agent.serving.inflight import RunningMark
from agent.serving.models import Models
from agent.serving.worker import Worker
from agent.sharing import redaction
from agent.sources.feed import Feed
from agent.sources.readers import reader
from agent.system import systemd
from agent.system.clock import Clock, SystemClock
from agent.system.filesystem import Disk
from agent.system.log import TAIL, logger
from agent.system.state import StateFolder
from agent.telemetry import homeassistant
from agent.telemetry.gauges import Gauges, room
from agent.telemetry.recorder import DEVICE
from agent.telemetry.spool import Spool
from agent.trust.child import TrustApart
from agent.update.fetch import Fetcher
from agent.update.http import Http
from agent.update.program import Own
from agent.vitals import Vitals
from contracts import board as boards
from contracts import codec, drops
from contracts.answers import Selftested
from contracts.config import AgentConfig, SourceConfig
from contracts.connection import device_client_id, tls_context
from contracts.errors import InputError, UnavailableError
from contracts.memory import give_back
from contracts.messages import Result, UpdateEvent
from contracts.topics import Topics, home_assistant_discovery

if TYPE_CHECKING:
    import ssl

    from agent.telemetry.prometheus import MetricsServer

log = logger(__name__)

DRAIN_S: Final = 10.0
"""Seconds that waiting requests get when the agent stops."""


def _own(file: Path | None, stop: threading.Event, restart: Callable[[], None]) -> Own:
    """What this agent has to replace its own program, if a starter started it."""
    started = Started.read()
    if started is None or file is None:
        return Own()
    home = Home(Disk(), Path(started.home), started.release)
    try:
        venvs = Venvs(file, Path(started.base), home.path / "scratch", stop)
    except InputError as error:  # there are no releases for this machine
        return Own(fixed=error.info.message)
    return Own(home=home, environments=venvs, restart=restart)


class Agent(Device):
    """One agent: a device on a disk, with threads.

    Args:
        config: ``agent.yaml``.
        folder: what its relative paths are relative to.
        clock: the time.
        file: the configuration's, for the self-test of a new release of the agent.
        restart: called when another release has to run: the process is to end.

    Raises:
        InputError: the configuration cannot be used.
        UnavailableError: ``already-running``.
        RefusedError: the root of trust is none.
    """

    spool: Spool

    def __init__(
        self,
        config: AgentConfig,
        folder: Path,
        clock: Clock | None = None,
        *,
        file: Path | None = None,
        restart: Callable[[], None] = lambda: None,
    ) -> None:
        clock = clock or SystemClock()
        stopping = threading.Event()
        own = _own(file, stopping, restart)
        board = boards.load(config.board)
        self.state = StateFolder(folder / config.state_dir, clock)
        root = self.state.path
        self.certificate = CertificateApart(config, folder, root)
        # Of the first key: a renewal, which brings another, must not end the session.
        client_id = device_client_id(config.fleet, config.device, config.mqtt.tls, folder)
        config = msgspec.structs.replace(
            config, mqtt=msgspec.structs.replace(config.mqtt, tls=self.certificate.tls)
        )
        serving = config.serving
        self.options = models.Options(threads=serving.threads or board.threads)
        self._threads: list[threading.Thread] = []
        self._metrics: MetricsServer | None = None
        self._result_seq = 0  # of the worker's thread alone
        spool = Spool(
            root / "spool.db", config.spool_bytes, config.spool_age_s, clock.time, clock.monotonic
        )
        spool.readdress(f"{Topics(config.fleet).prefix}/d/", config.device)
        examples: Examples | None = None
        if config.examples.keep:
            redaction.check(config.examples.redact)
            dropped = functools.partial(spool.count_dropped, drops.EXAMPLE)
            examples = Examples(root, config.examples, clock.time, dropped)
        self.accelerators = Accelerators(
            serving.accelerator,
            fs=Disk(),
            root=root,
            options=self.options,
            memory_bytes=board.model_ram_bytes,
        )
        means = Means(
            own=own,
            stopping=stopping,
            clock=clock,
            facts=Facts(
                device=config.device,
                boot=self.state.boot,
                agent_version=contracts.__version__,
                board=config.board,
                runtime=next((r for r in board.runtimes if r in available()), "none"),
                labels=config.labels,
                groups=config.groups,
                platform=platform_facts() | own.facts(),
            ),
            root=root,
            fs=Disk(),
            spool=spool,
            examples=examples,
            models=Models(
                self.options,
                serving.memory_bytes or board.model_ram_bytes,
                load=self.accelerators.load,
            ),
            accelerated=self.accelerators.of,
            selftest=self._selftest,
            link=lambda on_message, on_change, on_refusal: Link(
                config.mqtt,
                fleet=config.fleet,
                device=config.device,
                groups=config.groups,
                folder=folder,
                boot=self.state.boot,
                next_session=self.state.next_session,
                clock=clock,
                on_message=on_message,
                on_change=on_change,
                client_id=client_id,
                on_refusal=on_refusal,
            ),
            worker=lambda failed: Worker(serving.queue, failed),
            reach=functools.partial(self._reach, config, folder, clock),
            trust=lambda fetch: TrustApart(
                root / TRUST, config.trust_root.encode(), fetch, clock=clock.time
            ),
            room=lambda: room(root),
            gauges=functools.partial(Gauges().read, root),
            every_s=config.telemetry_s,
            idle_s=config.idle_s,
            mark=RunningMark(root / "running"),
            tail=TAIL,
        )
        super().__init__(config, board, means)
        self.accelerators.changed = self.reporting.changed
        self.vitals = Vitals(
            self,
            self.reporting,
            mqtt=config.mqtt,
            folder=root,
            started=clock.time(),
            threads_live=lambda: all(thread.is_alive() for thread in self._threads),
            stopped=self.stopping.is_set,
        )
        self.door = Door(
            root,
            config.device,
            self.registry,
            self.worker,
            clock.monotonic,
            self.recorder.failed,
        )
        self._sources = [
            (source.name, reader(self._feed(source), folder, config.mqtt, config.device))
            for source in config.sources
        ]

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
            lambda: f"{self.boot}.{self._result_seq}",
        )

    def _reach(
        self,
        config: AgentConfig,
        folder: Path,
        clock: Clock,
        heard: Callable[[float, float], None],
    ) -> list[Fetcher]:
        """How to reach the repository, but for the blocks over MQTT."""
        if config.repository_url is None:
            return []

        def context() -> ssl.SSLContext | None:
            tls = self.certificate.tls  # of now: it may have been renewed
            return tls_context(tls, folder) if tls else None

        return [Http(config.repository_url, context, clock.monotonic, heard)]

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
        self.on_desired(self.engine.journal.desired)
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
        threading.Thread(target=self._accelerate, name="accelerator", daemon=True).start()
        self.door.open()
        give_back()
        systemd.notify("READY=1")
        self.vitals.ready = True
        log.info("ready", device=self.config.device, boot=self.state.boot)

    def stop(self) -> None:
        """Drains, says goodbye, and stops every thread."""
        systemd.notify("STOPPING=1")
        log.info("stopping", queue=self.worker.depth)
        self.door.close()
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
        self.accelerators.close()
        if self.examples is not None:
            self.examples.flush()
            self.examples.close()
        self.spool.close()
        self.vitals.write()
        self.state.close()

    def _accelerate(self) -> None:
        """A thread that ends: tries what is set with what serves already."""
        self.accelerators.look(self.models, self.stopping.is_set)

    def _read(self, name: str, read: Callable[[], None]) -> None:
        """A source's thread."""
        read()
        log.info("source ended", source=name)

    # What its parts tell it. ------------------------------------------------------------

    def _send_result(self, result: Result) -> None:
        topic = self.topics.of_device(self.config.device, "result")
        boot, seq = self.boot, self._result_seq
        numbered = msgspec.structs.replace(result, boot=boot, seq=seq)
        self._result_seq += self.spool.put(topic, codec.encode(numbered), boot=boot, seq=seq)
        self.reporter.wake()

    def told(self) -> None:
        """The status file says it too, and Home Assistant hears of new slots."""
        if self.config.home_assistant and self.link.connected.is_set():
            with contextlib.suppress(UnavailableError):  # told by what refused it
                self._discover()
        self.vitals.soon()

    def _discover(self) -> None:
        """Tells Home Assistant what this device has; again whenever its slots change."""
        slots = [slot for slot in self.models.slots if "/" not in slot]
        document = homeassistant.document(self.topics, self.config.device, self.board.title, slots)
        topic = home_assistant_discovery(self.config.fleet, self.config.device)
        self.link.publish(topic, codec.encode(document), retain=True)

    def update_ended(self, event: UpdateEvent) -> None:
        """What it took of memory goes back to the system."""
        del event
        give_back()

    def _render_metrics(self) -> str:
        from agent.telemetry.prometheus import render

        return render(self.recorder.totals, self.gauges_now())

    def _selftest(self, folder: Path) -> Selftested:
        result = check.run(
            folder,
            threads=self.options.threads,
            memory_bytes=self.board.model_ram_bytes,
            digest=folder.name,  # the store names a release by it
        )
        self.accelerators.consider(folder, folder.name)
        return result

    def beat(self) -> None:
        """Signs of life, too."""
        super().beat()
        self.vitals.beat()
