"""``shoal fleet simulate``: simulated devices on the fleet's broker, to rehearse a rollout."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from contracts.config import MqttConfig
from contracts.errors import InputError
from contracts.simulation import Counters
from fleet.cli.options import HERE, AsJson, Folder
from fleet.cli.output import emit_json, reported
from fleet.folder import Fleet
from fleet.simulate.launcher import Simulation

if TYPE_CHECKING:
    from typing_extensions import Self

_CONNECT_S = 120.0


def simulate(
    devices: Annotated[int, typer.Option(min=1, max=100_000, help="How many.")] = 100,
    scenario: Annotated[
        Path | None, typer.Option(help="A scenario (YAML); without one all goes well.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Of the devices' names.")] = "sim-",
    processes: Annotated[
        int, typer.Option(min=0, max=64, help="0: one for every 2,500 devices.")
    ] = 0,
    connects_per_s: Annotated[float, typer.Option(min=1, max=100_000)] = 300.0,
    seconds: Annotated[
        float, typer.Option(min=0, help="End after so many seconds; 0: until told to stop.")
    ] = 0.0,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Runs simulated devices: a connection each, and the agent's protocol. Ctrl-C ends it."""
    with reported(as_json):
        fleet = Fleet.open(folder)
        mqtt = _way_in(fleet)
        url = f"{fleet.api_url}/repo/" if fleet.config.http_repository else None
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        simulation = Simulation(
            fleet.config.fleet,
            mqtt,
            devices,
            scenario=scenario,
            repository_url=url,
            prefix=prefix,
            processes=processes,
            connects_per_s=connects_per_s,
        )
        with simulation:
            simulation.wait_connected(_CONNECT_S + devices / connects_per_s)
            _follow(simulation, stop, seconds, quiet=as_json)
            totals = simulation.stop()
        if as_json:
            emit_json(msgspec.to_builtins(totals))


def _way_in(fleet: Fleet) -> MqttConfig:
    """The broker, as devices without certificates reach it.

    Raises:
        InputError: ``needs-certificates``, ``not-admitted``.
    """
    if fleet.config.mutual_tls:
        raise InputError(
            "needs-certificates",
            "this fleet's broker asks every device for a certificate, simulated devices have "
            "none: rehearse on a fleet of its own, made with `shoal fleet init DIR "
            "--admit-unknown`",
        )
    if not fleet.config.admit_unknown:
        raise InputError(
            "not-admitted",
            "this fleet ignores devices that were never enrolled: set admit_unknown: true in its "
            "fleet.yaml, or rehearse on a fleet made with `shoal fleet init DIR --admit-unknown`",
        )
    return fleet.config.device_mqtt or fleet.config.mqtt


def _follow(simulation: Simulation, stop: threading.Event, seconds: float, *, quiet: bool) -> None:
    until = time.monotonic() + seconds if seconds else float("inf")
    console = Console(stderr=True)
    with Live(console=console, refresh_per_second=2) if not quiet else _Quiet() as live:
        while not stop.is_set() and time.monotonic() < until:
            totals = simulation.wait_changed(min(1.0, max(until - time.monotonic(), 0.01)))
            live.update(_table(simulation.devices, totals))


class _Quiet:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def update(self, table: Table) -> None:
        """Shows nothing."""


def _table(devices: int, totals: Counters) -> Table:
    table = Table(title=f"{devices} simulated devices", show_header=False)
    for name, value in msgspec.structs.asdict(totals).items():
        table.add_row(name.replace("_", " "), f"{value:,}")
    return table


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("simulate")(simulate)
