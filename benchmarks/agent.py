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
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import psutil
from _bare import measure_bare_disk, measure_bare_mqtt
from _figures import ROOT, Row, machine, row, save, show
from _updates import TRIAL, enter_own_network, measure_link, measure_update
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

sys.path.insert(0, str(ROOT))

from agent.generate.model import GenerativeModel
from agent.runtime.model import Options
from contracts import codec
from contracts.answers import Answer
from contracts.bundle import Bundle
from contracts.config import MqttConfig, ServingConfig
from contracts.connection import new_client
from contracts.messages import Reported, Status
from contracts.requests import GenerateRequest
from tests.support.broker import mosquitto, mutual_tls
from tests.support.controller import (
    TINY,
    AgentProcess,
    Controller,
    make_repository,
)

TEXT = "turn on the kitchen light"


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
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        folder = Path(name)
        if options.link is not None:
            rows += measure_link(folder, agents, processes, options.link)
        else:
            rows += measure_loopback(folder, options, rounds, agents, processes)
    show(rows)
    save(options.json, "agent", rows, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
