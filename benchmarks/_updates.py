"""Updates of many agents in a few processes: how long, whose time, how many bytes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
from _bare import HTTP_PORT, measure_bare_http, measure_bare_mqtt
from _figures import ROOT, Row, row

sys.path.insert(0, str(ROOT))

from contracts.bundle import MANIFEST, Bundle, file_entries
from contracts.config import MqttConfig
from contracts.desired import TrialRules
from contracts.messages import Reported, UpdateEvent
from fleet.repository.repository import Repository
from tests.support.broker import mosquitto
from tests.support.bundles import rewrite
from tests.support.controller import (
    TINY,
    AgentProcess,
    Controller,
    http_server,
    make_repository,
)

TRIAL = TrialRules(seconds=0.5)


def padded(folder: Path, version: str, size: int, seed: int) -> Bundle:
    """The tiny bundle with random bytes beside the model, `size` bytes in all."""
    Bundle.open(TINY).extract(folder)
    here = sum(p.stat().st_size for p in folder.iterdir() if p.name != MANIFEST)
    data = bytearray(random.Random(0).randbytes(size - here))
    data[: len(data) // 50] = random.Random(seed).randbytes(len(data) // 50)
    (folder / "extra.bin").write_bytes(data)
    files = file_entries(p for p in folder.iterdir() if p.name != MANIFEST)
    return rewrite(Bundle.open(folder), version=version, files=files)


def measure_update(
    broker: MqttConfig,
    folder: Path,
    agents: int,
    processes: int,
    *,
    way: str,
    http_port: int = 0,
) -> list[Row]:
    """Updates `agents` agents to a 512 KB bundle, then by delta to the next."""
    first = padded(folder / "one", "1.0.0", 512 * 1024, 1)
    second = padded(folder / "two", "2.0.0", 512 * 1024, 2)
    repository = make_repository(folder, first.path, second.path)
    fleet = f"bench{uuid.uuid4().hex[:6]}"
    rows: list[Row] = []
    spans: list[tuple[str, float, float]] = []
    with (
        http_server(repository.folder, http_port) as (url, server),
        Controller(broker, fleet, repository) as control,
    ):
        devices = [f"dev-{i}" for i in range(agents)]
        started = [
            _start_agents(
                folder / f"p{p}",
                broker,
                fleet,
                repository,
                devices[p::processes],
                url if way == "http" else None,
            )
            for p in range(processes)
        ]
        try:
            for device in devices:
                control.wait_for(
                    Reported, lambda r, device=device: r.device == device, timeout_s=120
                )
            for bundle, system in ((first, way), (second, f"{way}-delta")):
                before = server.sent + control.block_bytes
                stamp, used = time.time(), _used(started)
                begin = time.perf_counter()
                for device in devices:
                    control.want(device, bundle.ref, trial=TRIAL)
                events = _wait_all(control, bundle, agents)
                seconds = time.perf_counter() - begin
                spent = {who: s - used[who] for who, s in _used(started).items()}
                wire = server.sent + control.block_bytes - before
                total = bundle.manifest.total_bytes * agents
                case = f"update-{system}"
                spans.append((case, stamp, time.time()))
                rows += [
                    row(case, "shoal", "update_s", seconds, "s", agents),
                    row(case, "shoal", "wire_bytes", wire / agents, "bytes", agents),
                    row(case, "shoal", "bundle_bytes", total / agents, "bytes", agents),
                    row(case, "shoal", "wire_ratio", wire / total, "ratio", agents),
                    row(case, "shoal", "cpu_s", sum(spent.values()), "s", agents),
                    *(row(case, "shoal", f"cpu_s_{w}", s, "s", agents) for w, s in spent.items()),
                ]
                rows += _phases(case, events, stamp, agents)
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
            for process in started:
                process.wait(60)
    for case, begin, end in spans:
        waits = [
            float(seconds)
            for p in range(processes)
            for at, seconds in map(str.split, (folder / f"p{p}" / "fsync").open())
            if begin <= float(at) <= end
        ]
        rows += [
            row(case, "shoal", "fsync_s", sum(waits), "s", agents),
            row(case, "shoal", "fsyncs", len(waits) / agents, "", agents),
        ]
    return rows


PHASES = {
    "downloading": "begun",
    "verified": "signatures_and_transfer",
    "self-tested": "fit_and_self_test",
    "trial": "activation",
    "committed": "trial",
}
"""Event -> the phase that it ends."""


def _phases(case: str, events: list[UpdateEvent], stamp: float, agents: int) -> list[Row]:
    """How long an agent was in each phase, in the median, and when the last one left it."""
    ends: dict[tuple[str, str], float] = {(e.state, e.boot): e.at for e in events}
    boots = {boot for _, boot in ends}
    rows = []
    before = dict.fromkeys(boots, stamp)
    for state, phase in PHASES.items():
        after = {boot: ends[state, boot] for boot in boots}
        took = statistics.median(after[boot] - before[boot] for boot in boots)
        rows.append(row(case, "shoal", f"in_{phase}_s", took, "s", agents))
        last = max(after.values()) - stamp
        rows.append(row(case, "shoal", f"last_{phase}_s", last, "s", agents))
        before = after
    return rows


def _used(started: list[subprocess.Popen[bytes]]) -> dict[str, float]:
    """Seconds of processor time by who used them.

    ``children`` are the agents' helpers and what these forked; ``server`` is this process: the
    controller and the HTTP server.
    """
    server = psutil.Process()
    program = next(p for p in server.children() if p.name() == "mosquitto")
    own = sum(sum(psutil.Process(p.pid).cpu_times()[:2]) for p in started)
    return {
        "agents": own,
        "children": _cpu_s(started) - own,
        "broker": sum(program.cpu_times()[:2]),
        "server": time.process_time(),
    }


def _cpu_s(processes: list[subprocess.Popen[bytes]]) -> float:
    """Seconds of processor time of these processes, their helpers, and all ended children."""
    used = 0.0
    for process in processes:
        agents = psutil.Process(process.pid)
        for one in (agents, *agents.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                used += sum(one.cpu_times()[:4])
    return used


def _wait_all(control: Controller, bundle: Bundle, agents: int) -> list[UpdateEvent]:
    """The events of the update, once every agent has committed it."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        done = [e for e in control.of(UpdateEvent) if e.bundle == bundle.ref]
        bad = [e for e in done if e.state in ("refused", "rolled-back")]
        assert not bad, bad[0]
        if sum(e.state == "committed" for e in done) >= agents:
            return done
        time.sleep(0.05)
    raise TimeoutError(f"not every agent reached {bundle.ref}")


SEVERAL = """
import os, signal, sys, threading, time
from pathlib import Path
from agent.system import log
from agent.cli.device import read_config
from agent.daemon import Agent
log.configure()
waits = []
def fsync(handle, real=os.fsync):
    begin = time.perf_counter()
    real(handle)
    waits.append((time.time(), time.perf_counter() - begin))
os.fsync = fsync
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
agents = []
for path in map(Path, sys.argv[2:]):
    agent = Agent(read_config(path), path.parent)
    agent.start()
    agents.append(agent)
stop.wait()
for agent in agents:
    agent.stop()
with open(sys.argv[1], "w") as file:
    file.writelines(f"{at} {seconds}\\n" for at, seconds in waits)
"""


def _start_agents(
    folder: Path,
    broker: MqttConfig,
    fleet: str,
    repository: Repository,
    devices: list[str],
    url: str | None,
) -> subprocess.Popen[bytes]:
    paths = [
        str(
            AgentProcess(
                folder / device,
                broker,
                fleet,
                repository,
                device=device,
                repository_url=url,
                telemetry_s=30.0,
            ).path
        )
        for device in devices
    ]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", SEVERAL, str(folder / "fsync"), *paths], stdout=log, stderr=log
        )


BROKER_PORT = 18830
"""Behind a link; the namespace is this run's own, so it is free."""


def enter_own_network() -> None:
    """Starts this program again in a network namespace of its own, unless it is there."""
    if os.environ.get("SHOAL_BENCH_LINK") is None:
        program = ["unshare", "--net", sys.executable, *sys.argv]
        os.execvpe(program[0], program, {**os.environ, "SHOAL_BENCH_LINK": "1"})


def slow_down(mbit: float, *ports: int) -> None:
    """Makes what is sent from these ports of the namespace's loopback wait for one link."""
    qdisc = "tc qdisc add dev lo root handle 1: htb default 2"
    link = f"tc class add dev lo parent 1: classid 1:1 htb rate {mbit}mbit quantum 60000"
    rest = "tc class add dev lo parent 1: classid 1:2 htb rate 100gbit quantum 60000"
    to_link = "tc filter add dev lo parent 1: protocol ip u32 match ip sport {} 0xffff flowid 1:1"
    for command in ("ip link set lo up", qdisc, link, rest, *map(to_link.format, ports)):
        subprocess.run(command.split(), check=True)


def measure_link(folder: Path, agents: int, processes: int, mbit: float) -> list[Row]:
    """Updates through a link, and the same bytes without agents."""
    slow_down(mbit, BROKER_PORT, HTTP_PORT)
    rows = [row("update", "link", "rate", mbit, "Mbit/s", 1)]
    size = 512 * 1024
    with mosquitto(BROKER_PORT) as broker:
        for way, bare in (("http", measure_bare_http), ("mqtt", measure_bare_mqtt)):
            alone = bare(broker, folder / f"bare-{way}", agents, processes, size)
            ours = measure_update(
                broker, folder / way, agents, processes, way=way, http_port=HTTP_PORT
            )
            (least,) = (r["value"] for r in alone)
            (update,) = (
                r["value"]
                for r in ours
                if (r["case"], r["figure"]) == (f"update-{way}", "update_s")
            )
            over = (update - TRIAL.seconds) / least
            rows += [*alone, *ours, row(f"update-{way}", "shoal", "over_bare", over, "ratio", 1)]
    return rows
