"""Labels and groups of many devices at once: what operators give, not what devices report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from contracts import limits
from contracts.errors import InputError
from contracts.messages import DeviceLabels
from contracts.topics import check_name
from fleet import enforcement
from fleet.folder import Fleet
from fleet.store import Store, audit, desired, devices
from fleet.store.entries import Actor

MAX_DEVICES: Final = 20_000
"""Devices of one change."""

MAX_GROUPS: Final = 64
MAX_VALUE: Final = 64
_CHUNK: Final = 200
_NAMED: Final = 20


class Relabelling(msgspec.Struct, frozen=True):
    """What changes of each device.

    Attributes:
        labels: given, or given another value.
        unlabel: labels that are taken away.
        join, leave: groups.
    """

    labels: DeviceLabels = {}
    unlabel: list[str] = []
    join: list[str] = []
    leave: list[str] = []

    def of(
        self, labels: Mapping[str, str], groups: Sequence[str]
    ) -> tuple[DeviceLabels, list[str]]:
        """What a device has afterwards."""
        gone, left = set(self.unlabel), set(self.leave)
        kept = {key: value for key, value in labels.items() if key not in gone}
        members = dict.fromkeys([*(g for g in groups if g not in left), *self.join])
        return {**kept, **self.labels}, list(members)


def check(change: Relabelling) -> None:
    """Whether it is a change at all, with names that can be.

    Raises:
        InputError: ``bad-options``, ``bad-name``, ``bad-label``.
    """
    if not (change.labels or change.unlabel or change.join or change.leave):
        raise InputError("bad-options", "name a label or a group to give or to take away")
    for key, value in change.labels.items():
        check_name(key, "label")
        if len(value) > MAX_VALUE:
            raise InputError("bad-label", f"{key}: a value has at most {MAX_VALUE} characters")
    for name in (*change.join, *change.leave):
        check_name(name, "group")


def relabel(
    fleet: Fleet,
    store: Store,
    names: Sequence[str],
    change: Relabelling,
    actor: Actor,
    now: float,
) -> int:
    """Changes devices; returns how many were not so already. Each some hundred are one change.

    Raises:
        InputError: what :func:`check` raises; ``no-such-device``, ``too-many``; of the devices
            after the one that is named nothing was changed.
    """
    check(change)
    if len(names) > MAX_DEVICES:
        raise InputError("too-many", f"{len(names)} devices; at most {MAX_DEVICES} at once")
    identity, changed = fleet.open_identity(), 0
    for start in range(0, len(names), _CHUNK):
        chunk = names[start : start + _CHUNK]
        with store.write() as connection:
            known = devices.some(connection, chunk)
            wanted: dict[str, tuple[DeviceLabels, list[str]]] = {}
            for name in chunk:
                if name not in known:
                    raise InputError("no-such-device", f"no device is called {name[:64]!r}")
                one = known[name]
                labels, groups = change.of(one.labels, one.groups)
                _fits(name, labels, groups)
                if (labels, groups) != (one.labels, list(one.groups)):
                    wanted[name] = labels, groups
            if not wanted:
                continue
            devices.relabel_many(store, connection, wanted)
            for name, (_, groups) in wanted.items():
                if groups != list(known[name].groups):
                    desired.regroup(store, connection, name, now)
            target = next(iter(wanted)) if len(wanted) == 1 else f"{len(wanted)} devices"
            named = {} if len(wanted) == 1 else {"devices": sorted(wanted)[:_NAMED]}
            audit.note_by(
                connection, actor, "device.change", target, now,
                **msgspec.to_builtins(change), **named,
            )  # fmt: skip
            # The broker's access control is made of it; a start does what follows.
            identity.describe_many(wanted)
        changed += len(wanted)
    if changed:
        enforcement.apply(fleet, identity)
    return changed


def _fits(name: str, labels: Mapping[str, str], groups: Sequence[str]) -> None:
    if len(labels) > limits.MAX_DEVICE_LABELS:
        raise InputError(
            "bad-label", f"{name} would have {len(labels)} labels of {limits.MAX_DEVICE_LABELS}"
        )
    if len(groups) > MAX_GROUPS:
        raise InputError("bad-label", f"{name} would be in {len(groups)} groups of {MAX_GROUPS}")
