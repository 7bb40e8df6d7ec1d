"""What a rollout would do, without doing it."""

from __future__ import annotations

from typing import Final

import msgspec

from contracts.errors import ErrorInfo
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


class Setback(msgspec.Struct, frozen=True):
    """An earlier rollout of the same version that did not go well.

    Attributes:
        rollout: its id.
        status: ``stopped``, ``aborted`` or ``rolling-back``; another: it went on, though devices
            failed.
        wave: index of the wave in which it ended.
        waves: how many it had.
        at: when it was created, seconds since the epoch.
        reason: why it ended.
        failed: devices that refused the version or went back from it.
        why: what one of them said.
    """

    rollout: str
    status: str
    wave: int
    waves: int
    at: float
    reason: ErrorInfo | None
    failed: int
    why: ErrorInfo | None

    @property
    def ended(self) -> bool:
        """Whether it was stopped, by a gate or a person."""
        return self.status in ("stopped", "aborted", "rolling-back")


class Plan(msgspec.Struct, frozen=True):
    """The waves, which matching devices are left out and why, and what went wrong before.

    `given`: of those left out, devices that run the version though nobody asked it of them, as
    after the database was lost: the rollout tells them to keep it.
    """

    matching: int
    moving: int
    waves: list[PlannedWave]
    left_out: dict[str, str]
    setbacks: list[Setback] = []
    given: int = 0


def plan(
    rollout: str,
    spec: RolloutSpec,
    devices: list[DeviceFact],
    left_out: dict[str, str],
    setbacks: list[Setback],
    given: int,
) -> Plan:
    """Lays devices out over the waves as the engine would, were all of them to stay as they are.

    Args:
        rollout: an id; it decides the order of devices.
        spec: what is asked.
        devices: those that would get the version.
        left_out: matching devices that would not, with the reason.
        setbacks: rollouts of the same version before.
        given: devices that run it though nobody asked it of them.
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
    matching = len(devices) + len(left_out)
    return Plan(matching, len(devices), waves, listed, setbacks, given)
