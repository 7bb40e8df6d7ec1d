"""What is still ahead of a rollout: devices that it means and has not touched, and why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from fleet.conductor.world import World, runs
from fleet.store.rollouts import Stored


class Ahead(msgspec.Struct, frozen=True):
    """Devices that the selector means and that are no members, counted.

    Attributes:
        to_come: those that a later wave gives the version.
        away: of these, how many are not connected.
        have_it: those that run the version already.
        held: those that another rollout holds, by its id.
        left_out: those that cannot have it, by the reason.
    """

    to_come: int
    away: int
    have_it: int
    held: Mapping[str, int]
    left_out: Mapping[str, int]


def ahead(world: World, stored: Stored) -> Ahead:
    """Of a rollout that is under way; `stored` has its members."""
    spec = stored.spec
    fit, left_out = world.pool(spec)
    rest = fit - stored.state.members.keys()
    world.load(rest)
    found, held, away = Counter[str](), Counter[str](), 0
    for name in rest & world.devices.keys():
        device = world.devices[name]
        if runs(world, spec, name):
            found["have_it"] += 1
        elif device.rollout not in (None, stored.state.id):
            held[str(device.rollout)] += 1
        else:
            found["to_come"] += 1
            away += not device.online
    return Ahead(found["to_come"], away, found["have_it"], held, Counter(left_out.values()))
