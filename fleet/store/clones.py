"""Statements on identities that more than one device has, and how they are noticed.

A boot has a random name and ends for good when the next begins. Where a boot comes back with
another connection after one of another boot, two devices run with one identity: each took the
session of the other. What comes twice from the broker has a session number that its boot had
before, and counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa

from contracts.messages import Status
from fleet.store.documents import dump, load
from fleet.store.schema import DEVICE

KEPT: Final = 8
"""Boots of a device that are remembered, the newest."""

QUIET_S: Final = 24 * 3600.0
"""Seconds without another sign after which clones are no alert any more, and would be a new one."""

Sign = Literal["sessions", "renewal", "certificates"]
"""``sessions``: boots take turns. ``renewal``: a certificate was to be renewed that a newer one
in use has replaced. ``certificates``: two that were renewed with one are both in use."""


class Seen(msgspec.Struct, frozen=True, omit_defaults=True):
    """The newest connection of one boot of a device."""

    boot: str
    session: int
    at: float
    address: str = ""
    certificate: str = ""


class Clone(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of devices that share an identity.

    Attributes:
        since, at: of the first and the newest sign.
        count: signs.
        sign: what the newest was.
        devices: the two (or more) behind it, the newest last, as far as they are known.
        address: who asked, for a renewal.
    """

    since: float
    at: float
    count: int
    sign: Sign
    devices: list[Seen] = []
    address: str = ""


def connected(recent: Sequence[Seen], status: Status, now: float) -> tuple[list[Seen] | None, bool]:
    """What a connection says.

    Args:
        recent: the newest connection of each boot, in the order of arrival.
        status: of the connection, ``online``.
        now: seconds since the epoch.

    Returns:
        The list with this connection, None when it was known; and whether its boot came back
        after another.
    """
    before = next((one for one in recent if one.boot == status.boot), None)
    if before is not None and status.session <= before.session:
        return None, False
    others = [one for one in recent if one.boot != status.boot]
    seen = Seen(status.boot, status.session, now, status.address, status.certificate)
    came_back = before is not None and recent[-1].boot != status.boot
    return [*others, seen][-KEPT:], came_back


def decode_recent(text: str | None) -> list[Seen]:
    """The column `recent`."""
    return load(text, list[Seen]) if text else []


def decode(text: str | None) -> Clone | None:
    """The column `clone`."""
    return load(text, Clone) if text else None


def noted(
    before: Clone | None, sign: Sign, devices: Sequence[Seen], now: float, address: str = ""
) -> tuple[Clone, bool]:
    """What is known with one more sign; and whether it is the first, which is an alert."""
    if before is None or now - before.at > QUIET_S:
        return Clone(now, now, 1, sign, list(devices), address), True
    more = msgspec.structs.replace(
        before,
        at=now,
        count=before.count + 1,
        sign=sign,
        devices=list(devices) or before.devices,
        address=address or before.address,
    )
    return more, False


def facts(clone: Clone) -> dict[str, Any]:
    """What is told of clones: to webhooks, in the log, over HTTP."""
    return {
        "sign": clone.sign,
        "since": clone.since,
        "at": clone.at,
        "count": clone.count,
        "boots": [one.boot for one in clone.devices],
        "addresses": addresses(clone),
    }


def addresses(clone: Clone) -> list[str]:
    """Where the devices are, as far as it is known."""
    known = [one.address for one in clone.devices if one.address]
    return list(dict.fromkeys([*known, *([clone.address] if clone.address else [])]))


def describe(device: str, clone: Clone) -> str:
    """The alert, one sentence."""
    where = " and ".join(addresses(clone)) or "places unknown"
    match clone.sign:
        case "sessions":
            what = f"two devices connect as {device}, from {where}"
        case "renewal":
            what = f"an old certificate of {device} was to be renewed, from {where}"
        case _:
            what = f"two certificates of {device} that were renewed apart are in use, at {where}"
    return (
        f"{what}: one identity is on two devices ({clone.count} signs). Enrol both anew, the "
        f"second under another name: `shoal fleet enroll {device} --replace`"
    )


def note(connection: sa.Connection, device: str, sign: Sign, now: float, address: str = "") -> bool:
    """Records a sign that is not a connection; whether it is the first."""
    row = connection.execute(
        sa.select(DEVICE.c.clone, DEVICE.c.recent).where(DEVICE.c.id == device)
    ).first()
    if row is None:
        return False
    recent = decode_recent(row.recent)[-2:]
    clone, first = noted(decode(row.clone), sign, recent, now, address)
    connection.execute(DEVICE.update().where(DEVICE.c.id == device).values(clone=dump(clone)))
    return first


def every(connection: sa.Connection, since: float = 0.0) -> list[tuple[str, Clone]]:
    """Devices whose identity another has too, with a sign since a moment, by id."""
    rows = connection.execute(
        sa.select(DEVICE.c.id, DEVICE.c.clone)
        .where(DEVICE.c.clone.is_not(None), DEVICE.c.revoked_at.is_(None))
        .order_by(DEVICE.c.id)
    )
    found: list[tuple[str, Any]] = [(row.id, decode(row.clone)) for row in rows]
    return [(device, clone) for device, clone in found if clone.at >= since]
