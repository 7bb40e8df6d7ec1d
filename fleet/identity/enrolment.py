"""What an enrolment is made of: what all devices are told, and one device's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from contracts import codec, wording
from contracts.config import (
    AgentConfig,
    ExamplesConfig,
    MqttConfig,
    ServingConfig,
    SourceConfig,
    TlsConfig,
)
from contracts.errors import InputError
from contracts.messages import DeviceLabels
from contracts.topics import check_name
from fleet.broker.acl import CONTROLLER, READER
from fleet.identity.registry import Profile

_RESERVED: Final = frozenset({CONTROLLER, READER, "shoal-broker", "shoal-api"})


class DeviceSettings(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What an operator decides for the devices that it provisions (`agent.yaml` says the meaning).

    It stands in each device's ``agent.yaml``, which the device's owner can read and change.
    """

    sources: Annotated[list[SourceConfig], msgspec.Meta(max_length=32)] = []
    serving: ServingConfig = ServingConfig()
    telemetry_s: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 10.0
    idle_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 900.0
    prometheus_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    share_logs: bool = True
    examples: ExamplesConfig = ExamplesConfig()


class Enrolment(msgspec.Struct, frozen=True):
    """Where devices find the fleet; what every ``agent.yaml`` of the fleet shares.

    Attributes:
        mqtt: the broker; its `tls` is filled in when `mutual_tls`.
        trust_root: the text of the repository's ``root.json``.
        repository_url: base URL of the repository; None: blocks over MQTT.
        renewal_url: where a device asks for its next certificate; None: it cannot.
        mutual_tls: devices get certificates. False only for brokers on loopback.
        home_assistant: devices tell Home Assistant what they have.
        settings: what the operator decides for them.
    """

    mqtt: MqttConfig
    trust_root: str
    repository_url: str | None = None
    renewal_url: str | None = None
    mutual_tls: bool = True
    home_assistant: bool = False
    settings: DeviceSettings = DeviceSettings()


def make_profile(device: str, board: str, labels: DeviceLabels, groups: Sequence[str]) -> Profile:
    """What is decided about a device, checked.

    Raises:
        InputError: ``bad-name``, ``reserved-name``.
    """
    if check_name(device, "device") in _RESERVED:
        raise InputError("reserved-name", f"{device} is a name of the fleet's own parts")
    try:
        return codec.convert(
            {"device": device, "board": board, "labels": labels, "groups": list(groups)}, Profile
        )
    except msgspec.ValidationError as error:
        raise InputError("bad-name", f"{device}: {wording.of(error)}") from None


def make_config(
    fleet: str, profile: Profile, where: Enrolment, tls: TlsConfig | None
) -> AgentConfig:
    """A device's ``agent.yaml``."""
    return AgentConfig(
        fleet=fleet,
        device=profile.device,
        board=profile.board,
        trust_root=where.trust_root,
        mqtt=msgspec.structs.replace(where.mqtt, tls=tls),
        repository_url=where.repository_url,
        renewal_url=where.renewal_url,
        labels=profile.labels,
        groups=profile.groups,
        home_assistant=where.home_assistant,
        **msgspec.structs.asdict(where.settings),
    )
