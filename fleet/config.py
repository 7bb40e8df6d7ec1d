"""``fleet.yaml``: the settings of a fleet."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from contracts.config import MqttConfig
from contracts.connection import is_loopback
from contracts.errors import InputError
from contracts.messages import Name
from fleet.broker.mosquitto import DEVICES
from fleet.egress import Allowed
from fleet.identity.enrolment import DeviceSettings
from fleet.ingest.quota import Quota
from fleet.openid.config import OpenIdConfig
from fleet.openid.config import check as check_openid
from fleet.pooled import PoolConfig
from fleet.smtp import MailConfig
from fleet.smtp import check as check_mail
from fleet.store.retention import Retention

CONFIG: Final = "fleet.yaml"
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class ApiConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The HTTP side.

    Attributes:
        host: where it listens, beyond loopback only with TLS; None: everywhere, where the fleet
            has an address, else on loopback; empty: everywhere.
        port: where it listens.
        certificate, key: PEM files of the server, relative to the folder; None: of the fleet's
            authority, where the fleet has an address.
        url: under which devices and people reach it; None: made from the address.
        requests_per_s, burst: of one token.
        connections: at once, of all; connections_per_address: of one address.
        public_repository: anybody may read the repository, as from a CDN; False: where there is
            TLS or a proxy, devices with their certificate and people with a token.
        trusted_proxies: addresses of reverse proxies, whose word on who asks is taken.
    """

    host: str | None = None
    port: Port = 8080
    certificate: str | None = None
    key: str | None = None
    url: str | None = None
    requests_per_s: Annotated[float, msgspec.Meta(gt=0)] = 200.0
    burst: Annotated[int, msgspec.Meta(ge=1)] = 400
    connections: Annotated[int, msgspec.Meta(ge=8, le=100_000)] = 600
    connections_per_address: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 200
    public_repository: bool = False
    trusted_proxies: Annotated[list[str], msgspec.Meta(max_length=100)] = []


class BrokerConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The generated configuration of mosquitto.

    Attributes:
        port: for devices, where controllers on this machine have another (`mqtt`); None: they
            share it.
        plugin: where the broker finds its dynamic security plugin, with which sessions of
            devices that left are ended; None: it is looked for here; empty: none.
    """

    port: Port | None = None
    plugin: str | None = None


class FleetConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """``fleet.yaml``.

    Attributes:
        fleet: the fleet's name.
        host: the one address, a name or a number, under which devices and people reach the
            fleet; empty: this machine alone. Broker, repository, API and the names in their
            certificates follow from it (:mod:`fleet.address`).
        names: more names for the certificates of broker and API.
        devices: how many the broker is made for.
        mqtt: the controller's way to the broker.
        device_mqtt: the devices' way to it; None: by `host`, or as the controller's.
        mutual_tls: devices and controller have certificates. False only on loopback.
        broker: of the generated configuration.
        http_repository: devices fetch models over HTTP; False: blocks over MQTT.
        database: a SQLAlchemy URL; empty: SQLite in the folder.
        admit_unknown: list devices that were never enrolled (rehearsals without certificates).
        shared_ingest: several processes share the ingest by shared subscriptions (see
            `shoal fleet ingest`); not with the embedded broker.
        home_assistant: devices tell Home Assistant what they have, and it may read it; asked for
            of the devices that are enrolled from then on (`home_assistant` in their agent.yaml).
        home_assistant_installs: its users may install on a device what is published for it: as a
            rollout to that device alone, with the usual trial and gates.
        device_settings: what stands in the agent.yaml of devices that are enrolled from then on.
        quota: what one device may store on a day.
        pooled: of which groups figures are pooled, and how few devices are never told of.
        webhook_hosts: names, addresses and networks that are not public, and to which webhooks
            may be sent.
        mail: the server that takes mail of alerts; None: they are told by webhooks alone.
        openid: whose accounts may sign in to the dashboard; None: tokens alone. Those always may.
        engine_s: most seconds between two steps of the rollouts.
    """

    fleet: Name
    schema: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    host: Annotated[str, msgspec.Meta(max_length=253)] = ""
    names: Annotated[list[str], msgspec.Meta(max_length=100)] = []
    devices: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = DEVICES
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
    home_assistant_installs: bool = False
    device_settings: DeviceSettings = DeviceSettings()
    retention: Retention = Retention()
    quota: Quota = Quota()
    pooled: PoolConfig = PoolConfig()
    webhook_hosts: Annotated[list[str], msgspec.Meta(max_length=100)] = []
    mail: MailConfig | None = None
    openid: OpenIdConfig | None = None
    engine_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 1.0


def check(config: FleetConfig) -> None:
    """What must hold between the fields of a configuration.

    Raises:
        InputError: ``tls-needed``, ``bad-config``.
    """
    api = config.api
    public = bool(config.host) and not is_loopback(config.host)
    if public and not config.mutual_tls:
        raise InputError(
            "tls-needed",
            f"a fleet on {config.host} needs mutual_tls: true: without certificates it is for "
            "this machine alone",
        )
    if bool(api.certificate) != bool(api.key):
        raise InputError("bad-config", "api.certificate and api.key go together: set both")
    if api.host is not None and not is_loopback(api.host) and not (api.certificate or public):
        raise InputError(
            "tls-needed",
            f"the API on {api.host or 'all addresses'} needs api.certificate and api.key, or host: "
            "without TLS it listens on loopback alone",
        )
    if config.home_assistant_installs and not config.home_assistant:
        raise InputError("bad-config", "home_assistant_installs needs home_assistant: true")
    for mqtt in (config.mqtt, config.device_mqtt):
        if mqtt is not None and not (is_loopback(mqtt.host) or config.mutual_tls or mqtt.tls):
            raise InputError("tls-needed", f"a broker on {mqtt.host} needs mutual_tls: true")
    if api.url is not None and urlsplit(api.url).scheme not in ("http", "https"):
        raise InputError("bad-config", "api.url is not an http or https URL")
    Allowed(config.webhook_hosts)
    if config.mail is not None:
        check_mail(config.mail)
    if config.openid is not None:
        check_openid(config.openid)
    if config.broker.port == config.mqtt.port:
        raise InputError(
            "bad-config",
            f"broker.port and mqtt.port are both {config.mqtt.port}: devices and controllers have "
            "a port each",
        )
