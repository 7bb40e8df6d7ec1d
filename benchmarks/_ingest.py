"""Ingest beside a bare paho consumer: both drain the same messages that wait at the same broker.

`benchmarks/fleet.py` prints its rows. Each consumer runs in a process of its own: this file.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _figures import ROOT, Row, row

sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = str(ROOT)

import psutil

from agent.telemetry.recorder import Recorder
from contracts import codec
from contracts.config import MqttConfig
from contracts.connection import connect_properties, new_client
from contracts.messages import BundleRef, Sample, Telemetry
from contracts.topics import Topics
from fleet.broker import write_configuration
from fleet.ingest.consumer import RECEIVE_MAXIMUM
from fleet.store import Store, telemetry
from tests.support.broker import wait_until_connectable
from tests.support.postgres import postgres
from tests.support.tools import free_port, need_tool

SENDERS = 500


@contextlib.contextmanager
def broker(adapt: Callable[[Path], None] = lambda file: None) -> Iterator[MqttConfig]:
    """A mosquitto with the configuration that the fleet generates, as `adapt` has changed it."""
    config = MqttConfig(port=free_port())
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        user = "root" if os.geteuid() == 0 else None
        file = write_configuration(Path(folder), port=config.port, persistence=False, user=user)
        adapt(file)
        program = need_tool("mosquitto", "/usr/sbin/mosquitto")
        log = (Path(folder) / "log").open("wb")
        process = subprocess.Popen([program, "-c", file], stdout=log, stderr=log)
        try:
            wait_until_connectable(config)
            yield config
        finally:
            process.terminate()
            process.wait(10)
            log.close()


def telemetry_payload(seq: int, chance: random.Random) -> bytes:
    """A batch as an agent sends it: a model's window, and the process's gauges."""
    recorder = Recorder()
    bundle = BundleRef("intents", "1.0.0", "0" * 64)
    for _ in range(chance.randrange(5, 15)):
        latency_us = 900 * chance.lognormvariate(0, 0.25)
        label, confidence = chance.choice(["yes", "no"]), chance.uniform(0.84, 0.96)
        recorder.answered("classify", bundle, latency_us, label=label, confidence=confidence)
    now = time.time()
    gauges = {"rss_bytes": 61_000_000.0, "cpu_ratio": 0.05, "temperature_c": 51.2}
    device = Sample(now, 10.0, gauges=gauges)
    return codec.encode(Telemetry("boot", seq, [*recorder.take(now, 10.0), device]))


def fill(config: MqttConfig, topics: Topics, messages: int) -> None:
    """Publishes telemetry of many devices, and waits until the broker has all of it."""
    chance = random.Random(1)
    payloads = [telemetry_payload(seq, chance) for seq in range(-(-messages // SENDERS))]
    client = new_client(config, f"fill-{uuid.uuid4().hex[:8]}")
    client.max_inflight_messages_set(1000)
    left, done = messages, threading.Event()

    def published(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            done.set()

    client.on_publish = published
    client.connect(config.host, config.port)
    client.loop_start()
    for index in range(messages):
        topic = topics.of_device(f"dev-{index % SENDERS:04}", "telemetry")
        client.publish(topic, payloads[index // SENDERS], qos=1)
    assert done.wait(300), "the broker did not take the messages"
    client.disconnect()
    client.loop_stop()


def child(what: str, config: MqttConfig, fleet: str, messages: int, database: str) -> None:
    """Runs in a process of its own: subscribes or drains, prints seconds from first to last."""
    topics = Topics(fleet)
    if what == "ingest-subscribe":
        consumer, _ = _consumer(config, topics, database)
        consumer.start()
        assert consumer.connected.wait(30)
        consumer.stop()
    elif what == "ingest":
        _drain_ingest(config, topics, messages, database)
    else:
        _drain_bare(config, topics, messages, subscribe_only=what == "bare-subscribe")


def _consumer(config: MqttConfig, topics: Topics, database: str) -> tuple[Any, Store]:
    from fleet.ingest import Consumer
    from fleet.ingest.writer import Writer

    store = Store(database)
    store.migrate()
    return Consumer(topics, config, Writer(store, admit_unknown=True), name="bench"), store


def _drain_ingest(config: MqttConfig, topics: Topics, messages: int, database: str) -> None:
    import sqlalchemy as sa

    consumer, store = _consumer(config, topics, database)
    server = _database_server(store)
    began = 0.0
    spent = _processor_s(server)
    consumer.start()
    while consumer.counters.messages < messages:
        if not began and (consumer.backlog or consumer.counters.messages):
            began = time.perf_counter()
        time.sleep(0.002)
    seconds = time.perf_counter() - began
    consumer.stop()
    taken = _processor_s(server) - spent
    with store.read() as connection:
        stored = connection.scalar(sa.text("SELECT count(*) FROM telemetry"))
    assert stored == messages, f"{stored} rows of {messages} messages"
    began, spent = time.perf_counter(), _processor_s(server)
    while telemetry.roll_up(store):
        pass
    found = {
        "seconds": seconds,
        "processor_s": taken,
        "batches": consumer.counters.batches,
        "rolled_seconds": time.perf_counter() - began,
        "rolled_processor_s": _processor_s(server) - spent,
    }
    print(json.dumps(found))


def _database_server(store: Store) -> psutil.Process | None:
    """The PostgreSQL server, which is on this machine; None for SQLite."""
    if store.is_sqlite:
        return None
    with store.read() as connection:
        backend = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
    return psutil.Process(backend).parent()


def _processor_s(server: psutil.Process | None) -> float:
    """Seconds of processor that this process and the database's server have taken so far."""
    seconds = time.process_time()
    for process in [] if server is None else server.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            seconds += sum(process.cpu_times()[:2])
    return seconds


def _drain_bare(config: MqttConfig, topics: Topics, messages: int, *, subscribe_only: bool) -> None:
    client = new_client(config, f"bare-{topics.fleet}")
    times: list[float] = []
    ready, done = threading.Event(), threading.Event()

    def heard(*_: Any) -> None:
        if not times:
            times.append(time.perf_counter())
        heard.count += 1  # type: ignore[attr-defined]
        if heard.count == messages:  # type: ignore[attr-defined]
            times.append(time.perf_counter())
            done.set()

    heard.count = 0  # type: ignore[attr-defined]
    spent = time.process_time()
    client.on_message = heard
    client.on_subscribe = lambda *_: ready.set()
    client.on_connect = lambda *_: client.subscribe(topics.every_device("telemetry"), 1)
    properties = connect_properties(config)
    # The same window as ingest has, so that neither waits longer for the broker.
    properties.ReceiveMaximum = RECEIVE_MAXIMUM
    client.connect(config.host, config.port, clean_start=False, properties=properties)
    client.loop_start()
    assert ready.wait(30)
    if not subscribe_only:
        assert done.wait(300)
        # The last acknowledgements go out before the session is left.
        time.sleep(0.2)
        taken = time.process_time() - spent
        print(json.dumps({"seconds": times[1] - times[0], "processor_s": taken}))
    client.disconnect()
    client.loop_stop()


def _run_child(what: str, config: MqttConfig, fleet: str, messages: int, database: str) -> Any:
    arguments = [what, codec.encode(config).decode(), fleet, str(messages), database]
    command = [sys.executable, __file__, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if result.returncode != 0:
        raise RuntimeError(f"{what} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout) if result.stdout else {}


def measure(messages: int, rounds: int) -> list[Row]:
    """Messages a second: bare paho, SQLite, PostgreSQL, in turns."""
    rates: dict[str, list[float]] = {"bare": [], "sqlite": [], "postgres": []}
    batches: dict[str, list[float]] = {"sqlite": [], "postgres": []}
    rolled: dict[str, list[float]] = {"sqlite": [], "postgres": []}
    taken: dict[str, list[float]] = {"bare": [], "sqlite": [], "postgres": []}
    rolling: dict[str, list[float]] = {"sqlite": [], "postgres": []}
    with (
        broker() as config,
        postgres() as server,
        tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder,
    ):
        for turn in range(rounds):
            for system in rates:
                fleet = f"{system}{turn}"
                kind = "bare" if system == "bare" else "ingest"
                with contextlib.ExitStack() as stack:
                    database = f"sqlite:///{folder}/{fleet}.db"
                    if system == "postgres":
                        database = stack.enter_context(server.database())
                    _run_child(f"{kind}-subscribe", config, fleet, 0, database)
                    fill(config, Topics(fleet), messages)
                    found = _run_child(kind, config, fleet, messages, database)
                rates[system].append(messages / found["seconds"])
                taken[system].append(1e6 * found["processor_s"] / messages)
                if system in batches:
                    rolling[system].append(1e6 * found["rolled_processor_s"] / messages)
                    batches[system].append(messages / found["batches"])
                    rolled[system].append(messages / found["rolled_seconds"])
    rows: list[Row] = []
    runs = rounds
    bare = statistics.median(rates["bare"])
    for case, system in (("ingest-sqlite", "sqlite"), ("ingest-postgres", "postgres")):
        own = statistics.median(rates[system])
        rows += [
            row(case, "bare-paho", "msg_s", bare, "1/s", runs),
            row(case, "shoal", "msg_s", own, "1/s", runs),
            row(case, "shoal", "share_of_bare", own / bare, "ratio", runs),
            row(case, "bare-paho", "processor_us", statistics.median(taken["bare"]), "us", runs),
            row(case, "shoal", "processor_us", statistics.median(taken[system]), "us", runs),
            row(case, "shoal", "rolled_up_msg_s", statistics.median(rolled[system]), "1/s", runs),
            row(
                case,
                "shoal",
                "rolled_up_processor_us",
                statistics.median(rolling[system]),
                "us",
                runs,
            ),
            row(
                case,
                "shoal",
                "rolled_up_share_of_ingest",
                statistics.median(rolled[system]) / own,
                "ratio",
                runs,
            ),
            row(case, "shoal", "batch", statistics.median(batches[system]), "messages", runs),
        ]
    return rows


if __name__ == "__main__":
    what, config, fleet, messages, database = sys.argv[1:]
    mqtt = codec.decode(config.encode(), MqttConfig, what="the first argument")
    child(what, mqtt, fleet, int(messages), database)
