"""``shoal fleet up``: starts what a fleet needs on this machine."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from contracts.connection import is_loopback
from contracts.errors import UnavailableError
from contracts.files import typed
from fleet import address, units
from fleet.api.listening import listen
from fleet.broker.beside import Beside
from fleet.broker.run import EmbeddedBroker, find_mosquitto
from fleet.cli import noted
from fleet.cli.options import HERE, Folder
from fleet.cli.output import reported
from fleet.cli.serve import check_level, run
from fleet.folder import Fleet
from fleet.logs import configure_logs


def up(
    folder: Folder = HERE,
    log_level: Annotated[str, typer.Option(help="debug, info, warning, error.")] = "warning",
) -> None:
    """Starts the broker, the controller and the dashboard; Ctrl-C or SIGTERM ends them.

    A broker of this fleet that runs already is used. Where the fleet has an address beyond this
    machine, mosquitto must be installed.
    """
    with reported(as_json=False), contextlib.ExitStack() as stack:
        check_level(log_level)
        configure_logs(log_level)
        fleet = Fleet.open(folder)
        # First the ports: who cannot have them must not touch database or broker.
        with noted.trying(fleet, "controller.start", fleet.config.fleet):
            sockets = listen(address.api_host(fleet.config), fleet.config.api.port)
        for one in sockets:
            stack.enter_context(one)
        for todo in fleet.prepare():
            typer.echo(todo, err=True)
        _start_broker(fleet, stack)
        files = fleet.broker_size().files
        at_boot = units.write(fleet.folder, broker_files=files, mosquitto=_mosquitto())
        run(fleet, sockets, lambda: _tell(fleet, folder, at_boot))


def _start_broker(fleet: Fleet, stack: contextlib.ExitStack) -> None:
    apart = fleet.config.broker.port is not None
    beside = Beside(
        fleet.folder / "broker",
        fleet.controller_mqtt(),
        port=address.listener(fleet.config).port,
        files=fleet.broker_size().files,
        setting="broker.port and mqtt.port" if apart else "mqtt.port",
    )
    try:
        stack.enter_context(beside)
    except UnavailableError as error:
        # Without certificates, on this machine alone, the one inside the package will do.
        if error.code != "no-mosquitto" or fleet.config.mutual_tls:
            raise
        stack.enter_context(EmbeddedBroker(fleet.config.mqtt.port, fleet.config.mqtt.host))


def _mosquitto() -> str:
    try:
        return find_mosquitto()
    except UnavailableError:
        return "/usr/sbin/mosquitto"


def _tell(fleet: Fleet, folder: Path, at_boot: Path) -> None:
    devices = address.device_mqtt(fleet.config)
    typer.echo(f"Dashboard  {fleet.api_url}")
    typer.echo(f"Token      {fleet.token_file}")
    typer.echo(f"Devices    {devices.where}")
    if address.has_own_certificate(fleet.config):
        typer.echo(
            f"Browsers   trust it with {fleet.folder / 'ca' / 'ca.pem'} among their authorities"
        )
    if not is_loopback(devices.host):
        services = f"{units.BROKER} {units.CONTROLLER}"
        typer.echo(
            f"At boot    sudo cp {at_boot}/*.* /etc/systemd/system/ && "
            f"sudo systemctl enable --now {services}"
        )
    typer.echo(f"Next       shoal fleet enroll NAME --board BOARD --dir {typed(folder)}")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("up")(up)
