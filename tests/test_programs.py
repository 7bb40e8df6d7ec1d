"""A program that is started from one that has imported it is what ``subprocess`` would start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.config import AgentConfig, MqttConfig
from fleet.identity import provisioning
from tests.support import programs
from tests.support.tools import free_port, until

Start = Callable[..., Any]
WAYS = pytest.mark.parametrize("start", [programs.start, subprocess.Popen])


def _agent(*words: str) -> list[str]:
    return [sys.executable, "-m", "agent", *words]


@pytest.fixture
def alone(tmp_path: Path) -> list[str]:
    """The command of an agent whose broker is not there: it runs until it is told to stop."""
    broker = MqttConfig(port=free_port())
    config = AgentConfig("f", "d", "raspberry-pi-5", "root", mqtt=broker)
    (tmp_path / "agent.yaml").write_bytes(provisioning.to_yaml(config))
    return _agent("run", "--config", str(tmp_path / "agent.yaml"))


def _run(start: Start, command: list[str], folder: Path, **options: Any) -> tuple[int, str]:
    log = folder / "log"
    with log.open("wb") as stream:
        code = start(command, stdout=stream, stderr=subprocess.STDOUT, **options).wait(120)
    return int(code), log.read_text()


def test_it_is_started_from_one_that_has_imported_it(tmp_path: Path, alone: list[str]) -> None:
    """Where the environment and the options allow that; else as usual."""
    with (tmp_path / "log").open("wb") as log:
        forked = programs.start(_agent("--help"), stdout=log, stderr=log)
        assert isinstance(forked, programs.Program)
        early = {**os.environ, "LD_PRELOAD": ""}
        usual = [
            programs.start(_agent("--help"), stdout=log, stderr=log, env=early),
            programs.start(_agent("--help"), stdout=log, stderr=log, close_fds=True),
            programs.start([sys.executable, "-c", "pass"], stdout=log, stderr=log),
        ]
    assert {type(one) for one in usual} == {subprocess.Popen}
    assert [one.wait(120) for one in (forked, *usual)] == [0, 0, 0, 0]


@WAYS
def test_its_arguments_folder_and_output_are_its_own(start: Start, tmp_path: Path) -> None:
    """It reads a file by its name in the folder that was given."""
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "agent.yaml").write_text("{}")
    code, said = _run(start, _agent("status", "--config", "agent.yaml"), tmp_path, cwd=folder)
    assert code == 2 and "agent.yaml" in said and "Traceback" not in said
    code, said = _run(start, _agent("--help"), tmp_path, env={**os.environ, "COLUMNS": "40"})
    assert code == 0 and max(map(len, said.splitlines()[:3])) <= 40
    assert _run(start, _agent("nonsense"), tmp_path)[0] == 2


@WAYS
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)]
)
def test_it_gets_signals_and_says_how_it_ended(
    start: Start, number: int, code: int, tmp_path: Path, alone: list[str]
) -> None:
    """As one of its own that runs; once it has ended, nothing is sent."""
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = start(alone, stdout=stream, stderr=stream)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert process.poll() is None
        until(lambda: "ready" in log.read_text(), said=log.read_text)
        assert os.getpgid(process.pid) == os.getpgid(0)
    finally:
        process.send_signal(number)
    assert process.wait(120) == code
    assert process.poll() == code
    process.kill()
