"""``shoal fleet init``: makes a fleet from one address."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from contracts.config import MqttConfig
from contracts.connection import is_loopback
from contracts.errors import InputError
from contracts.files import typed
from fleet import address
from fleet.broker.run import is_taken
from fleet.cli import noted
from fleet.cli.options import AsJson
from fleet.cli.output import emit_json, reported
from fleet.config import ApiConfig, BrokerConfig, FleetConfig
from fleet.folder import Fleet

_PLAIN_MQTT: Final = 1883
_PLAIN_API: Final = 8080


def init(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    name: Annotated[str, typer.Option(help="The fleet's name.")] = "home",
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="The one address under which devices and people reach the fleet: a name, IPv4, "
            "IPv6, or auto. Without it: this machine alone. More of them are more names for the "
            "certificates."
        ),
    ] = None,
    tls: Annotated[
        bool | None,
        typer.Option(
            "--tls/--no-tls", help="Certificates for every device; by default with an address."
        ),
    ] = None,
    mqtt_host: Annotated[
        str | None, typer.Option(help="The broker, where it runs elsewhere.")
    ] = None,
    mqtt_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Of the broker; 8883, without TLS 1883.")
    ] = None,
    api_host: Annotated[
        str | None, typer.Option(help="Where the controller listens, if not by the address.")
    ] = None,
    api_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Of the controller; 8443, without an address 8080."),
    ] = None,
    api_certificate: Annotated[
        str | None, typer.Option(help="PEM file; else one of the fleet's authority.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="PEM file of its key.")] = None,
    api_url: Annotated[
        str | None, typer.Option(help="Under which devices reach it, if not by the address.")
    ] = None,
    devices: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="How many the broker is made for.")
    ] = 1000,
    database: Annotated[str, typer.Option(help="SQLAlchemy URL; else SQLite inside.")] = "",
    http_repository: Annotated[
        bool, typer.Option(help="Devices fetch models over HTTP, not MQTT.")
    ] = True,
    home_assistant: Annotated[
        bool, typer.Option("--home-assistant", help="Devices tell Home Assistant what they have.")
    ] = False,
    home_assistant_installs: Annotated[
        bool,
        typer.Option(
            "--home-assistant-installs",
            help="And its users may install what is published for a device.",
        ),
    ] = False,
    admit_unknown: Annotated[
        bool, typer.Option(help="List devices that were never enrolled.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Makes a fleet: keys, certificates, repository, database, an admin token."""
    with reported(as_json):
        hosts = [
            address.this_machine() if h == address.AUTO else address.checked(h) for h in host or []
        ]
        public = bool(hosts) and not is_loopback(hosts[0])
        # An address of this machine alone; its name stands for the usual one.
        own = hosts[0] if hosts and not public and hosts[0] != "localhost" else None
        if public and tls is False:
            raise InputError(
                "tls-needed",
                f"--host {hosts[0]} needs certificates: leave out --no-tls, or --host",
            )
        mqtt, broker = _broker(mqtt_host or own, mqtt_port, public=public)
        config = FleetConfig(
            fleet=name,
            host=hosts[0] if public else "",
            names=hosts[1:] if public else hosts,
            devices=devices,
            mutual_tls=public or bool(tls),
            http_repository=http_repository,
            api=ApiConfig(
                host=own if api_host is None else api_host,
                port=api_port or (address.API_PORT if public else _PLAIN_API),
                certificate=api_certificate,
                key=api_key,
                url=api_url,
            ),
            database=database,
            home_assistant=home_assistant or home_assistant_installs,
            home_assistant_installs=home_assistant_installs,
            admit_unknown=admit_unknown,
            mqtt=mqtt,
            broker=broker,
        )
        with noted.trying_in(folder, "fleet.init"):
            made = Fleet.init(folder, config)
        _tell(made, folder, as_json)


def _broker(host: str | None, port: int | None, *, public: bool) -> tuple[MqttConfig, BrokerConfig]:
    """The controller's way to the broker, and where the broker listens for devices."""
    if host is not None and not is_loopback(host):
        return MqttConfig(host=host, port=port or address.MQTT_PORT), BrokerConfig()
    if not public:
        return MqttConfig(host=host or "127.0.0.1", port=port or _PLAIN_MQTT), BrokerConfig()
    devices = port or address.MQTT_PORT
    # Controllers have a port of their own, so that no device takes their place.
    beside = devices + 1 if devices < 65535 else devices - 1
    return MqttConfig(host=host or "127.0.0.1", port=beside), BrokerConfig(port=devices)


def _tell(fleet: Fleet, folder: Path, as_json: bool) -> None:
    if as_json:
        emit_json(
            {
                "dir": str(fleet.folder),
                "fleet": fleet.config.fleet,
                "url": fleet.api_url,
                "token_file": str(fleet.token_file),
                "broker_configuration": str(fleet.folder / "broker" / "mosquitto.conf"),
            }
        )
        return
    where = address.device_mqtt(fleet.config)
    typer.echo(f"Made fleet {fleet.config.fleet} in {fleet.folder}")
    typer.echo(f"Devices and people reach it at {where.where} and {fleet.api_url}")
    typer.echo(f"Keep {fleet.keys_folder} safe: who has it signs for every device.")
    if why := address.unknown(fleet.config.host or "localhost"):
        typer.echo(
            f"Note: {fleet.config.host} is not found from here ({why}): give it an address in DNS "
            "or /etc/hosts before devices join, or make the fleet anew with another --host",
            err=True,
        )
    local = is_loopback(fleet.config.mqtt.host)
    wanted = {fleet.config.api.port: "api.port"}
    if local:
        wanted |= {where.port: "broker.port" if fleet.config.broker.port else "mqtt.port"}
        wanted |= {fleet.config.mqtt.port: "mqtt.port"}
    for port, setting in wanted.items():
        if is_taken(port):
            typer.echo(
                f"Note: another program listens on port {port} here: end it, or set {setting} in "
                f"{folder / 'fleet.yaml'} before devices are enrolled",
                err=True,
            )
    typer.echo(f"Next: shoal fleet up --dir {typed(folder)}")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("init")(init)
