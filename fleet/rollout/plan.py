"""What a rollout would do, without doing it."""

from __future__ import annotations

from typing import Final

import msgspec

from fleet.rollout.engine import order
from fleet.rollout.facts import DeviceFact
from fleet.rollout.spec import RolloutSpec

MAX_LISTED: Final = 1000
"""Devices that a plan names in each list; counts are always whole."""


class PlannedWave(msgspec.Struct, frozen=True):
    """A wave: its size as written, how many devices it adds, and which."""

    size: str
    adds: int
    online: int
    devices: list[str]
    approval: bool
    bake_s: float


class Plan(msgspec.Struct, frozen=True):
    """The waves, and which matching devices are left out and why."""

    matching: int
    moving: int
    waves: list[PlannedWave]
    left_out: dict[str, str]


def plan(
    rollout: str, spec: RolloutSpec, devices: list[DeviceFact], left_out: dict[str, str]
) -> Plan:
    """Lays devices out over the waves as the engine would, were all of them to stay as they are.

    Args:
        rollout: an id; it decides the order of devices.
        spec: what is asked.
        devices: those that would get the version.
        left_out: matching devices that would not, with the reason.
    """
    ordered = order(rollout, devices)
    waves: list[PlannedWave] = []
    done = 0
    for index, wave in enumerate(spec.waves):
        upto = max(wave.target(len(ordered)), done)
        chosen = ordered[done:upto]
        waves.append(
            PlannedWave(
                str(wave),
                len(chosen),
                sum(fact.online for fact in chosen),
                [fact.device for fact in chosen[:MAX_LISTED]],
                wave.approval,
                spec.bake_of(index),
            )
        )
        done = upto
    listed = dict(sorted(left_out.items())[:MAX_LISTED])
    return Plan(len(devices) + len(left_out), len(devices), waves, listed)
