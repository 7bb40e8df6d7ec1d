"""The running agent: drain, watchdog, shadow, trials over restarts, endpoints, status, errors."""

from __future__ import annotations

import os
import random
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from agent.daemon import Agent
from agent.system.statusfile import LocalStatus
from agent.telemetry.spool import Spool
from contracts import codec
from contracts.answers import Answer
from contracts.bundle import Bundle
from contracts.config import AgentConfig, MqttConfig, ServingConfig
from contracts.desired import TrialRules
from contracts.errors import ErrorInfo
from contracts.messages import Reported, Status, Telemetry, UpdateEvent
from fleet.repository.repository import Repository
from tests.support import full_disk
from tests.support.controller import (
    TINY,
    TINY_NEXT,
    AgentProcess,
    Controller,
    make_repository,
)
from tests.support.tools import free_port

REF = Bundle.open(TINY).ref
NEXT = Bundle.open(TINY_NEXT).ref


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with both tiny bundles."""
    return make_repository(tmp_path, TINY, TINY_NEXT)


def test_sigterm_answers_what_was_accepted_and_says_goodbye(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, repository: Repository
) -> None:
    """No request that came before is left without an answer; the exit code is 0."""
    with (
        Controller(mosquitto_broker, fleet_name, repository) as controller,
        AgentProcess(tmp_path / "a", mosquitto_broker, fleet_name, repository) as agent,
    ):
        controller.wait_final(controller.want(agent.device, REF))
        requests = [
            controller.ask_only(agent.device, "classify", text="set a timer") for _ in range(40)
        ]
        controller.wait_for(Answer, lambda a: a.id == requests[0])
        assert agent.terminate() == 0
        for request in requests:
            controller.wait_for(Answer, lambda a, request=request: a.id == request)
        controller.wait_for(Status, lambda s: s.state == "offline")


def test_systemd_is_told_of_start_life_and_stop(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, repository: Repository
) -> None:
    """READY, WATCHDOG while it lives, STOPPING."""
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(15)
        agent = AgentProcess(tmp_path / "a", mosquitto_broker, fleet_name, repository)
        agent.environment = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "900000"}
        with agent:
            assert manager.recv(100) == b"READY=1"
            assert [manager.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            agent.terminate()
            rest = []
            while not rest or rest[-1] != b"STOPPING=1":
                rest.append(manager.recv(100))


def test_a_shadow_model_answers_beside_and_its_disagreement_is_counted(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, repository: Repository
) -> None:
    """Users see the active model alone."""
    with (
        Controller(mosquitto_broker, fleet_name, repository) as controller,
        AgentProcess(tmp_path / "a", mosquitto_broker, fleet_name, repository) as agent,
    ):
        controller.wait_final(controller.want(agent.device, REF))
        controller.wait_final(controller.want(agent.device, NEXT, mode="shadow"))
        reported = controller.wait_for(
            Reported, lambda r: "classify" in r.slots and r.slots["classify"].shadow == NEXT
        )
        assert reported.slots["classify"].active == REF
        answers = [
            controller.ask(agent.device, "classify", text=text)
            for text in ("turn on the light", "timer", "weather", "off")
        ]
        assert {a.classified.bundle for a in answers if a.classified} == {REF}

        def shadowed(_: object) -> bool:
            samples = [s for t in controller.of(Telemetry) for s in t.samples]
            return sum(s.shadow_requests for s in samples) == 4

        controller.wait_for(Telemetry, shadowed)


def test_three_kills_in_a_trial_roll_back_and_the_reason_is_reported(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, repository: Repository
) -> None:
    """A bundle that takes the agent down again and again does not stay."""
    with (
        Controller(mosquitto_broker, fleet_name, repository) as controller,
        AgentProcess(tmp_path / "a", mosquitto_broker, fleet_name, repository) as agent,
    ):
        controller.wait_final(controller.want(agent.device, REF))
        revision = controller.want(agent.device, NEXT, trial=TrialRules(seconds=600))
        controller.wait_for(UpdateEvent, lambda e: e.revision == revision and e.state == "trial")
        for _ in range(3):
            sessions = {s.session for s in controller.of(Status)}
            agent.kill()
            agent.start()
            controller.wait_for(
                Status,
                lambda s, sessions=sessions: s.state == "online" and s.session not in sessions,
            )
        event = controller.wait_final(revision)
        assert event.state == "rolled-back"
        assert event.reason is not None
        assert event.reason.code == "trial-restarts"
        reported = controller.wait_for(Reported, lambda r: r.desired_revision == revision)
        assert reported.slots["classify"].active == REF
        assert reported.last_update is not None
        assert reported.last_update.reason == event.reason


def test_a_group_request_is_answered_by_every_device_on_its_own_topic(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, repository: Repository
) -> None:
    """One question, two answers."""
    with Controller(mosquitto_broker, fleet_name, repository) as controller:
        agents = [
            AgentProcess(
                tmp_path / name,
                mosquitto_broker,
                fleet_name,
                repository,
                device=name,
                groups=["kitchen"],
            )
            for name in ("one", "two")
        ]
        with agents[0], agents[1]:
            for agent in agents:
                controller.wait_for(Reported, lambda r, agent=agent: r.device == agent.device)
            request = controller.ask_only("kitchen", "status", group=True)
            for agent in agents:
                controller.wait_for(
                    Answer, lambda a, agent=agent: (a.id, a.device) == (request, agent.device)
                )


def test_metrics_discovery_and_status_are_there_on_request(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, repository: Repository
) -> None:
    """The endpoint answers, discovery is published, a person can ask the device."""
    port = free_port()
    discovered = threading.Event()
    from contracts.connection import new_client

    watcher = new_client(mosquitto_broker, f"ha-{random.getrandbits(40)}")
    topic = f"homeassistant/device/shoal-{fleet_name}-dev-1/config"
    watcher.on_connect = lambda c, *_: c.subscribe(topic)
    watcher.on_message = lambda c, u, m: b"update_classify" in m.payload and discovered.set()
    watcher.connect(mosquitto_broker.host, mosquitto_broker.port)
    watcher.loop_start()
    with (
        Controller(mosquitto_broker, fleet_name, repository) as controller,
        AgentProcess(
            tmp_path / "a",
            mosquitto_broker,
            fleet_name,
            repository,
            prometheus_port=port,
            home_assistant=True,
            serving=ServingConfig(rate_per_s=100),
        ) as agent,
    ):
        controller.wait_final(controller.want(agent.device, REF))
        controller.ask(agent.device, "classify", text="timer")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            assert 'shoal_requests_total{slot="classify"} 1' in answer.read().decode()
        controller.ask(agent.device, "classify", slot="nowhere", text="timer")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            metrics = answer.read().decode()
        assert 'shoal_errors_total{slot="device"} 1' in metrics
        assert "nowhere" not in metrics
        assert discovered.wait(60)
        status = _command("status", "--config", str(agent.path), "--json")
        assert status.returncode == 0, status.stderr
        found = msgspec.json.decode(status.stdout)
        assert found["running"] is True
        assert codec.decode(
            msgspec.json.encode(found["status"]), LocalStatus, what="status"
        ).broker.endswith(str(mosquitto_broker.port))
        tested = _command("selftest", "--config", str(agent.path))
        assert tested.returncode == 0
        assert "33 of 33 hold" in tested.stdout
        again = _command("run", "--config", str(agent.path))
        assert (again.returncode, again.stderr.count("\n")) == (1, 1)
        assert "another agent runs" in again.stderr
        agent.terminate()
        after = _command("status", "--config", str(agent.path))
        assert after.returncode == 1
        assert "DOES NOT RUN" in after.stdout
    watcher.disconnect()
    watcher.loop_stop()


def test_an_unreachable_broker_keeps_the_agent_alive_and_says_so(
    tmp_path: Path, repository: Repository
) -> None:
    """It starts, waits, spools, and tells a person at the device."""
    agent = AgentProcess(
        tmp_path / "a", MqttConfig(port=free_port()), "f", repository, telemetry_s=0.1
    )
    with agent:
        deadline = time.monotonic() + 120
        text = ""
        while "no connection to" not in text and time.monotonic() < deadline:
            text = _command("status", "--config", str(agent.path)).stdout
        assert "no connection to 127.0.0.1" in text
        assert agent.terminate() == 0


def test_on_a_full_disk_the_agent_starts_serves_and_says_so(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, repository: Repository
) -> None:
    """Its log is a file on that disk, too. What was spooled before is sent when there is room."""
    with (
        Controller(mosquitto_broker, fleet_name, repository) as controller,
        AgentProcess(tmp_path / "a", mosquitto_broker, fleet_name, repository) as agent,
    ):
        controller.wait_final(controller.want(agent.device, REF))
        assert agent.terminate() == 0
        spool = Spool(agent.state / "spool.db", 1 << 20, 1e6, time.time)
        topic = controller.topics.of_device(agent.device, "telemetry")
        spool.put(topic, codec.encode(Telemetry("before", 0, [])))
        spool.close()

        agent.start(preexec_fn=full_disk.fill)
        assert agent.process is not None
        answer = controller.ask(agent.device, "classify", text="set a timer")
        assert answer.classified is not None
        controller.wait_for(Telemetry, lambda t: t.samples[-1].gauges.get("spool_in_memory") == 1.0)
        full_disk.make_room(agent.process.pid)
        assert agent.terminate() == 0
        assert not list(agent.state.glob("*.bad"))

        agent.start()
        controller.wait_for(Telemetry, lambda t: t.boot == "before")


def test_an_update_that_waits_for_weeks_leaves_the_spool_its_room(
    tmp_path: Path, repository: Repository
) -> None:
    """Without a connection one event of a kind is kept; with one, what is no news is telemetry."""
    agent = Agent(AgentConfig("f", "d", "raspberry-pi-5", repository.root.decode()), tmp_path)
    reason = ErrorInfo("repository-unreachable", "connection refused", {})
    failed = UpdateEvent("boot", 1, 2, "classify", REF, "downloading", 1.0, reason=reason)
    try:
        agent.reporting.emit(failed)  # of the last run: it may be in the spool already
        for seq in range(2, 1000):
            agent.reporting.emit(msgspec.structs.replace(failed, boot=agent.state.boot, seq=seq))
        assert agent.spool.depth == 1
        agent.reporting.emit(
            msgspec.structs.replace(failed, boot=agent.state.boot, state="verified")
        )
        agent.link.connected.set()
        for seq in range(1000, 1010):
            agent.reporting.emit(msgspec.structs.replace(failed, boot=agent.state.boot, seq=seq))
        with closing(sqlite3.connect(agent.state.path / "spool.db")) as spooled:
            kept = spooled.execute("SELECT precious, count(*) FROM message GROUP BY 1").fetchall()
        assert kept == [(0, 10), (1, 2)]
    finally:
        agent.spool.close()
        agent.state.close()


def _command(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ},
        input=stdin.decode("latin-1") if stdin is not None else None,
    )


def bad_inputs(folder: Path) -> dict[str, tuple[list[str], int]]:
    """Commands with something wrong, and the exit code each must give."""
    empty = folder / "empty"
    empty.write_bytes(b"")
    junk = folder / "junk.shoal"
    junk.write_bytes(b"PK\x03\x04 junk")
    binary = folder / "binary.jsonl"
    binary.write_bytes(b'{"text": "\xff\xfe"}\n')
    damaged = folder / "damaged"
    Bundle.open(TINY).extract(damaged)
    (damaged / "model.tflite").write_bytes(b"short")
    config = folder / "agent.yaml"
    config.write_text("fleet: f\n")
    tagged = folder / "tagged.yaml"
    tagged.write_text("!!python/object/apply:os.system ['true']\n")
    board = folder / "board.yaml"
    board.write_text("fleet: f\ndevice: d\nboard: toaster\ntrust_root: x\n")
    remote = folder / "remote.yaml"
    remote.write_text(
        "fleet: f\ndevice: d\nboard: raspberry-pi-5\ntrust_root: x\nmqtt: {host: 192.0.2.1}\n"
    )
    tiny = str(TINY)
    return {
        "missing bundle": (["classify", "/no/such", "x"], 2),
        "empty bundle": (["classify", str(empty), "x"], 2),
        "junk bundle": (["inspect", str(junk)], 2),
        "damaged bundle": (["inspect", str(damaged)], 2),
        "damaged model": (["classify", str(damaged), "x"], 2),
        "folder without a manifest": (["inspect", str(folder)], 2),
        "text over the limit": (["classify", tiny, "x" * 20_000], 2),
        "runtime that is not here": (["classify", tiny, "x", "--runtime", "tflite-runtime"], 1),
        "missing data": (["eval", tiny, "--data", "/no/such.csv"], 2),
        "empty data": (["eval", tiny, "--data", str(empty)], 2),
        "data that is not UTF-8": (["eval", tiny, "--data", str(binary)], 2),
        "missing configuration": (["run", "--config", "/no/such"], 2),
        "empty configuration": (["run", "--config", str(empty)], 2),
        "incomplete configuration": (["run", "--config", str(config)], 2),
        "configuration with code": (["run", "--config", str(tagged)], 2),
        "unknown board": (["run", "--config", str(board)], 2),
        "plain connection beyond loopback": (["run", "--config", str(remote)], 2),
        "status of nothing": (["status", "--config", str(remote)], 2),
    }


CASES = [
    "missing bundle", "empty bundle", "junk bundle", "damaged bundle", "damaged model",
    "folder without a manifest", "text over the limit", "runtime that is not here",
    "missing data", "empty data", "data that is not UTF-8", "missing configuration",
    "empty configuration", "incomplete configuration", "configuration with code",
    "unknown board", "plain connection beyond loopback", "status of nothing",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gives_one_error_line_and_the_right_code(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No traceback; what was expected and found is in the line."""
    from agent.__main__ import main

    arguments, code = bad_inputs(tmp_path)[case]
    assert main(arguments) == code
    captured = capfd.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith(("INFO", "WARN"))]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert captured.out == ""


def test_classify_and_eval_print_what_they_found(tmp_path: Path) -> None:
    """As programs: stdin, JSON, a table; nothing of the libraries on stderr."""
    run = _command("classify", str(TINY), "--json", stdin=b"turn on the light\nset a timer\n")
    labels = [msgspec.json.decode(line)["label"] for line in run.stdout.splitlines()]
    assert labels == ["lights-on", "timer"]
    assert run.stderr == ""
    data = tmp_path / "data.csv"
    data.write_text(
        "text,label\nturn on the light,lights-on\nset a timer,timer\nset a timer,weather\n"
    )
    run = _command("eval", str(TINY), "--data", str(data), "--json")
    assert run.returncode == 0, run.stderr
    found = msgspec.json.decode(run.stdout)
    assert (found["examples"], found["accuracy"]) == (3, pytest.approx(2 / 3, abs=1e-5))
