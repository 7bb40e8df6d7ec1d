"""What devices wait for, as an operator reads it: their own words, and how far downloads are."""

from __future__ import annotations

from typing import Final

import msgspec
import sqlalchemy as sa

from contracts import progress
from contracts.clock import can_be_right
from contracts.messages import UpdateEvent
from fleet.rollout.selector import OWN
from fleet.store.devices import Device
from fleet.store.schema import DEVICE, TRAIT

MAX_CHARS: Final = 500
"""Characters of a device's own words that are shown."""


class Waiting(msgspec.Struct, frozen=True):
    """One thing that a device waits for.

    Attributes:
        code: stable: ``disk-full``, ``clock-wrong``, ``slow-link``, ...
        message: for people.
        slot: whose update waits; empty: the whole device.
        since: by this controller's clock; None: nobody knows.
    """

    code: str
    message: str
    slot: str = ""
    since: float | None = None


def of(device: Device) -> list[Waiting]:
    """What one device waits for; nothing when it gets on."""
    found = []
    reported = device.reported
    if reported is not None:
        ahead = reported.clock_offset_s or 0.0
        said = device.reported_at or device.seen_at or 0.0
        for wait in reported.waits:
            since = wait.since - ahead
            found.append(
                Waiting(
                    wait.reason.code[:64],
                    wait.reason.message[:MAX_CHARS],
                    wait.slot,
                    since if can_be_right(since, said) else None,
                )
            )
    slow = download(device.update)
    return found if slow is None or found else [slow]


def download(event: UpdateEvent | None) -> Waiting | None:
    """A download that is under way: its link is what it waits for."""
    if event is None or event.reason is not None:
        return None
    text = progress.download(event)
    return Waiting("slow-link", f"downloads {text}", event.slot) if text else None


def counts(connection: sa.Connection) -> list[tuple[str, int]]:
    """Devices that are connected and wait, by what they wait for, most first."""
    query = (
        sa.select(TRAIT.c.value, sa.func.count())
        .join(DEVICE, DEVICE.c.id == TRAIT.c.device)
        .where(
            TRAIT.c.key == f"{OWN}waits",
            DEVICE.c.state == "online",
            DEVICE.c.revoked_at.is_(None),
        )
        .group_by(TRAIT.c.value)
    )
    found = [(str(code), int(count)) for code, count in connection.execute(query)]
    return sorted(found, key=lambda one: (-one[1], one[0]))
