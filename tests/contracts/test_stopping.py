"""A program ends when it is told to, whichever of its threads the system tells."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from contracts.config import AgentConfig, MqttConfig
from contracts.stopping import NUMBERS, Stop
from fleet.folder import Fleet, FleetConfig
from tests.support.tools import free_port

_LIBC = ctypes.CDLL(None)


def threads(process: subprocess.Popen[bytes]) -> list[int]:
    """The threads of a program."""
    return [int(one.name) for one in Path(f"/proc/{process.pid}/task").iterdir()]


def tell_another_thread(process: subprocess.Popen[bytes]) -> None:
    """As the system does when the main thread was not to be had."""
    others = [one for one in threads(process) if one != process.pid]
    assert others, "it has one thread alone"
    # The youngest is a thread of Python's.
    assert _LIBC.tgkill(process.pid, max(others), signal.SIGTERM) == 0


def tell_suspended(process: subprocess.Popen[bytes]) -> None:
    """As systemd ends a suspended unit."""
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT):
        process.send_signal(number)
        time.sleep(0.05)


def tell_after(process: subprocess.Popen[bytes]) -> None:
    """Suspended, woken, told."""
    for number in (signal.SIGSTOP, signal.SIGCONT, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.05)


WAYS = [tell_another_thread, tell_suspended, tell_after]


@contextlib.contextmanager
def program(folder: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is killed when it does not end."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)], stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def threads_of(process: subprocess.Popen[bytes], at_least: int) -> None:
    """Waits until a program has its threads; nothing else tells that from outside."""
    deadline = time.monotonic() + 60
    while len(threads(process)) < at_least:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)  # until the main thread waits: earlier it would notice anyway


@pytest.mark.parametrize("tell", WAYS)
def test_an_agent_ends(tell: Callable[[Any], None], tmp_path: Path) -> None:
    """In order, within seconds."""
    config = AgentConfig(
        "f", "d", board="raspberry-pi-5", trust_root="{}", mqtt=MqttConfig(port=free_port())
    )
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(msgspec.to_builtins(config)))
    with program(tmp_path, "agent", "run", "--config", path) as process:
        threads_of(process, 5)
        tell(process)
        assert process.wait(20) == 0, (tmp_path / "log").read_text()


@pytest.mark.parametrize("tell", [tell_another_thread, tell_suspended])
def test_a_controller_ends(tell: Callable[[Any], None], tmp_path: Path) -> None:
    """Though its broker is away."""
    fleet = Fleet.init(tmp_path / "f", FleetConfig("f", mqtt=MqttConfig(port=free_port())))
    config = msgspec.structs.replace(
        fleet.config, api=msgspec.structs.replace(fleet.config.api, port=free_port())
    )
    (fleet.folder / "fleet.yaml").write_text(yaml.safe_dump(msgspec.to_builtins(config)))
    with program(tmp_path, "fleet", "fleet", "serve", "--dir", fleet.folder) as process:
        deadline = time.monotonic() + 60
        while "controller started" not in (tmp_path / "log").read_text():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        tell(process)
        assert process.wait(40) == 0, (tmp_path / "log").read_text()


def test_a_wait_ends_when_it_is_woken_or_over_and_is_told_from_a_stop() -> None:
    """And the signals are again as they were."""
    before = [signal.getsignal(number) for number in NUMBERS]
    with Stop() as stop:
        assert not stop.wait(0.01)
        threading.Timer(0.05, stop.wake).start()
        assert not stop.wait(20)
        for _ in range(100_000):
            stop.wake()
        assert not stop.wait(20)
        me = threading.main_thread().ident
        assert me is not None
        threading.Timer(0.05, signal.pthread_kill, (me, signal.SIGTERM)).start()
        deadline = time.monotonic() + 20
        while not stop.wait(20):
            assert time.monotonic() < deadline
        assert stop.wait(), "once told, it stays told"
    assert [signal.getsignal(number) for number in NUMBERS] == before
