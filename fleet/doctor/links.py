"""Links to what runs: names, ports, the broker, the controller's HTTP side."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from contracts.connection import is_loopback
from contracts.errors import ShoalError
from contracts.files import typed
from fleet import address
from fleet.api.listening import listen
from fleet.broker import reload
from fleet.broker.run import find_mosquitto, wait_until_connectable
from fleet.client import Client
from fleet.doctor.finding import Finding, Patient
from fleet.identity import applied

_WAIT_S = 5.0


def names(patient: Patient) -> Iterator[Finding]:
    """The addresses of ``fleet.yaml`` are known."""
    config = patient.fleet.config
    asked = {"mqtt.host": config.mqtt.host, "host": config.host}
    if config.device_mqtt is not None:
        asked["device_mqtt.host"] = config.device_mqtt.host
    for setting, host in asked.items():
        if not host:
            continue
        if why := address.unknown(host):
            yield Finding(
                "names", "name-unknown", f"{setting}: {host} is not found ({why})",
                f"set {setting} in {patient.fleet.folder / 'fleet.yaml'}, or give {host} an "
                "address in DNS or /etc/hosts",
            )  # fmt: skip


def program(patient: Patient) -> Iterator[Finding]:
    """The broker's program, where it runs here."""
    if not is_loopback(patient.fleet.config.mqtt.host):
        return
    try:
        find_mosquitto()
    except ShoalError as error:
        yield Finding("broker", error.code, str(error), "sudo apt-get install mosquitto")


def broker(patient: Patient) -> Iterator[Finding]:
    """It is reached from here, with our certificate, and has read its files."""
    fleet = patient.fleet
    mqtt = fleet.controller_mqtt()
    where = mqtt.where
    conf = typed(fleet.folder / "broker" / "mosquitto.conf")
    start = f"shoal fleet up {patient.here} (or mosquitto -c {conf})"
    try:
        socket.create_connection((mqtt.host, mqtt.port), _WAIT_S).close()
    except OSError as error:
        yield Finding("broker", "broker-down", f"nothing listens on {where}: {error}", start)
        return
    again = reload.running(fleet.folder / "broker")
    tell = f"kill -HUP {again}" if again else "pkill -HUP mosquitto, on the broker's machine"
    if mqtt.tls is not None:
        try:
            served = applied.served_certificate(mqtt)
        except ShoalError as error:
            if error.code == "broker-unreachable":
                yield _foreign(where, patient)
            else:
                yield Finding("broker", error.code, f"the broker on {where}: {error}", tell)
            return
        if not applied.is_applied(fleet.folder / "ca", served):
            yield Finding(
                "broker",
                "broker-old",
                f"the broker on {where} has not read its newest files: who was revoked since, "
                "or given a group, counts as before",
                tell,
            )
    try:
        wait_until_connectable(mqtt, _WAIT_S)
    except (ShoalError, OSError):
        yield _foreign(where, patient)


def _foreign(where: str, patient: Patient) -> Finding:
    return Finding(
        "broker",
        "broker-foreign",
        f"what listens on {where} lets the controller not in, or is no MQTT 5 broker",
        f"end it, or set mqtt.port in {patient.fleet.folder / 'fleet.yaml'}",
    )


def api(patient: Patient) -> Iterator[Finding]:
    """The controller answers under the fleet's address."""
    fleet = patient.fleet
    own = fleet.folder / "ca" / "ca.pem"
    try:
        token = fleet.token_file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        token = ""
    url = fleet.api_url
    with Client(url, token or "none", ca=own if own.is_file() else None) as client:
        try:
            ready = client.ready()
        except ShoalError as error:
            if not address.unknown(fleet.config.host or "localhost"):  # else `names` has said it
                yield _silent(patient, error)
            return
        if not ready.ready:
            lacks = ", ".join(sorted(name for name, there in ready.parts.items() if not there))
            yield Finding(
                "controller", "not-ready", f"the controller on {url} is without: {lacks}",
                f"shoal fleet doctor {patient.here}, when what is named above is mended", "soon",
            )  # fmt: skip
        if not token:
            return
        try:
            client.devices_page(limit=1)
        except ShoalError as error:
            if error.code == "unauthorized":
                yield Finding(
                    "controller", "token-refused",
                    f"the controller on {url} does not know {fleet.token_file}",
                    f"end the other controller on that port, or set api.port in "
                    f"{fleet.folder / 'fleet.yaml'}",
                )  # fmt: skip


def _silent(patient: Patient, error: ShoalError) -> Finding:
    """Why the API does not answer: nothing is there, something else is, or its certificate."""
    config, url = patient.fleet.config, patient.fleet.api_url
    try:
        for one in listen(address.api_host(config), config.api.port):
            one.close()
    except ShoalError as taken:
        if taken.code == "port-taken":
            return Finding(
                "controller", "api-foreign",
                f"another program listens on port {config.api.port}, or with a certificate that "
                f"is not for {url}: {error}",
                f"end it, or set api.port in {patient.fleet.folder / 'fleet.yaml'}; a controller "
                "of this fleet must be restarted",
            )  # fmt: skip
        return Finding(
            "controller", taken.code, str(taken),
            f"set api.host in {patient.fleet.folder / 'fleet.yaml'}",
        )  # fmt: skip
    return Finding(
        "controller", "controller-down", f"no controller answers on {url}",
        f"shoal fleet up {patient.here} (or shoal fleet serve, beside a broker that runs)",
    )  # fmt: skip
