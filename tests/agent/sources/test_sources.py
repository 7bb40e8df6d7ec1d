"""Local sources on a real agent: results go out, texts do not."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from agent.sources.lines import MAX_LINE_BYTES, Lines
from contracts.bundle import Bundle
from contracts.config import MqttConfig, SourceConfig
from contracts.connection import new_client
from contracts.messages import Result, Telemetry
from fleet.repository.repository import Repository
from tests.support.controller import TINY, AgentProcess, Controller, make_repository
from tests.support.tools import free_port

REF = Bundle.open(TINY).ref
SECRET = "turn on the light zzsecretzz number {}"


class Tap:
    """A TCP proxy that keeps every byte that an agent and its broker exchange."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.bytes = bytearray()
        self._target = target
        self._server = socket.create_server(("127.0.0.1", self.port))
        self._open: list[socket.socket] = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._server.accept()
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", self._target))
            self._open += [here, there]
            for pair in ((here, there), (there, here)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self.bytes += data
                sink.sendall(data)
        except OSError:
            pass

    def close(self) -> None:
        """Ends every connection."""
        for one in self._open:
            one.close()


@contextmanager
def tap(broker: MqttConfig) -> Iterator[tuple[Tap, MqttConfig]]:
    """A tap before a broker."""
    one = Tap(broker.port)
    try:
        yield one, MqttConfig(port=one.port)
    finally:
        one.close()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """The tiny bundle, published."""
    return make_repository(tmp_path, TINY)


def test_no_text_leaves_unless_the_source_shares_it(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, repository: Repository
) -> None:
    """All traffic of a run with every kind of source is captured: no input text is in it."""
    local_topic = f"{fleet_name}/local"
    sources = [
        SourceConfig("tail", "file", path="lines.log"),
        SourceConfig("pipe", "unix", path="lines.sock"),
        SourceConfig("bus", "mqtt", path=local_topic, mqtt=mosquitto_broker),
        SourceConfig("input", "stdin"),
        SourceConfig("open", "file", path="open.log", share_text=True),
    ]
    folder = tmp_path / "a"
    folder.mkdir()
    for name in ("lines.log", "open.log"):
        (folder / name).write_text("before the start\n")
    with (
        tap(mosquitto_broker) as (wire, broker),
        Controller(mosquitto_broker, fleet_name, repository) as controller,
    ):
        agent = AgentProcess(
            folder, broker, fleet_name, repository, sources=sources, prometheus_port=free_port()
        )
        agent.start(stdin=subprocess.PIPE)
        try:
            assert agent.process is not None and agent.process.stdin is not None
            controller.wait_final(controller.want(agent.device, REF))
            for number in range(3):
                text = SECRET.format(number) + "\n"
                with (folder / "lines.log").open("a") as stream:
                    stream.write(text)
                with (folder / "open.log").open("a") as stream:
                    stream.write(f"what is the weather openly {number}\n")
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(folder / "lines.sock"))
                    client.sendall(text.encode())
                agent.process.stdin.write(text.encode())
                agent.process.stdin.flush()
                _publish(mosquitto_broker, local_topic, text.encode())
                for source in ("tail", "pipe", "bus", "input", "open"):
                    controller.wait_for(
                        Result,
                        lambda r, source=source, number=number: (
                            r.source == source
                            and len([x for x in controller.of(Result) if x.source == source])
                            > number
                        ),
                    )
            controller.wait_for(
                Telemetry, lambda t: any(s.slot == "classify" and s.requests for s in t.samples)
            )
            assert agent.terminate() == 0
        finally:
            agent.kill()
        results = controller.of(Result)
        assert {r.text is not None for r in results if r.source == "open"} == {True}
        assert {r.text for r in results if r.source != "open"} == {None}
        assert {r.label for r in results if r.source == "tail"} == {"lights-on"}
        assert b"zzsecretzz" not in wire.bytes
        assert b"openly" in wire.bytes, "the tap saw nothing"
        assert b"before the start" not in wire.bytes
    assert "zzsecretzz" not in agent.log.read_text()
    for path in agent.state.rglob("*"):
        if path.is_file():
            assert b"zzsecretzz" not in path.read_bytes(), f"a text stayed in {path.name}"


def _publish(broker: MqttConfig, topic: str, payload: bytes) -> None:
    client: paho.Client = new_client(broker, f"local-{os.getpid()}-{topic[-5:]}")
    client.connect(broker.host, broker.port)
    client.loop_start()
    client.publish(topic, payload, qos=1).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


def test_a_file_is_followed_over_rotation_and_truncation(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, repository: Repository
) -> None:
    """Lines before and after a rename, and after a truncation, all count once."""
    folder = tmp_path / "a"
    folder.mkdir()
    log = folder / "app.log"
    log.write_text("")
    sources = [SourceConfig("app", "file", path="app.log")]
    with (
        Controller(mosquitto_broker, fleet_name, repository) as controller,
        AgentProcess(folder, mosquitto_broker, fleet_name, repository, sources=sources) as agent,
    ):
        controller.wait_final(controller.want(agent.device, REF))

        def count(expected: int) -> None:
            controller.wait_for(Result, lambda _: len(controller.of(Result)) >= expected)

        with log.open("a") as stream:
            stream.write("turn on the light\nset a timer\n")
        count(2)
        log.rename(folder / "app.log.1")
        with (folder / "app.log.1").open("a") as stream:
            stream.write("what is the weather\n")
        log.write_text("turn off the light\n")
        count(4)
        log.write_text("timer\n")
        count(5)
        labels = [r.label for r in controller.of(Result)]
        assert labels[:2] == ["lights-on", "timer"]
        assert sorted(labels[2:4]) == ["lights-off", "weather"]


def test_lines_are_cut_in_bounded_memory() -> None:
    """An endless line comes once, over the cap, and what follows it is whole."""
    taken: list[bytes] = []
    lines = Lines(taken.append)
    for _ in range(100):
        lines.add(b"x" * 4096)
        assert len(lines._rest) <= MAX_LINE_BYTES + 4096
    lines.add(b"\nshort\nlast")
    lines.end()
    assert [len(line) for line in taken] == [MAX_LINE_BYTES, 5, 4]
