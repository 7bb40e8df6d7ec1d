"""A Linux agent and a MicroPython device in one fleet: mutual TLS, one rollout, queries."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from contracts.bundle import Bundle
from contracts.config import MqttConfig
from fleet.broker import MosquittoBroker
from fleet.broker.run import wait_until_connectable
from fleet.cli.app import app
from fleet.folder import ApiConfig, Fleet, FleetConfig
from tests.micro import device
from tests.support import programs
from tests.support.tools import free_port, need_tool

TINY = device.ROOT / "tests/data/tiny-classifier-1.0.0"


def shoal(folder: Path, *words: object) -> Any:
    """Runs ``shoal fleet ... --json`` here and returns what it printed."""
    done = CliRunner().invoke(app, ["fleet", *map(str, words), "--dir", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@contextlib.contextmanager
def program(command: list[str], log: Path, **variables: str) -> Iterator[None]:
    """A program that is told to stop at the end."""
    environment = {**os.environ, "PYTHONPATH": str(device.ROOT), **variables}
    with log.open("wb") as stream:
        process = programs.start(command, env=environment, stdout=stream, stderr=stream)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def until(condition: Callable[[], object], what: str, logs: list[Path]) -> None:
    """Waits for what only other processes bring about."""
    deadline = time.monotonic() + 240
    while not condition():
        if time.monotonic() > deadline:
            tails = "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in logs)
            raise AssertionError(f"{what}\n{tails}")
        threading.Event().wait(0.3)


@pytest.mark.timeout(240)
def test_both_kinds_of_device_take_one_rollout_over_mutual_tls(tmp_path: Path) -> None:
    """Enrolled by command, the heap held to 256 KB: both reach the bundle and answer a query."""
    port = free_port()
    fleet = Fleet.init(
        tmp_path / "fleet",
        FleetConfig(
            fleet="reef",
            mqtt=MqttConfig(host="localhost", port=port),
            mutual_tls=True,
            api=ApiConfig(port=free_port()),
        ),
    )
    home = fleet.folder
    pi = shoal(home, "enroll", "pi", "--board", "raspberry-pi-5")["config"]
    chip = Path(shoal(home, "enroll", "chip", "--board", "esp32-s3")["files"])
    assert stat.S_IMODE((chip / "shoal/key.der").stat().st_mode) == 0o600
    assert (chip / "main.py").is_file()
    assert (chip / "lib/micro/device.mpy").is_file()
    shoal(home, "publish", TINY)
    broker = MosquittoBroker(
        home / "broker/mosquitto.conf",
        port=port,
        program=need_tool("mosquitto", "/usr/sbin/mosquitto"),
    )
    logs = [tmp_path / name for name in ("serve.log", "pi.log", "chip.log")]
    python = [sys.executable, "-m"]
    serve = [*python, "fleet", "fleet", "serve", "--dir", str(home)]
    micro = device.command("device.py", str(chip / "shoal"))
    with broker, program(serve, logs[0]):
        wait_until_connectable(fleet.controller_mqtt())
        with (
            program([*python, "agent", "run", "--config", pi], logs[1]),
            program(micro, logs[2], **device.environment()),
        ):

            def devices() -> dict[str, Any]:
                return {one["id"]: one for one in shoal(home, "devices")}

            def both_online() -> bool:
                try:
                    return all(one["state"] == "online" for one in devices().values())
                except AssertionError:
                    return False  # the controller is still starting

            until(both_online, "not both devices came online", logs)
            shoal(
                home, "rollout", "create", "tiny-classifier", "1.0.0", "--selector", "all",
                "--waves", "100%", "--set", "trial.seconds=1", "--set", "bake_s=0",
            )  # fmt: skip

            def both_active() -> bool:
                slots = [one["slots"].get("classify") for one in devices().values()]
                return all(slot and slot["active"] and not slot["trial"] for slot in slots)

            until(both_active, "the rollout did not reach both devices", logs)
            for name in ("pi", "chip"):
                answer = shoal(home, "query", name, "classify", "turn on the kitchen light")
                classified = answer["answers"][0]["classified"]
                assert classified["label"] == "lights-on"
                assert classified["bundle"]["manifest_sha256"] == (
                    Bundle.open(TINY).ref.manifest_sha256
                )
            # More than a board's packet holds, and no more than the protocol allows.
            words = ["fleet", "query", "chip", "classify", "é" * 4000, "--json"]
            long = CliRunner().invoke(app, [*words, "--dir", str(home)])
            (refused,) = json.loads(long.stdout)["answers"]
            assert refused["error"]["code"] == "too-large"
            found = devices()["chip"]
            assert found["board"] == "esp32-s3"
