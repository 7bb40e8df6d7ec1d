"""The demo's whole path, and what a kill in the middle of a rollout does to it."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from fleet.api.models_rollouts import RolloutModel
from fleet.demo.processes import Processes
from fleet.demo.report import Report
from fleet.demo.scenario import DEVICES, Budget, Demo
from fleet.rollout.spec import RolloutSpec, Trial, parse_waves
from tests.support.tools import free_port

TINY = Path(__file__).parents[1] / "data"


def _running(folder: Path) -> list[str]:
    """Command lines of programs that were started on `folder`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder) in line and "pytest" not in line:
            found.append(line)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_step_of_the_demo_holds_and_nothing_is_left_running(tmp_path: Path) -> None:
    """Build, publish, roll out, ask, measure, update, refuse, improve: as a person would run it."""
    work = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "fleet", "demo", "--quick", "--json", "--work", str(work)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    steps = json.loads(done.stdout)
    assert [step["held"] for step in steps] == [True] * 9
    assert "golden" in steps[-2]["seen"]
    assert "hard examples shared" in steps[-1]["seen"]  # and the next version is the better one
    assert _running(work) == []


@pytest.mark.parametrize("name", [".", "file"])
def test_a_folder_that_cannot_be_used_is_one_clear_error(tmp_path: Path, name: str) -> None:
    """Not empty, or not a folder: one line, no traceback, and nothing is touched."""
    (tmp_path / "file").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-m", "fleet", "demo", "--work", str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """The demo's fleet with its programs running, and two tiny versions published."""
    report = Report(Console(file=io.StringIO()))
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(Processes(tmp_path / "logs"))
        show = Demo(tmp_path, processes, report, Budget(), (free_port(), free_port()))
        stack.callback(show.close)
        with report.step("start") as step:
            show.start(step)
        show.publish(TINY / "tiny-classifier-1.0.0")
        show.publish(TINY / "tiny-classifier-1.1.0")
        yield show
    assert _running(tmp_path) == []


def _until_ended(show: Demo, rollout: RolloutModel, seconds: float = 240) -> RolloutModel:
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while rollout.status in ("running", "queued") and time.monotonic() < deadline:
        pause.wait(0.2)
        rollout = show.watch(rollout)
    return rollout


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["controller", "agent-kitchen"])
def test_a_rollout_finishes_after_a_sigkill_in_its_middle(demo: Demo, victim: str) -> None:
    """The controller, or an agent in its update, dies without warning and is started again."""
    spec = RolloutSpec(
        bundle="tiny-classifier",
        version="1.0.0",
        waves=parse_waves("1,100%"),
        bake_s=1,
        deadline_s=60,
        trial=Trial(seconds=2),
    )
    rollout = demo.client().create_rollout(spec)
    pause = threading.Event()
    deadline = time.monotonic() + 120
    while not rollout.phases and time.monotonic() < deadline:
        pause.wait(0.05)
        rollout = demo.watch(rollout)
    assert rollout.status == "running"
    assert rollout.phases
    demo.processes.kill(victim)
    demo.processes.restart(victim)
    rollout = _until_ended(demo, rollout)
    assert rollout.status == "succeeded", demo.processes.log(victim).read_text()[-3000:]
    assert demo.versions() == dict.fromkeys(DEVICES, "1.0.0")
