"""What follows from a fleet's one address: where its parts are, and what certificates name.

Values in, values out. ``host`` of ``fleet.yaml`` is the address; what is set beside it (``mqtt``,
``device_mqtt``, ``api``) wins.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import psutil

from contracts.config import MqttConfig, endpoint
from contracts.connection import is_loopback
from contracts.errors import InputError
from fleet.broker.mosquitto import EVERYWHERE
from fleet.config import FleetConfig

LOCAL: Final = ("localhost", "127.0.0.1", "::1")
"""Names under which parts of the fleet on one machine reach each other."""

AUTO: Final = "auto"
MQTT_PORT: Final = 8883
API_PORT: Final = 8443

_REJECT: Final = 0x0200
"""Of a route's flags: it leads nowhere (RTF_REJECT)."""


class Listener(msgspec.Struct, frozen=True):
    """Where the broker listens.

    Attributes:
        port: for devices.
        host: the address; :data:`~fleet.broker.mosquitto.EVERYWHERE`: all of this machine's.
        controllers_port: of a listener for controllers on this machine; None: they share.
    """

    port: int
    host: str
    controllers_port: int | None = None


def is_public(config: FleetConfig) -> bool:
    """Whether the fleet has an address beyond this machine."""
    return bool(config.host) and not is_loopback(config.host)


def device_mqtt(config: FleetConfig) -> MqttConfig:
    """The devices' way to the broker, without certificates."""
    if config.device_mqtt is not None:
        return config.device_mqtt
    if is_public(config) and is_loopback(config.mqtt.host):
        port = config.broker.port or config.mqtt.port
        return msgspec.structs.replace(config.mqtt, host=config.host, port=port, tls=None)
    return msgspec.structs.replace(config.mqtt, tls=None)


def listener(config: FleetConfig) -> Listener:
    """Where the generated broker listens."""
    devices = device_mqtt(config)
    if devices.host == "localhost":
        return Listener(devices.port, "127.0.0.1")
    if is_loopback(devices.host):
        return Listener(devices.port, devices.host)
    # An address of the fleet need not be one of this machine: it may be behind a router.
    apart = is_loopback(config.mqtt.host) and config.mqtt.port != devices.port
    return Listener(devices.port, EVERYWHERE, config.mqtt.port if apart else None)


def controllers_host(config: FleetConfig) -> str:
    """Where the broker's listener for controllers on this machine is."""
    host = config.mqtt.host
    return host if is_loopback(host) and host != "localhost" else "127.0.0.1"


def api_host(config: FleetConfig) -> str:
    """Where the API listens; empty: on all addresses."""
    if config.api.host is not None:
        return config.api.host
    return EVERYWHERE if is_public(config) else "127.0.0.1"


def has_own_certificate(config: FleetConfig) -> bool:
    """Whether the API's certificate is one of the fleet's authority."""
    return is_public(config) and config.api.certificate is None


def api_url(config: FleetConfig) -> str:
    """Under which devices and people reach the API."""
    api = config.api
    if api.url:
        return api.url.rstrip("/")
    secure = bool(api.certificate) or has_own_certificate(config)
    host = config.host if is_public(config) else api_host(config) or "127.0.0.1"
    return f"{'https' if secure else 'http'}://{endpoint(host, api.port)}"


def names(config: FleetConfig) -> list[str]:
    """Names and addresses that the certificates of broker and API have."""
    ways = [config.host, config.mqtt.host, device_mqtt(config).host]
    return list(dict.fromkeys(name for name in (*ways, *config.names, *LOCAL) if name))


# This machine. ------------------------------------------------------------------------------


def checked(host: str) -> str:
    """A name, or an address without brackets.

    Raises:
        InputError: ``bad-host``.
    """
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        labels = bare.rstrip(".").split(".")
        good = len(bare) <= 253 and all(_is_label(label) for label in labels)
        if not good or labels[-1].isdigit():
            raise InputError(
                "bad-host",
                f"--host {host[:100]!r} is not a host name or an address: expected for example "
                "fleet.example.org, 192.0.2.7, 2001:db8::7 or auto; ports have options of their "
                "own",
            ) from None
        return bare.rstrip(".").lower()
    if address.is_unspecified or address.is_multicast or "%" in bare:
        raise InputError(
            "bad-host",
            f"--host {host[:100]}: devices must reach this machine under it; name one of its "
            "addresses, a name, or auto",
        )
    return str(address)


def unknown(host: str) -> str:
    """Why a host is not found from here; empty: it is."""
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        return str(error)
    return ""


def _is_label(label: str) -> bool:
    plain = label.replace("-", "").replace("_", "")
    return 0 < len(label) <= 63 and plain.isascii() and plain.isalnum() and label[0] != "-"


def this_machine() -> str:
    """The address under which others reach this machine.

    Raises:
        InputError: ``bad-host``; it has none, or several.
    """
    up = {name for name, facts in psutil.net_if_stats().items() if facts.isup}
    found = {
        name: [one.address for one in addresses if one.family in (socket.AF_INET, socket.AF_INET6)]
        for name, addresses in psutil.net_if_addrs().items()
        if name in up
    }
    return choose(found, default_interface(_routes("route"), _routes("ipv6_route")))


def choose(addresses: Mapping[str, Sequence[str]], default: str | None) -> str:
    """The address that others reach a machine under.

    Args:
        addresses: of each network interface.
        default: the interface that leads to all else, where it is known.

    Raises:
        InputError: ``bad-host``; none of them, or several.
    """
    usable = {
        name: sorted((one for one in map(_usable, found) if one), key=lambda one: one.version)
        for name, found in addresses.items()
    }
    if default is not None and usable.get(default):
        return str(usable[default][0])
    firsts = [str(found[0]) for _, found in sorted(usable.items()) if found]
    if len(firsts) == 1:
        return firsts[0]
    what = f"several addresses: {', '.join(firsts)}" if firsts else "no address that others reach"
    raise InputError(
        "bad-host", f"--host auto: this machine has {what}; name the one that devices reach"
    )


def _usable(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:  # an address of a link has its interface behind it
        return None
    local = address.is_loopback or address.is_link_local or address.is_unspecified
    return None if local or address.is_multicast else address


def default_interface(ipv4: str, ipv6: str) -> str | None:
    """The interface that leads to all else.

    Args:
        ipv4: the system's routes, as Linux tells them in ``/proc/net/route``.
        ipv6: likewise, ``/proc/net/ipv6_route``; asked where IPv4 leads nowhere.
    """
    for parts in map(str.split, ipv4.splitlines()):
        if len(parts) > 7 and parts[1] == parts[7] == "0" * 8:
            return parts[0]
    for parts in map(str.split, ipv6.splitlines()):
        # Where nothing leads out, the system has a default route that refuses.
        if len(parts) > 9 and parts[:2] == ["0" * 32, "00"] and not int(parts[8], 16) & _REJECT:
            return parts[9]
    return None


def _routes(name: str) -> str:
    """Of Linux; elsewhere none are known."""
    try:
        return (Path("/proc/net") / name).read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""
