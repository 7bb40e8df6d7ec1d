"""The configuration of mosquitto: mutual TLS, names from certificates, access control, limits.

Source: mosquitto.conf(5), mosquitto 2.0.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from contracts import limits
from contracts.connection import is_loopback
from contracts.errors import InputError
from fleet import durable
from fleet.broker import sessions
from fleet.broker.acl import Application, acl_file
from fleet.broker.reload import PID_FILE

DEVICES: Final = 1000
"""Devices that a broker is made for unless it is told."""

EVERYWHERE: Final = ""
"""As a listener's address: all of this machine's, of IPv4 and IPv6."""

_SPARE_BYTES: Final = 8 * limits.KIB
_SPARE_FILES: Final = 200
_CONTROLLERS: Final = 200
"""Connections of controllers and their helpers, which have a listener of their own."""


class Credentials(msgspec.Struct, frozen=True):
    """PEM files for mutual TLS.

    Attributes:
        ca: certificates of the authority that devices' certificates come from.
        certificate: of the broker.
        key: of the broker.
        crl: the list of revoked certificates; must exist.
    """

    ca: Path
    certificate: Path
    key: Path
    crl: Path


class Size(msgspec.Struct, frozen=True):
    """What a broker may use.

    Attributes:
        connections: of devices at once.
        queued_bytes: that it keeps for one client that is away, or slow.
        memory_bytes: of its heap, without that of TLS.
    """

    connections: int
    queued_bytes: int
    memory_bytes: int

    @classmethod
    def of(cls, devices: int) -> Size:
        """For so many devices."""
        queued = min(512 * limits.MIB, max(64 * limits.MIB, devices * 64 * limits.KIB))
        return cls(
            # Two each, as a lost connection is noticed late, and some for people's tools.
            connections=2 * devices + 100,
            queued_bytes=queued,
            memory_bytes=128 * limits.MIB + 4 * queued + devices * 64 * limits.KIB,
        )

    @property
    def files(self) -> int:
        """Open files of the process."""
        return self.connections + _CONTROLLERS + _SPARE_FILES


def _line(option: str, value: object) -> str:
    """One line of the configuration; a value can hold no further line."""
    text = str(value)
    if not text or any(ord(char) < 32 for char in text) or text != text.strip():
        raise InputError("bad-config", f"mosquitto's {option} cannot be {text[:100]!r}")
    return f"{option} {text}"


def write_configuration(
    folder: Path,
    *,
    port: int,
    host: str = "127.0.0.1",
    controllers_port: int | None = None,
    controllers_host: str = "127.0.0.1",
    fleet: str | None = None,
    groups: Mapping[str, Iterable[str]] | None = None,
    revoked: Iterable[str] = (),
    credentials: Credentials | None = None,
    persistence: bool = True,
    user: str | None = None,
    plugin: Path | None = None,
    home_assistant: bool = False,
    installs: bool = False,
    applications: Sequence[Application] = (),
    size: Size | None = None,
) -> Path:
    """Writes ``mosquitto.conf`` and, with credentials, ``acl``.

    Args:
        folder: for the configuration; made when missing.
        port: of the listener.
        host: the address that the broker listens on; :data:`EVERYWHERE`: all of them.
        controllers_port: of a second listener, for controllers on this machine (with
            credentials). On the first each certificate then has one connection and one session.
        controllers_host: of that, an address of this machine alone.
        fleet: whose topics the ACL opens.
        groups: for each device, its groups.
        revoked: devices that the ACL denies everything.
        credentials: None: plain TCP without access control, on loopback alone.
        persistence: keep retained messages and sessions on disk (in `folder`).
        user: whom a broker started as root becomes; None: who owns these files, us. Another
            user must be given the files.
        plugin: mosquitto's dynamic security plugin, to end sessions (with credentials).
        home_assistant: see :func:`fleet.broker.acl.acl_file`.
        installs: likewise.
        applications: likewise.
        size: limits; None: for :data:`DEVICES`, or as many as there are.

    Returns:
        The path of ``mosquitto.conf``.

    Raises:
        InputError: ``tls-needed``, ``bad-name``, ``bad-config``.
    """
    if credentials is None and not is_loopback(host):
        raise InputError(
            "tls-needed",
            f"a broker on {host or 'all addresses'} needs TLS: plain connections are for loopback "
            "alone",
        )
    if credentials is not None and fleet is None:
        raise InputError("bad-config", "access control needs the fleet's name")
    groups = groups or {}
    size = size or Size.of(max(DEVICES, len(groups)))
    durable.make_folder(folder, 0o700)
    lines = [
        "# Generated by shoal: changes are lost.",
        "per_listener_settings false",
        _line("user", user or pwd.getpwuid(os.geteuid()).pw_name),
        "set_tcp_nodelay true",
        # A device that is away keeps what was sent at QoS 1, within a bound in bytes. The number
        # is not 0, which is no bound either: mosquitto 2.0 then ends the connection of who
        # writes what it must not, instead of refusing the one message.
        f"max_queued_messages {10 * limits.MIB}",
        f"max_queued_bytes {size.queued_bytes}",
        f"memory_limit {size.memory_bytes}",
        # The controller's ingest commits thousands at once; each client sets its own, lower bound.
        f"max_inflight_messages {limits.MAX_IN_FLIGHT_INGEST}",
        f"max_packet_size {limits.MAX_MESSAGE_BYTES + _SPARE_BYTES + limits.MAX_BLOCK_BYTES}",
        f"max_keepalive {limits.MAX_KEEPALIVE_S}",
        "persistent_client_expiration 14d",
        _line("pid_file", folder.resolve() / PID_FILE),
        "log_dest stderr",
        "log_type error",
        "log_type warning",
    ]
    if persistence:
        lines += [
            "persistence true",
            _line("persistence_location", f"{folder.resolve()}/"),
            "autosave_interval 60",
        ]
    else:
        lines.append("persistence false")
    if credentials is None:
        lines.append("allow_anonymous true")
        lines += _listener(port, host, size.connections)
    else:
        assert fleet is not None
        acl = folder / "acl"
        rules = acl_file(
            fleet, groups, revoked=revoked, home_assistant=home_assistant, installs=installs,
            applications=applications,
        )  # fmt: skip
        durable.write(acl, rules.encode(), mode=0o600)
        lines += ["allow_anonymous false", _line("acl_file", acl.resolve())]
        if plugin is not None:
            lines += [
                _line("plugin", plugin),
                _line("plugin_opt_config_file", sessions.write_state(folder).resolve()),
            ]
        spare = 0 if controllers_port else _CONTROLLERS
        lines += _listener(port, host, size.connections + spare, credentials)
        if controllers_port is not None:
            # Whatever devices do, the controller finds a place.
            lines.append("use_username_as_clientid true")
            lines += _listener(controllers_port, controllers_host, _CONTROLLERS, credentials)
    path = folder / "mosquitto.conf"
    durable.write(path, ("\n".join(lines) + "\n").encode(), mode=0o600)
    return path


def _listener(
    port: int, host: str, connections: int, credentials: Credentials | None = None
) -> list[str]:
    lines = [
        _line("listener", f"{port} {host}".strip()),
        f"max_connections {connections}",
        "max_qos 1",
    ]
    if credentials is not None:
        lines += [
            "tls_version tlsv1.2",
            "require_certificate true",
            "use_identity_as_username true",
            _line("cafile", credentials.ca.resolve()),
            _line("certfile", credentials.certificate.resolve()),
            _line("keyfile", credentials.key.resolve()),
            _line("crlfile", credentials.crl.resolve()),
        ]
    return lines
