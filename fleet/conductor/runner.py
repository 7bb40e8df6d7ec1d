"""Runs the engine: reads facts, steps every rollout, and stores what changed, again and again.

Reading and stepping happen outside the write lock; the generation of the lease ``rollouts``
makes sure that nothing changed in between (see :mod:`fleet.store.leases`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import msgspec
import sqlalchemy as sa

from contracts.errors import InputError, RefusedError, UnavailableError
from fleet.conductor.world import World, device_fact, figures_of, slot_of
from fleet.rollout import commands, selector
from fleet.rollout.engine import step
from fleet.rollout.facts import Action, Facts, Note, Release, SetDesired
from fleet.rollout.plan import Plan, plan
from fleet.rollout.spec import RolloutSpec
from fleet.rollout.state import ENDED, Header, RolloutState
from fleet.store import Store, bundles, desired, devices, leases, rollouts, selection, webhooks
from fleet.store.bundles import Published
from fleet.store.rollouts import Stored

LEASE: Final = "rollouts"
_TRIES: Final = 20
_FOLLOW_S: Final = 366 * 24 * 3600.0

Command = Literal["approve", "pause", "resume", "abort"]
_PAST: Final[dict[Command, str]] = {
    "approve": "approved",
    "pause": "paused",
    "resume": "resumed",
    "abort": "aborted",
}


class _Conflict(Exception):  # noqa: N818  (not an error of a caller: the work is done again)
    """Somebody else changed rollouts between our reading and our writing."""


class _Change(msgspec.Struct):
    """A rollout before and after, and what belongs to the change."""

    before: RolloutState
    after: RolloutState
    actions: list[Action]


class Runner:
    """Steps and commands of the rollouts of one fleet.

    Args:
        store: the database.
        clock: seconds since the epoch.
        on_desired: called after a commit that gave devices new desired documents.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.time,
        on_desired: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._on_desired = on_desired
        self._lock = threading.Lock()

    # Reading ------------------------------------------------------------------------------

    def _world(self, connection: sa.Connection, live: Sequence[str]) -> World:
        """All devices; only rollouts that are still stepped hold any.

        A rollout that nobody follows any more may have ended its days with a device on its way:
        it never lets go of it, and must not keep it from the others.
        """
        found = devices.every(connection)
        holding = {None, *live}
        return World(
            device if device.rollout in holding else msgspec.structs.replace(device, rollout=None)
            for device in found
        )

    def _live(self, connection: sa.Connection, now: float) -> list[str]:
        """The rollouts that a tick steps, in its order."""
        return rollouts.active(connection) + self._followed(connection, now)

    def _published(self, connection: sa.Connection, spec: RolloutSpec) -> Published:
        return bundles.find(connection, spec.bundle, spec.version)

    def _facts(
        self,
        connection: sa.Connection,
        world: World,
        stored: Stored,
        newest: Mapping[str, int],
    ) -> Facts:
        state = stored.state
        published = self._published(connection, stored.spec)
        blockers: list[str] = []
        if state.header.status == "queued":
            blockers = self._sharing(connection, world, stored.spec, published, state.number)
        # Nobody reads the gates of a rollout that has ended.
        ended = state.header.status in ENDED
        return world.facts(
            stored.spec,
            state,
            published,
            figures={} if ended else figures_of(connection, stored.spec, state),
            newest=newest,
            blockers=blockers,
        )

    def _sharing(
        self,
        connection: sa.Connection,
        world: World,
        spec: RolloutSpec,
        published: Published,
        before: int,
    ) -> list[str]:
        """Active rollouts older than number `before` that may touch the same devices."""
        mine = {device.id for device in world.pool(spec, published)[0]}
        found: list[str] = []
        for rollout in rollouts.active(connection):
            other = rollouts.get(connection, rollout)
            if other.state.number >= before:
                continue
            theirs = {
                d.id for d in world.pool(other.spec, self._published(connection, other.spec))[0]
            }
            if mine & (theirs | other.state.members.keys()):
                found.append(rollout)
        return found

    # Steps --------------------------------------------------------------------------------

    def tick(self) -> bool:
        """One step of every rollout.

        Returns:
            Whether anything changed.
        """
        with self._lock:
            try:
                return self._tick()
            except _Conflict:
                return True

    def _tick(self) -> bool:
        now = self._clock()
        changes: list[_Change] = []
        with self._store.read() as connection:
            seen = leases.generation(connection, LEASE)
            ids = self._live(connection, now)
            if not ids:
                return False
            world = self._world(connection, ids)
            newest: dict[str, dict[str, int]] = {}
            served: dict[str, set[str]] = {}
            for rollout in ids:
                stored = rollouts.get(connection, rollout)
                before = stored.state
                slot = before.header.slot
                if slot not in newest:
                    newest[slot] = rollouts.newest_of_slot(connection, slot)
                facts = self._facts(connection, world, stored, newest[slot])
                if before.header.status == "succeeded":
                    facts = _unserved(stored, facts, served.setdefault(slot, set()))
                after, actions = step(stored.spec, before, facts, now)
                if actions or after != before:
                    self._imagine(world, after, actions, now)
                    changes.append(_Change(before, after, actions))
                for device in after.members.keys() - before.members.keys():
                    newest[slot][device] = max(newest[slot].get(device, 0), after.number)
        if changes:
            self._commit(seen, world, changes, now)
        return bool(changes)

    def _followed(self, connection: sa.Connection, now: float) -> list[str]:
        """Ended rollouts that still have something to do: returning devices, late joiners.

        The newest first, so that a late joiner gets its version and no older one; those in shadow
        mode after the others, because a device needs an answer before one to compare with.
        """
        found: list[tuple[bool, int, str]] = []
        for rollout in rollouts.ended_since(connection, now - _FOLLOW_S):
            stored = rollouts.get(connection, rollout, members=False)
            ended = stored.state.header.ended or 0.0
            if now <= ended + stored.spec.follow_s:
                found.append((stored.spec.mode == "shadow", -stored.state.number, rollout))
        return [rollout for _, _, rollout in sorted(found)]

    def _imagine(
        self, world: World, state: RolloutState, actions: Sequence[Action], now: float
    ) -> None:
        """Changes the world as the actions will, for the rollouts that are stepped after."""
        for action in actions:
            if isinstance(action, SetDesired):
                device = world.devices[action.device]
                document = desired.with_slot(
                    device, action.revision, action.slot, action.bundle, state.id, now
                )
                holder = None if state.header.status in ("stopped", "aborted") else state.id
                world.devices[action.device] = msgspec.structs.replace(
                    device, desired=document, desired_revision=action.revision, rollout=holder
                )
            elif isinstance(action, Release):
                device = world.devices[action.device]
                world.devices[action.device] = msgspec.structs.replace(device, rollout=None)

    def _commit(
        self,
        seen: int,
        world: World,
        changes: Sequence[_Change],
        now: float,
        extra: Callable[[sa.Connection], None] | None = None,
    ) -> None:
        sent = False
        with self._store.write() as connection:
            if not leases.advance(connection, self._store, LEASE, seen):
                raise _Conflict
            for change in changes:
                rollouts.save(self._store, connection, change.before, change.after, now)
                touched = {a.device for a in change.actions if isinstance(a, SetDesired)}
                released = [a.device for a in change.actions if isinstance(a, Release)]
                documents = []
                for name in sorted(touched):
                    device = world.devices[name]
                    assert device.desired is not None
                    documents.append((name, device.desired, device.rollout))
                desired.write(self._store, connection, documents)
                desired.release(connection, change.after.id, released)
                notes = [a for a in change.actions if isinstance(a, Note)]
                rollouts.add_events(connection, change.after.id, notes, now)
                for note in notes:
                    facts = {"rollout": change.after.id, "message": note.message, **note.detail}
                    webhooks.enqueue(connection, note.kind, facts, now)
                sent = sent or bool(documents)
            if extra is not None:
                extra(connection)
        if sent:
            self._on_desired()

    # What people ask ----------------------------------------------------------------------

    def plan(self, spec: RolloutSpec) -> Plan:
        """What a rollout would do now.

        Raises:
            InputError: ``no-such-bundle``.
        """
        with self._store.read() as connection:
            published = self._published(connection, spec)
            world = self._world(connection, self._live(connection, self._clock()))
            fit, left_out = world.pool(spec, published)
            slot = slot_of(spec, published.manifest)
            moving = []
            for device in fit:
                fact = device_fact(device, slot, spec.mode, eligible=True)
                if device.rollout is not None:
                    left_out[device.id] = f"held by rollout {device.rollout}"
                elif fact.active == published.ref and not fact.trial:
                    left_out[device.id] = "has it already"
                else:
                    moving.append(fact)
            return plan(rollouts.next_id(connection), spec, moving, left_out)

    def create(
        self, spec: RolloutSpec, who: str, extra: Callable[[sa.Connection], None] | None = None
    ) -> Stored:
        """Creates a rollout; the engine's next step starts it.

        Args:
            spec: what is asked.
            who: asked it.
            extra: more to write in the same transaction (the audit).

        Raises:
            InputError: ``no-such-bundle``, ``no-devices``.
            RefusedError: ``devices-busy``; another rollout may touch the same devices.
        """

        def work() -> str:
            now = self._clock()
            with self._store.read() as connection:
                seen = leases.generation(connection, LEASE)
                published = self._published(connection, spec)
                world = World(devices.every(connection))
                fit, left_out = world.pool(spec, published)
                if not fit:
                    hint = selection.hint(connection, selector.parse(spec.selector))
                    raise InputError(
                        "no-devices",
                        f"selector {spec.selector!r} means no device that can have the bundle"
                        + (f"; left out: {_some(left_out)}" if left_out else hint),
                        left_out=dict(list(left_out.items())[:20]),
                    )
                sharing = self._sharing(connection, world, spec, published, 2**62)
            if sharing and spec.if_busy == "refuse":
                raise RefusedError(
                    "devices-busy",
                    f"rollout {sharing[0]} is under way on some of the same devices: wait for it, "
                    "abort it, or create this one with if_busy=queue",
                    rollouts=sharing,
                )
            header = Header(
                "queued" if sharing else "running", published.ref, slot_of(spec, published.manifest)
            )
            with self._store.write() as connection:
                if not leases.advance(connection, self._store, LEASE, seen):
                    raise _Conflict
                rollout = rollouts.next_id(connection)
                rollouts.create(self._store, connection, rollout, spec, header, who, now)
                note = Note("rollout-created", f"created by {who}", {"bundle": str(published.ref)})
                rollouts.add_events(connection, rollout, [note], now)
                webhooks.enqueue(connection, note.kind, {"rollout": rollout, **note.detail}, now)
                if extra is not None:
                    extra(connection)
            return rollout

        rollout = self._retried(work)
        with self._store.read() as connection:
            return rollouts.get(connection, rollout)

    def command(
        self,
        rollout: str,
        what: Command,
        who: str,
        *,
        version: int | None = None,
        extra: Callable[[sa.Connection], None] | None = None,
    ) -> Stored:
        """Approves, pauses, resumes or aborts a rollout.

        Args:
            rollout: its id.
            what: the command.
            who: gave it.
            version: the version that the caller saw; None: any.
            extra: more to write in the same transaction (the audit).

        Raises:
            InputError: ``no-such-rollout``.
            RefusedError: ``wrong-state``, ``changed-meanwhile``.
        """

        def work() -> str:
            now = self._clock()
            with self._store.read() as connection:
                seen = leases.generation(connection, LEASE)
                stored = rollouts.get(connection, rollout)
                if version is not None and version != stored.version:
                    raise RefusedError(
                        "changed-meanwhile",
                        f"rollout {rollout} has changed since it was read: look at it again",
                    )
                world = World(devices.every(connection) if what == "abort" else ())
                before = stored.state
                actions: list[Action] = []
                match what:
                    case "approve":
                        after = commands.approve(before)
                    case "pause":
                        after = commands.pause(before, who)
                    case "resume":
                        after = commands.resume(before)
                    case "abort":
                        newest = rollouts.newest_of_slot(connection, before.header.slot)
                        facts = self._facts(connection, world, stored, newest)
                        after, actions = commands.abort(stored.spec, before, facts, now, who)
            past = _PAST[what]
            note = Note(f"{past}-by-person", f"{past} by {who}", {"by": who})
            self._imagine(world, after, actions, now)
            self._commit(seen, world, [_Change(before, after, [note, *actions])], now, extra)
            return rollout

        self._retried(work)
        with self._store.read() as connection:
            return rollouts.get(connection, rollout)

    def _retried(self, work: Callable[[], str]) -> str:
        for _ in range(_TRIES):
            with self._lock:
                try:
                    return work()
                except _Conflict:
                    continue
        raise UnavailableError("busy", "rollouts change too fast now: try again")


def _unserved(stored: Stored, facts: Facts, served: set[str]) -> Facts:
    """The facts of a rollout that succeeded, without late joiners of a newer one that did.

    The newer one may not serve them at once (outside its windows); an older version is still
    the wrong one.

    Args:
        stored: the rollout.
        facts: as it would see them.
        served: devices that newer rollouts of the slot serve; this one's are added.
    """
    mine = {d for d, fact in facts.devices.items() if fact.eligible}
    others = mine & served - stored.state.members.keys()
    if stored.spec.mode == "active" and stored.spec.waves[-1].percent == 100:
        served |= mine
    if not others:
        return facts
    changed = {d: msgspec.structs.replace(facts.devices[d], eligible=False) for d in others}
    return msgspec.structs.replace(facts, devices=facts.devices | changed)


def _some(left_out: dict[str, str]) -> str:
    return ", ".join(f"{device} ({why})" for device, why in list(left_out.items())[:3])
