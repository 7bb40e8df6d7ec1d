"""Which version is published for each slot of a device. Reads the store, changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import sqlalchemy as sa

from contracts import program
from contracts.messages import BundleRef
from fleet.conductor.target import Signed, misfit
from fleet.repository.releases import ordered
from fleet.rollout.state import Header
from fleet.store import bundles
from fleet.store.bundles import Published
from fleet.store.devices import Device
from fleet.store.documents import load
from fleet.store.schema import ROLLOUT

_LOOKED_AT: Final = 500
_STOPPED: Final = frozenset({"stopped", "aborted", "rolling-back"})


class Shelf:
    """What is published at one moment.

    Args:
        connection: one view of the database.
        signed: says which releases of the agent there are.

    Attributes:
        content: all that is published; the offers to a device change with it and with the device.
    """

    def __init__(self, connection: sa.Connection, signed: Signed) -> None:
        stopped = _stopped(connection)
        self._models: dict[str, list[Published]] = {}
        for one in bundles.every(connection):
            if not one.withdrawn and one.ref not in stopped:
                self._models.setdefault(one.ref.name, []).append(one)
        self._releases = {
            program.ref(version): tags
            for version, tags in signed().items()
            if program.ref(version) not in stopped
        }
        self._misfits: dict[tuple[str, str], bool] = {}
        refs = {one.ref for some in self._models.values() for one in some}
        self.content = refs, self._releases

    def offers(self, device: Device) -> dict[str, BundleRef]:
        """For each slot that serves: the newest version for this device; its own if none is."""
        slots = device.reported.slots if device.reported else {}
        return {
            slot: max([report.active, *self._for(device, slot, report.active)], key=_order)
            for slot, report in slots.items()
            if report.active is not None
        }

    def _for(self, device: Device, slot: str, runs: BundleRef) -> Iterable[BundleRef]:
        if program.is_program(slot, runs):
            tag = device.reported.platform.get(program.TAG, "") if device.reported else ""
            return [ref for ref, tags in self._releases.items() if tag in tags]
        return [
            one.ref
            for one in self._models.get(runs.name, [])
            if _order(one.ref) > _order(runs) and not self._misfit(one, device.hardware)
        ]

    def _misfit(self, one: Published, hardware: str) -> bool:
        key = (one.ref.manifest_sha256, hardware)
        if key not in self._misfits:
            self._misfits[key] = misfit(one.manifest, hardware) is not None
        return self._misfits[key]


def _order(ref: BundleRef) -> tuple[int, ...]:
    return ordered(ref.version)


def _stopped(connection: sa.Connection) -> set[BundleRef]:
    """Versions whose newest rollout was stopped, by a gate or a person."""
    query = sa.select(ROLLOUT.c.header).order_by(ROLLOUT.c.number.desc()).limit(_LOOKED_AT)
    found: dict[BundleRef, str] = {}
    for row in connection.execute(query):
        header = load(row.header, Header)
        found.setdefault(header.target, header.status)
    return {ref for ref, status in found.items() if status in _STOPPED}
