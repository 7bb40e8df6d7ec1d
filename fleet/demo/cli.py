"""``shoal demo``."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from contracts import codec
from contracts.errors import InputError
from contracts.stopping import Stop
from fleet.cli.output import reported
from fleet.demo.processes import Processes
from fleet.demo.report import Report, StepFailedError
from fleet.demo.scenario import Budget, Demo

QUICK = Budget(
    first=3_000,
    second=3_600,
    settings=(
        "distillation.fit.epochs=6",
        "distillation.augment={}",
        "clean.noise_report=false",
        "evaluation.folds=0",
    ),
    check_quality=False,
)


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="leave the fleet running until Ctrl-C, to play with")
    ] = False,
    work: Annotated[
        Path | None, typer.Option(help="a new folder for everything; else a temporary one")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="small data and training: the path, not the quality")
    ] = False,
    improve: Annotated[
        bool,
        typer.Option(
            "--improve/--no-improve",
            help="the last step: hard examples, labels, a better version (a build more)",
        ),
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="the steps as JSON on stdout; the rest on stderr")
    ] = False,
) -> None:
    """The whole path on this machine: build, publish, roll out, ask, update, refuse, improve.

    Exit code 0 only if every step held. Nothing is left running, unless you say --keep.
    """
    with reported(as_json):
        _play(keep, work, quick, as_json, improves=improve)


def _play(keep: bool, work: Path | None, quick: bool, as_json: bool, *, improves: bool) -> None:
    """Plays the demo and prints its table."""
    if work is not None and work.exists() and any(work.iterdir()):
        raise InputError("folder-not-empty", f"{work} is not empty: name a new folder")
    signal.signal(signal.SIGTERM, _terminate)
    console = Console(stderr=as_json)
    report = Report(console)
    with contextlib.ExitStack() as stack:
        if work is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-demo-")))
        work.mkdir(parents=True, exist_ok=True)
        processes = stack.enter_context(Processes(work / "logs"))
        budget = QUICK if quick else Budget()
        began = time.monotonic()
        ports = (_free_port(), _free_port())
        show = Demo(work, processes, report, budget, ports, improves=improves)
        stack.callback(show.close)
        with contextlib.suppress(StepFailedError):
            show.play()
        console.print(report.summary())
        console.print(f"{time.monotonic() - began:.0f} s in all")
        if not report.held:
            console.print(f"logs: {work / 'logs'}")
            _print_logs(console, work / "logs")
        if as_json:
            sys.stdout.write(codec.encode([msgspec.to_builtins(s) for s in report.steps]).decode())
            sys.stdout.write("\n")
        if keep and report.held:
            _keep(console, work)
    if not report.held:
        raise typer.Exit(1)


def _keep(console: Console, work: Path) -> None:
    """Waits for Ctrl-C, with commands to try."""
    folder = f"--dir {work / 'fleet'}"
    console.print("\nThe fleet is running. In another terminal, try:", style="bold")
    for line in (
        f"shoal fleet devices {folder}",
        f"shoal fleet query all classify 'switch the heating off' {folder}",
        f"shoal fleet query room=garden classify 'is the door locked' {folder}",
        f"shoal fleet metrics {folder}",
        f"shoal fleet rollout list {folder}",
        f"shoal-agent status --config {work / 'devices' / 'garden' / 'agent.yaml'}",
    ):
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    console.print("Ctrl-C stops everything.")
    with Stop() as stop:
        while not stop.wait():
            pass


def _print_logs(console: Console, logs: Path) -> None:
    """The end of each log, because a temporary folder goes away."""
    for log in sorted(logs.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-8:]
        if lines:
            console.print(f"[bold]{log.name}[/]", *lines, sep="\n", markup=False, highlight=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends the demo as Ctrl-C does, so that its programs are stopped."""
    del number, frame
    raise KeyboardInterrupt
