"""The agent: round trips over MQTT beside a bare echo, memory, start, and updates of many agents.

::

    python benchmarks/agent.py [--quick] [--json FILE] [--bundle FOLDER] [--generator FOLDER]
    python benchmarks/agent.py --tls [--bundle FOLDER]
    python benchmarks/agent.py --agents 100 --link 100

Real programs on a mosquitto on loopback. `shoal` and `bare-mqtt` are asked in turn in one run.

A hundred agents on one machine share its processors, where a fleet has one each. With `--link`
the broker and the HTTP server send at that many Mbit/s at most, as through a real one's cable,
and updates alone are measured: beside the same bytes through the same link onto the same disk,
and nothing else. It needs root, `unshare`, `ip` and `tc`: the loopback that is made slow is one
of its own network namespace.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

sys.path.insert(0, str(Path(__file__).parents[1]))

from agent.generate.model import GenerativeModel
from agent.runtime.model import Options
from contracts import codec
from contracts.bundle import MANIFEST, Bundle, file_entries
from contracts.config import MqttConfig, ServingConfig
from contracts.connection import new_client
from contracts.messages import Answer, GenerateRequest, Reported, Status, TrialRules, UpdateEvent
from fleet.repository.repository import Repository
from tests.support.broker import mosquitto, mutual_tls
from tests.support.bundles import rewrite
from tests.support.controller import (
    TINY,
    AgentProcess,
    Controller,
    http_server,
    make_repository,
)

TEXT = "turn on the kitchen light"
TRIAL = TrialRules(seconds=0.5)
Row = dict[str, Any]


def row(case: str, system: str, figure: str, value: float, unit: str, runs: int) -> Row:
    """One figure."""
    return {
        "case": case,
        "system": system,
        "figure": figure,
        "value": round(value, 4),
        "unit": unit,
        "runs": runs,
    }


class Asker:
    """Sends a request with a response topic and waits for the answer; times it."""

    def __init__(self, broker: MqttConfig) -> None:
        self._broker = broker
        self._got = threading.Event()
        self._client = new_client(broker, f"asker-{uuid.uuid4().hex[:8]}")
        self._client.on_message = lambda *_: self._got.set()
        self._ready = threading.Event()
        self._client.on_subscribe = lambda *_: self._ready.set()

    def start(self, *answers: str) -> None:
        """Connects and subscribes to where answers come."""
        self._client.connect(self._broker.host, self._broker.port)
        self._client.loop_start()
        self._client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in answers])
        assert self._ready.wait(10)

    def ask(self, topic: str, payload: bytes, response: str | None = None) -> float:
        """Milliseconds from the request to the answer."""
        self._got.clear()
        options = Properties(PacketTypes.PUBLISH)
        if response is not None:
            options.ResponseTopic = response
        start = time.perf_counter()
        self._client.publish(topic, payload, qos=1, properties=options)
        if not self._got.wait(10):
            raise TimeoutError(topic)
        return (time.perf_counter() - start) * 1000

    def stop(self) -> None:
        """Disconnects."""
        self._client.disconnect()
        self._client.loop_stop()


ECHO = """
import sys
from contracts import codec
from contracts.config import MqttConfig
from contracts.connection import new_client
broker = codec.decode(sys.stdin.buffer.read(), MqttConfig, what="the broker")
client = new_client(broker, "echo-" + sys.argv[1])
client.on_connect = lambda c, *_: c.subscribe(sys.argv[1] + "/echo", 1)
client.on_message = lambda c, u, m: c.publish(m.properties.ResponseTopic, m.payload, qos=1)
client.connect(broker.host, broker.port)
client.loop_forever()
"""


BROKER_PORT, HTTP_PORT = 18830, 18831
"""Behind a link; the namespace is this run's own, so they are free."""


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


def measure_classify(broker: MqttConfig, folder: Path, bundle: Path, rounds: int) -> list[Row]:
    """Round trips beside a bare echo; memory and start of the agent."""
    fleet = f"bench{uuid.uuid4().hex[:6]}"
    repository = make_repository(folder, bundle)
    ref = Bundle.open(bundle).ref
    rows: list[Row] = []
    with Controller(broker, fleet, repository) as controller:
        agent = AgentProcess(folder / "a", broker, fleet, repository, telemetry_s=10)
        with agent:
            controller.wait_final(controller.want(agent.device, ref, trial=TRIAL))
            controller.wait_for(Reported, lambda r: r.desired_revision == 1)
            updated = _settled_rss(agent)
            agent.terminate()
            starts: list[float] = []
            idle: list[int] = []
            for _ in range(3 if rounds < 500 else 7):
                known = {s.session for s in controller.of(Status)}
                begin = time.perf_counter()
                agent.start()
                controller.wait_for(
                    Status,
                    lambda s, known=known: s.state == "online" and s.session not in known,
                )
                answer = controller.ask(agent.device, "classify", text=TEXT)
                assert answer.classified is not None
                starts.append((time.perf_counter() - begin) * 1000)
                idle.append(_settled_rss(agent))
                if len(starts) < (3 if rounds < 500 else 7):
                    agent.terminate()
            rows += _round_trips(broker, controller, agent, rounds)
            agent.terminate()
    runs = len(starts)
    rows += [
        row("classify", "shoal", "idle_rss_mb", statistics.median(idle) / 1e6, "MB", runs),
        row("classify", "shoal", "idle_rss_after_update_mb", updated / 1e6, "MB", 1),
        row("classify", "shoal", "start_ms", statistics.median(starts), "ms", runs),
    ]
    return rows


def _settled_rss(agent: AgentProcess) -> int:
    assert agent.process is not None
    time.sleep(2)  # idle is a state of time
    return int(psutil.Process(agent.process.pid).memory_info().rss)


def _round_trips(
    broker: MqttConfig, controller: Controller, agent: AgentProcess, rounds: int
) -> list[Row]:
    fleet = controller.fleet
    echo = subprocess.Popen([sys.executable, "-c", ECHO, fleet], stdin=subprocess.PIPE)
    assert echo.stdin is not None
    with echo.stdin as stream:
        stream.write(codec.encode(broker))
    asker = Asker(broker)
    answers = controller.topics.response(agent.device, "bench")
    echoes = f"{fleet}/echo-answer"
    asker.start(answers, echoes)
    request = controller.topics.request(agent.device, "classify")
    payload = json.dumps({"id": "bench", "text": TEXT}).encode()
    times: dict[str, list[float]] = {"shoal": [], "bare-mqtt": []}
    try:
        for _ in range(50):
            try:
                asker.ask(f"{fleet}/echo", payload, echoes)
                break
            except TimeoutError:
                continue
        for number in range(rounds + 20):
            shoal = asker.ask(request, payload)
            bare = asker.ask(f"{fleet}/echo", payload, echoes)
            if number >= 20:
                times["shoal"].append(shoal)
                times["bare-mqtt"].append(bare)
    finally:
        asker.stop()
        echo.terminate()
        echo.wait(10)
    rows = []
    for system, values in times.items():
        quantiles = statistics.quantiles(values, n=20)
        rows.append(row("classify", system, "rtt_p50_ms", quantiles[9], "ms", rounds))
        rows.append(row("classify", system, "rtt_p95_ms", quantiles[18], "ms", rounds))
    added = statistics.median(times["shoal"]) - statistics.median(times["bare-mqtt"])
    rows.append(row("classify", "shoal", "added_p50_ms", added, "ms", rounds))
    return rows


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


BARE = """
import os, sys, threading
from contracts.config import MqttConfig
from contracts.connection import new_client
folder, port, size, *names = sys.argv[1:]
left = threading.Semaphore(0)
clients = []
for name in names:
    client = new_client(MqttConfig(port=int(port)), name)
    stream = open(f"{folder}/{name}", "wb")
    def take(c, u, m, stream=stream, name=name):
        stream.write(m.payload)
        if stream.tell() >= int(size):
            stream.flush()
            os.fsync(stream.fileno())
            os.rename(f"{folder}/{name}", f"{folder}/{name}.whole")
            c.publish("bare/done", name, qos=1)
            left.release()
    client.on_message = take
    client.on_connect = lambda c, *_, name=name: c.subscribe(f"bare/{name}", 1)
    client.on_subscribe = lambda c, *_, name=name: c.publish("bare/ready", name, qos=1)
    client.connect("127.0.0.1", int(port))
    client.loop_start()
    clients.append(client)
for _ in clients:
    left.acquire()
for client in clients:
    client.disconnect()
    client.loop_stop()
"""


def measure_bare_mqtt(
    broker: MqttConfig, folder: Path, agents: int, processes: int, size: int
) -> list[Row]:
    """The same bytes through the same broker onto the same disk, and nothing else."""
    folder.mkdir(parents=True)
    names = [f"bare{uuid.uuid4().hex[:6]}-{i}" for i in range(agents)]
    counts = {"bare/ready": threading.Semaphore(0), "bare/done": threading.Semaphore(0)}
    client = new_client(broker, f"bare-{uuid.uuid4().hex[:8]}")
    client.on_message = lambda _c, _u, m: counts[m.topic].release()
    client.on_connect = lambda c, *_: c.subscribe([("bare/ready", 1), ("bare/done", 1)])
    client.max_inflight_messages_set(1000)
    subscribed = threading.Event()
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect(broker.host, broker.port)
    client.loop_start()
    assert subscribed.wait(10)
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                BARE,
                str(folder),
                str(broker.port),
                str(size),
                *names[p::processes],
            ]
        )
        for p in range(processes)
    ]
    for _ in names:
        assert counts["bare/ready"].acquire(timeout=60)
    block = random.Random(0).randbytes(32 * 1024)
    begin = time.perf_counter()
    for _ in range(0, size, len(block)):
        for name in names:
            client.publish(f"bare/{name}", block, qos=1)
    for _ in names:
        assert counts["bare/done"].acquire(timeout=120)
    seconds = time.perf_counter() - begin
    client.disconnect()
    client.loop_stop()
    for process in started:
        process.wait(60)
    return [row("update-mqtt", "bare-mqtt", "update_s", seconds, "s", agents)]


BARE_HTTP = """
import os, sys, threading
from http.client import HTTPConnection
folder, port, *names = sys.argv[1:]
def take(name):
    connection = HTTPConnection("127.0.0.1", int(port))
    connection.request("GET", "/bundle")
    answer = connection.getresponse()
    with open(f"{folder}/{name}", "wb") as stream:
        while data := answer.read1(65536):
            stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(f"{folder}/{name}", f"{folder}/{name}.whole")
threads = [threading.Thread(target=take, args=(name,)) for name in names]
print("ready", flush=True)
sys.stdin.readline()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("done", flush=True)
"""


def measure_bare_http(
    broker: MqttConfig, folder: Path, agents: int, processes: int, size: int
) -> list[Row]:
    """The same bytes from the same HTTP server onto the same disk, and nothing else."""
    del broker
    folder.mkdir(parents=True)
    (folder / "bundle").write_bytes(random.Random(0).randbytes(size))
    names = [str(number) for number in range(agents)]
    with http_server(folder, HTTP_PORT):
        started = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    BARE_HTTP,
                    str(folder),
                    str(HTTP_PORT),
                    *names[p::processes],
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for p in range(processes)
        ]
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        begin = time.perf_counter()
        for process in started:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == b"done\n"
        seconds = time.perf_counter() - begin
        for process in started:
            process.communicate(timeout=60)
    return [row("update-http", "bare-http", "update_s", seconds, "s", agents)]


DISK = """
import sys, threading
from pathlib import Path
from agent.filesystem import Disk, write_durably
folder, size, writes, *names = sys.argv[1:]
def update(name):
    path = Path(folder, name)
    path.mkdir()
    write_durably(Disk(), path / "bundle", bytes(int(size)))
    for _ in range(int(writes)):
        write_durably(Disk(), path / "journal", bytes(1024))
threads = [threading.Thread(target=update, args=(name,)) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""

DISK_WRITES = 9
"""Durable writes of an update beside the bundle's: two fsyncs each, as many as are counted."""


def measure_bare_disk(folder: Path, agents: int, processes: int, size: int) -> list[Row]:
    """The disk's share of an update: as many durable writes from as many threads, no more."""
    folder.mkdir(parents=True)
    names = [str(number) for number in range(agents)]
    begin = time.perf_counter()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", DISK, folder, str(size), str(DISK_WRITES), *names[p::processes]]
        )
        for p in range(processes)
    ]
    for process in started:
        process.wait(120)
    seconds = time.perf_counter() - begin
    return [row("update-disk", "bare-disk", "update_s", seconds, "s", agents)]


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
from agent import log
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


def measure_stream(
    broker: MqttConfig, folder: Path, bundle: Path, tokens: int, rounds: int
) -> list[Row]:
    """Tokens a second as the requester sees them: over MQTT, and in this process, in turn.

    Both run the same model class with one thread; both times are from the request to the last
    piece of text.
    """
    fleet = f"bench{uuid.uuid4().hex[:6]}"
    repository = make_repository(folder, bundle)
    prompt = "The capital of France is"
    local = GenerativeModel(Bundle.open(bundle), Options(threads=1, cache=folder / "weights"))
    rates: dict[str, list[float]] = {"shoal": [], "local": []}
    with (
        Controller(broker, fleet, repository) as controller,
        AgentProcess(
            folder / "a", broker, fleet, repository, serving=ServingConfig(threads=1)
        ) as agent,
    ):
        ref = Bundle.open(bundle).ref
        final = controller.wait_final(
            controller.want(agent.device, ref, slot="generate", trial=TRIAL), 300
        )
        assert final.state == "committed", final

        def streamed() -> float:
            begin = time.perf_counter()
            request = controller.ask_only(
                agent.device, "generate", prompt=prompt, max_tokens=tokens
            )
            answer = controller.wait_for(Answer, lambda a: a.id == request and a.done, 300)
            assert answer.generated is not None, answer.error
            return answer.generated.tokens / (time.perf_counter() - begin)

        def at_home() -> float:
            begin = time.perf_counter()
            result = local.generate(GenerateRequest(prompt=prompt, max_tokens=tokens))
            return result.tokens / (time.perf_counter() - begin)

        for turn in range(rounds + 1):
            pair = {"shoal": streamed(), "local": at_home()}
            if turn:  # the first loads weights and fills the prefix caches
                for system, rate in pair.items():
                    rates[system].append(rate)
    local.close()
    rows = [
        row("stream", system, "tok_s", statistics.median(found), "tok/s", rounds)
        for system, found in rates.items()
    ]
    cost = 1 - rows[0]["value"] / rows[1]["value"]
    return [*rows, row("stream", "shoal", "cost", cost, "ratio", rounds)]


def machine() -> dict[str, Any]:
    """Where it ran."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version()}


def measure_loopback(
    folder: Path, options: argparse.Namespace, rounds: int, agents: int, processes: int
) -> list[Row]:
    """All cases on a broker as fast as this machine; with ``--tls`` the first one alone."""
    if options.tls:
        with mutual_tls(folder) as broker:
            return measure_classify(broker, folder / "classify", options.bundle, rounds)
    with mosquitto() as broker:
        rows = measure_classify(broker, folder / "classify", options.bundle, rounds)
        for way in ("http", "mqtt") if agents else ():
            rows += measure_update(broker, folder / way, agents, processes, way=way)
        if agents:
            rows += measure_bare_mqtt(broker, folder / "bare", agents, processes, 512 * 1024)
            rows += measure_bare_disk(folder / "disk", agents, processes, 512 * 1024)
        if options.generator is not None:
            rows += measure_stream(
                broker, folder / "stream", options.generator, 64, 5 if options.quick else 20
            )
    return rows


def main() -> int:
    """Runs the cases and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--bundle", type=Path, default=TINY, help="a classify bundle folder")
    parser.add_argument("--generator", type=Path, help="a generate bundle folder")
    parser.add_argument("--agents", type=int, help="of the update cases; 0: leave them out")
    parser.add_argument("--tls", action="store_true", help="mutual TLS; classification alone")
    parser.add_argument("--link", type=float, help="Mbit/s of the broker; the update alone")
    options = parser.parse_args()
    if options.link is not None:
        if not options.link > 0:  # nor nan
            parser.error("--link needs a rate in Mbit/s")
        missing = [tool for tool in ("unshare", "ip", "tc") if shutil.which(tool) is None]
        if missing or os.geteuid() != 0:
            parser.error(f"--link needs {' and '.join(missing) or 'root'}")
        enter_own_network()
    rounds = 200 if options.quick else 2000
    agents = (6 if options.quick else 100) if options.agents is None else options.agents
    # A helper a process, and a processor a process.
    processes = min(os.cpu_count() or 1, agents)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        folder = Path(name)
        if options.link is not None:
            rows += measure_link(folder, agents, processes, options.link)
        else:
            rows += measure_loopback(folder, options, rounds, agents, processes)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    for one in rows:
        print(
            f"{one['case']:18} {one['system']:10} {one['figure']:30} "
            f"{one['value']:14,.3f} {one['unit']:6} {one['runs']:6}"
        )
    if options.json is not None:
        result = {"benchmark": "agent", "machine": machine(), "commit": commit, "rows": rows}
        options.json.write_bytes(codec.pretty(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
