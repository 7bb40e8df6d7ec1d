"""What bounds an update: the same bytes through broker or server onto the disk, without agents."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

from _figures import ROOT, Row, row

sys.path.insert(0, str(ROOT))

from contracts.config import MqttConfig
from contracts.connection import new_client
from tests.support.controller import http_server

HTTP_PORT = 18831
"""Of a network namespace of one's own, so it is free."""

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
from agent.system.filesystem import Disk, write_durably
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
