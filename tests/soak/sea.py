"""What chaos runs: a fleet with TLS, its broker and controller, real agents, simulated devices."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from contracts import codec
from contracts.bundle import Bundle
from contracts.config import AgentConfig, MqttConfig, SourceConfig
from contracts.errors import ShoalError
from contracts.messages import BundleRef
from fleet.broker.run import MosquittoBroker
from fleet.client import Client
from fleet.demo.tampered import with_wrong_golden_vectors
from fleet.folder import ApiConfig, Fleet, FleetConfig
from fleet.identity import Identity, provisioning
from fleet.identity.authority import DEVICE_DAYS
from fleet.simulate.launcher import Simulation
from tests.support.controller import TINY, TINY_NEXT
from tests.support.fault_clock import FaultClock
from tests.support.proxy import Proxy
from tests.support.tools import free_port, need_tool

if TYPE_CHECKING:
    from typing_extensions import Self

NAME = "chaos"
BAD = "1.9.0"
"""The version whose golden vectors do not hold."""

TELEMETRY_S = 2.0
SETTLE_S = 60.0
"""Seconds after which an agent tries to move what waits in memory to its disk."""

SCENARIO = f"""
seed: 7
traffic: {{requests_per_s: 1, telemetry_s: {TELEMETRY_S}}}
updates: {{step_s: 0.1}}
bundles: [{{bundle: "*", version: {BAD}, fail_selftest: 1}}]
"""


class AgingFleet(Fleet):
    """A fleet whose devices are enrolled with certificates that are soon over.

    Attributes:
        left_s: how long those last that are given now.
    """

    left_s = 120.0

    def open_identity(self) -> Identity:
        """The authority, a year less a little ago."""
        ago = DEVICE_DAYS * 86400 - self.left_s
        return Identity.open(self.folder / "ca", clock=lambda: time.time() - ago)


class Program:
    """A program that is killed and started again, with a log."""

    def __init__(self, command: list[str], log: Path, **environment: str) -> None:
        self.command = command
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = {**os.environ, **environment}

    @property
    def pid(self) -> int:
        """Of the running one."""
        assert self.process is not None
        return self.process.pid

    @property
    def ended(self) -> int | None:
        """The code with which it ended by itself."""
        return self.process.poll() if self.process is not None else None

    def start(self) -> None:
        """Starts it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )

    def kill(self) -> None:
        """SIGKILL, also to what it started."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that does not help."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


class RealAgent(Program):
    """An agent, its local socket, the proxy through which it reaches the broker, its clock.

    Args:
        fleet: where it is enrolled.
        device: its name.
        blocks: it fetches models over MQTT, not HTTP.
    """

    def __init__(self, fleet: Fleet, device: str, folder: Path, blocks: bool) -> None:
        folder.mkdir(parents=True)
        self.device = device
        self.folder = folder
        self.proxy = Proxy(fleet.config.mqtt.port)
        self.clock = FaultClock(folder / "clock")
        fleet.enroll(device, "raspberry-pi-5", out=folder / "agent.yaml")
        text = (folder / "agent.yaml").read_bytes()
        config = codec.convert_yaml(text, AgentConfig, what="agent.yaml")
        self.config = msgspec.structs.replace(
            config,
            mqtt=msgspec.structs.replace(config.mqtt, port=self.proxy.port, keepalive_s=10),
            repository_url=None if blocks else config.repository_url,
            telemetry_s=TELEMETRY_S,
            idle_s=0,  # accounts judge by the windows how much a kill may cost
            sources=[SourceConfig("lines", "unix", "lines.sock")],
        )
        (folder / "agent.yaml").write_bytes(provisioning.to_yaml(self.config))
        self.started_at = self.full_since = 0.0
        self.full_until: float | None = None
        """Since when, and until when, the disk of this run was full."""
        command = [sys.executable, "-m", "agent", "run", "--config", str(folder / "agent.yaml")]
        super().__init__(command, folder / "agent.log", **self.clock.environment)

    def start(self) -> None:
        """Starts it; what was in memory before is gone."""
        self.full_until = None
        self.started_at = time.monotonic()
        self._log_from = self.log.stat().st_size if self.log.exists() else 0
        super().start()

    @property
    def boot(self) -> str:
        """The boot of this run, as its log says; empty before it is ready."""
        with self.log.open("rb") as log:
            log.seek(self._log_from)
            for line in log:
                if b'"event": "ready"' in line:
                    return str(json.loads(line)["boot"])
        return ""

    @property
    def socket(self) -> Path:
        """Where it takes lines."""
        return self.folder / "lines.sock"

    @property
    def renewed(self) -> int:
        """How often it has renewed its certificate."""
        return self.log.read_text(errors="replace").count("certificate renewed")

    def copy(self) -> Program:
        """Another device that was flashed from this one's image."""
        folder = self.folder.with_name(self.device + "-copy")
        shutil.rmtree(folder, ignore_errors=True)
        # It runs meanwhile: what it replaces or removes is not in the image.
        with contextlib.suppress(shutil.Error):
            shutil.copytree(
                self.folder,
                folder,
                symlinks=True,
                ignore=shutil.ignore_patterns("*.sock", "*.log", "clock"),
            )
        command = [sys.executable, "-m", "agent", "run", "--config", str(folder / "agent.yaml")]
        return Program(command, folder / "agent.log")


class Sea:
    """Everything that runs. Use as a context manager.

    Args:
        folder: a new folder for all of it.
        simulated: devices without an agent of their own.
        left_s: how long the real agents' first certificates last.
    """

    def __init__(self, folder: Path, simulated: int, left_s: float) -> None:
        self.folder = folder
        self.simulated = simulated
        port = free_port()
        config = FleetConfig(
            fleet=NAME,
            mqtt=MqttConfig(port=port),
            api=ApiConfig(port=free_port()),
            mutual_tls=True,
            admit_unknown=True,
            engine_s=0.5,
        )
        Fleet.init(folder / "fleet", config)
        AgingFleet.left_s = left_s
        self.fleet = AgingFleet.open(folder / "fleet")
        bad = with_wrong_golden_vectors(TINY_NEXT, folder / "bad", BAD)
        self.refs: dict[str, BundleRef] = {}
        for bundle in (TINY, TINY_NEXT, bad):
            ref, _ = self.fleet.publish(Bundle.open(bundle).path)
            self.refs[ref.version] = ref
        self.agents = [
            RealAgent(self.fleet, f"real-{n}", folder / f"real-{n}", blocks=n == 3)
            for n in range(4)
        ]
        program = need_tool("mosquitto", "/usr/sbin/mosquitto")
        self.broker = MosquittoBroker(
            self.fleet.folder / "broker/mosquitto.conf", port=port, program=program
        )
        self.controller = Program(
            [sys.executable, "-m", "fleet", "fleet", "serve", "--dir", str(self.fleet.folder)],
            folder / "controller.log",
        )
        scenario = folder / "scenario.yaml"
        scenario.write_text(SCENARIO)
        # They share the controller's certificate: the broker lets it write for every device.
        self.simulation = Simulation(
            NAME,
            msgspec.structs.replace(self.fleet.controller_mqtt(), keepalive_s=10),
            simulated,
            scenario=scenario,
            repository_url=f"{self.fleet.api_url}/repo/",
        )
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stack.callback(self.broker.stop)
        self.broker.start()
        self._stack.callback(self.controller.stop)
        self.controller.start()
        for agent in self.agents:
            self._stack.enter_context(agent.proxy)
            self._stack.callback(agent.stop)
            agent.start()
        self._stack.enter_context(self.simulation)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """Authority, certificate and key of who may read all topics."""
        tls = self.fleet.controller_mqtt().tls
        assert tls is not None and tls.ca and tls.certificate and tls.key
        return Path(tls.ca), Path(tls.certificate), Path(tls.key)

    def client(self) -> Client:
        """Of the API."""
        return Client(self.fleet.api_url, self.fleet.token_file.read_text().strip())

    def ask(self, question: Callable[[Client], Any], seconds: float = 90.0) -> Any:
        """What the API says, once it says something: it may be away."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                with self.client() as client:
                    return question(client)
            except (ShoalError, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def forget_broker(self) -> None:
        """The broker's file is lost."""
        (self.fleet.folder / "broker/mosquitto.db").unlink(missing_ok=True)


@contextlib.contextmanager
def opened(folder: Path, simulated: int, left_s: float) -> Iterator[Sea]:
    """A sea that runs."""
    with Sea(folder, simulated, left_s) as sea:
        yield sea
