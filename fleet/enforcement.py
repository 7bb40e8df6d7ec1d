"""What the broker enforces: written, read by the broker at once where it can be told, or said.

Every change of who may do what ends here: an enrolment, a revocation, another group. The
authority never writes a newer certificate for the broker without all else before it, so a broker
that serves the newest one has read all of it (:mod:`fleet.identity.applied`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from contracts.config import MqttConfig
from contracts.errors import UnavailableError
from fleet.broker import reload
from fleet.identity import Identity, applied

if TYPE_CHECKING:
    from fleet.folder import Fleet

WAIT_S: Final = 5.0
"""Seconds that a broker gets to read its files."""

_POLL_S: Final = 0.1


def apply(fleet: Fleet, identity: Identity, *, revoked: bool = False) -> reload.Reload:
    """Writes access control (and the revocation list), and has the broker read both.

    Args:
        fleet: whose broker.
        identity: its authority.
        revoked: certificates were revoked: the list is written too.
    """
    if not fleet.config.mutual_tls:
        return reload.Reload(signalled=True)
    acl = fleet.folder / "broker" / "acl"
    before = acl.read_bytes() if acl.exists() else b""
    fleet.write_broker_configuration(identity)
    if not revoked and acl.read_bytes() == before:
        return reload.Reload(signalled=True)
    identity.own.write_revocations()
    identity.own.renew_broker()
    return reload.reload(fleet.folder / "broker")


def is_read(fleet: Fleet, mqtt: MqttConfig) -> bool:
    """Whether the broker has read the newest files, or is away and will when it starts.

    Raises:
        UnavailableError: ``broker-refused``; its certificate is not to be trusted.
        InputError: ``bad-certificate``; ours cannot be used.
    """
    if mqtt.tls is None:
        return True
    try:
        served = applied.served_certificate(mqtt)
    except UnavailableError as error:
        if error.code == "broker-unreachable":
            return True
        raise
    return applied.is_applied(fleet.folder / "ca", served)


def wait_until_read(fleet: Fleet, mqtt: MqttConfig, seconds: float = WAIT_S) -> bool:
    """As :func:`is_read`, with time for a broker that was just told."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if is_read(fleet, mqtt):
                return True
        except UnavailableError:
            return False
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
