"""``fleet.yaml``: the settings of a fleet."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from contracts.config import MqttConfig
from contracts.errors import InputError
from contracts.messages import Name
from fleet.ingest.quota import Quota
from fleet.store.telemetry import Retention

CONFIG: Final = "fleet.yaml"
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class ApiConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The HTTP side.

    Attributes:
        host, port: where it listens; beyond loopback only with TLS.
        certificate, key: PEM files of the server, relative to the folder.
        url: under which devices and people reach it; None: made from host and port.
        requests_per_s, burst: of one token.
    """

    host: str = "127.0.0.1"
    port: Port = 8080
    certificate: str | None = None
    key: str | None = None
    url: str | None = None
    requests_per_s: Annotated[float, msgspec.Meta(gt=0)] = 200.0
    burst: Annotated[int, msgspec.Meta(ge=1)] = 400


class BrokerConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The generated configuration of mosquitto.

    Attributes:
        plugin: where the broker finds its dynamic security plugin, with which sessions of
            devices that left are ended; None: it is looked for here; empty: none.
    """

    plugin: str | None = None


class FleetConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """``fleet.yaml``.

    Attributes:
        fleet: the fleet's name.
        mqtt: the controller's way to the broker.
        device_mqtt: the devices' way to it; None: as the controller's.
        mutual_tls: devices and controller have certificates. False only on loopback.
        broker: of the generated configuration.
        http_repository: devices fetch models over HTTP; False: blocks over MQTT.
        database: a SQLAlchemy URL; empty: SQLite in the folder.
        admit_unknown: list devices that were never enrolled (rehearsals without certificates).
        shared_ingest: several processes share the ingest by shared subscriptions (see
            `shoal fleet ingest`); not with the embedded broker.
        home_assistant: devices tell Home Assistant what they have, and it may read it; asked for
            of the devices that are enrolled from then on (`home_assistant` in their agent.yaml).
        quota: what one device may store on a day.
        engine_s: most seconds between two steps of the rollouts.
    """

    fleet: Name
    schema: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    mqtt: MqttConfig = MqttConfig()
    device_mqtt: MqttConfig | None = None
    mutual_tls: bool = False
    http_repository: bool = True
    api: ApiConfig = ApiConfig()
    broker: BrokerConfig = BrokerConfig()
    database: str = ""
    admit_unknown: bool = False
    shared_ingest: bool = False
    home_assistant: bool = False
    retention: Retention = Retention()
    quota: Quota = Quota()
    engine_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 1.0


def check(config: FleetConfig) -> None:
    """What must hold between the fields of a configuration."""
    local = {"localhost", "127.0.0.1", "::1"}
    if config.api.host not in local and not (config.api.certificate and config.api.key):
        raise InputError(
            "tls-needed",
            f"the API on {config.api.host} needs api.certificate and api.key: without TLS it "
            "listens on loopback alone",
        )
    for mqtt in (config.mqtt, config.device_mqtt):
        if mqtt is not None and mqtt.host not in local and not (config.mutual_tls or mqtt.tls):
            raise InputError("tls-needed", f"a broker on {mqtt.host} needs mutual_tls: true")
    if config.api.url is not None and urlsplit(config.api.url).scheme not in ("http", "https"):
        raise InputError("bad-config", "api.url is not an http or https URL")
