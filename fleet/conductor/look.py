"""One look of the engine: at the rollouts that are due, and at the devices that changed.

An active rollout is stepped whole when it is due, or when a device changed that it has or could
have. An ended one is stepped for the devices alone that changed: what happens to a member or to a
late joiner then depends on no other device. What neither changed nor is due is not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import sqlalchemy as sa

from fleet.conductor.target import Signed, nothing
from fleet.conductor.world import World, figures_of, groups_of, judged_before, sharing
from fleet.rollout import timers, windows
from fleet.rollout.engine import step
from fleet.rollout.facts import Action, Facts
from fleet.rollout.state import RolloutState
from fleet.store import rollouts
from fleet.store.rollouts import Stored
from fleet.store.schema import DEVICE, MEMBER

_SWEEP_S: Final = 300.0
"""An active rollout is looked at so often whatever happens."""

_QUEUE_S: Final = 30.0
"""So often one that is queued looks whether those before it still share devices with it."""


class Change(msgspec.Struct):
    """A rollout before and after a step, and what belongs to the change.

    Of an ended rollout both states have the same part of the members.
    """

    stored: Stored
    before: RolloutState
    after: RolloutState
    actions: list[Action]


class Look:
    """What is found out and decided within one consistent view of the database.

    Args:
        connection: the view.
        now: seconds since the epoch.
        changed: devices that changed since the last look, with how often.
        due: rollouts whose time has come.
        signed: says which releases of the agent there are.

    Attributes:
        changes: what the steps changed, in their order.
        moments: when to look at a rollout again.
        forgotten: ended rollouts that nobody follows any more.
    """

    def __init__(
        self,
        connection: sa.Connection,
        now: float,
        changed: Mapping[str, int],
        due: list[str],
        signed: Signed = nothing,
    ) -> None:
        self.connection = connection
        self.now = now
        self.changed = changed
        self.due = set(due)
        self.world = World(connection, now, signed)
        self.changes: list[Change] = []
        self.moments: dict[str, float | None] = {}
        self.forgotten: list[str] = []
        self._newest: dict[str, dict[str, int]] = {}
        self._joined: dict[str, dict[str, int]] = {}

    def run(self) -> None:
        """Steps what has to be stepped: active rollouts by age, then the ended ones."""
        self.world.load(self.changed)
        self._newest = rollouts.newest(self.connection, self.changed)
        active = rollouts.active(self.connection)
        for rollout in active:
            stored = rollouts.get(self.connection, rollout, members=False)
            if rollout in self.due or self._concerned(stored):
                self._step_whole(stored)
        followed = rollouts.followed(self.connection, self.now, self._above(), self.due)
        self.forgotten = sorted(self.due - set(active) - {one.state.id for one in followed})
        self.moments |= dict.fromkeys(self.forgotten)
        self._step_ended(followed)

    # Active rollouts ----------------------------------------------------------------------

    def _concerned(self, stored: Stored) -> bool:
        """Whether a device changed that the rollout has, or could have."""
        if stored.state.header.status == "queued":
            return False
        return bool(self._mine(stored) or self.world.fitting(stored.spec, self.changed))

    def _step_whole(self, stored: Stored) -> None:
        spec, state = stored.spec, stored.state
        before = msgspec.structs.replace(
            state, members=rollouts.members_of(self.connection, state.id)
        )
        queued = state.header.status == "queued"
        blockers = sharing(self.connection, self.world, spec, state.number) if queued else []
        eligible = set() if blockers else self.world.pool(spec)[0]
        self.world.load(eligible | before.members.keys())
        newest = rollouts.taken_over(self.connection, state.header.slot, state.number)
        self._add_joined(state.header.slot, newest)
        figures = figures_of(self.connection, spec, before)
        judged = judged_before(self.connection, spec, before)
        groups = groups_of(self.connection, spec)
        facts = self.world.facts(spec, before, eligible, newest, figures, blockers, judged, groups)
        after = self._step(stored, before, facts)
        moment = self.now
        if after == before:
            late = self.now + (_QUEUE_S if queued else _SWEEP_S)
            moment = min(timers.next_look(spec, after, facts, self.now) or late, late)
        self._look_again(stored, moment)

    # Ended rollouts -----------------------------------------------------------------------

    def _step_ended(self, followed: list[Stored]) -> None:
        """Members that changed or whose time has come, and late joiners."""
        flying: dict[str, set[str]] = {}
        seen = set(self.changed)
        for stored in followed:
            if stored.state.id in self.due:
                flying[stored.state.id] = rollouts.in_flight(self.connection, stored.state.id)
                seen |= self._could_join(stored)
        everyone = seen.union(*flying.values())
        self.world.load(everyone)
        self._newest = rollouts.newest(self.connection, everyone)
        served: dict[str, set[str]] = {}
        for stored in followed:
            mine = self._mine(stored) & (seen | flying.get(stored.state.id, set()))
            joining = self._joining(stored, seen, served)
            if mine or joining or stored.state.id in self.due:
                self._step_part(stored, mine, joining)

    def _above(self) -> dict[str, int]:
        """By slot, the number below which no rollout touches a device that changed."""
        if self.due or not self.changed:
            return {}
        return {
            slot: min(numbers.get(device, 0) for device in self.changed)
            for slot, numbers in self._newest.items()
        }

    def _could_join(self, stored: Stored) -> set[str]:
        """Late joiners that may have waited for the rollout's windows."""
        if not _serves_joiners(stored) or not windows.is_open(stored.spec.windows, self.now):
            return set()
        member = sa.exists().where(
            MEMBER.c.rollout == stored.state.id, MEMBER.c.device == DEVICE.c.id
        )
        return self.world.pool(stored.spec, DEVICE.c.state == "online", ~member)[0]

    def _joining(self, stored: Stored, seen: set[str], served: dict[str, set[str]]) -> set[str]:
        """Late joiners, without those of a newer rollout of the slot that succeeded.

        The newer one may not serve them at once (outside its windows); an older version is still
        the wrong one.

        Args:
            stored: the rollout.
            seen: devices that are looked at.
            served: by slot, devices that newer rollouts serve; this one's are added.
        """
        if not _serves_joiners(stored):
            return set()
        theirs = served.setdefault(stored.state.header.slot, set())
        fit = self.world.fitting(stored.spec, seen)
        joining = fit - theirs
        if stored.spec.mode == "active":
            theirs |= fit
        return joining

    def _step_part(self, stored: Stored, mine: set[str], joining: set[str]) -> None:
        slot = stored.state.header.slot
        part = rollouts.members_of(self.connection, stored.state.id, mine | joining)
        before = msgspec.structs.replace(stored.state, members=part)
        newest = dict(self._newest.get(slot, {}))
        self._add_joined(slot, newest)
        facts = self.world.facts(stored.spec, before, joining, newest, {}, [])
        after = self._step(stored, before, facts)
        assert stored.follow_until is not None
        end = stored.follow_until + 0.001
        self._look_again(
            stored, min(timers.next_look(stored.spec, after, facts, self.now) or end, end)
        )

    # Both ---------------------------------------------------------------------------------

    def _mine(self, stored: Stored) -> set[str]:
        """Of the devices whose rollouts are known, those that no newer one of the slot has."""
        known = self._newest.get(stored.state.header.slot, {})
        return {device for device, number in known.items() if number == stored.state.number}

    def _add_joined(self, slot: str, newest: dict[str, int]) -> None:
        """Adds what the steps of this look did to the newest rollouts of devices."""
        for device, number in self._joined.get(slot, {}).items():
            newest[device] = max(newest.get(device, 0), number)

    def _step(self, stored: Stored, before: RolloutState, facts: Facts) -> RolloutState:
        after, actions = step(stored.spec, before, facts, self.now)
        if actions or after != before:
            self.world.change(after, actions, self.now)
            self.changes.append(Change(stored, before, after, actions))
        joined = self._joined.setdefault(before.header.slot, {})
        for device in after.members.keys() - before.members.keys():
            joined[device] = max(joined.get(device, 0), after.number)
        return after

    def _look_again(self, stored: Stored, moment: float) -> None:
        """Notes when to look at a rollout again; a moment before that, which is set, stays."""
        known = stored.due
        if known is None or known <= self.now or moment < known:
            self.moments[stored.state.id] = moment


def _serves_joiners(stored: Stored) -> bool:
    """Whether an ended rollout gives its version to devices that join late."""
    return stored.state.header.status == "succeeded" and stored.spec.waves[-1].percent == 100
