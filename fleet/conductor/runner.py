"""Runs the engine: one look after the other, each stored in one transaction; and commands.

Reading and stepping happen outside the write lock; the generation of the lease ``rollouts``
makes sure that nothing changed in between (see :mod:`fleet.store.leases`). A look without changed
devices and without a rollout that is due reads two indexes and writes nothing, however many
devices and rollouts there are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal

import sqlalchemy as sa

from contracts.errors import InputError, RefusedError, UnavailableError
from fleet.conductor.ahead import Ahead, ahead
from fleet.conductor.look import Change, Look
from fleet.conductor.target import Signed, nothing
from fleet.conductor.world import World, device_fact, has, runs, sharing
from fleet.rollout import commands, selector
from fleet.rollout.facts import Action, Note, Release, SetDesired
from fleet.rollout.plan import Plan, plan
from fleet.rollout.spec import RolloutSpec
from fleet.rollout.state import ENDED, Header
from fleet.store import (
    Store,
    desired,
    devices,
    leases,
    rollouts,
    selection,
    setbacks,
    webhooks,
)
from fleet.store.rollouts import Stored

LEASE: Final = "rollouts"
_TRIES: Final = 20
_CHUNK: Final = 200
_DEVICES: Final = 2000
"""Changed devices of one look: it must end, as a person's command waits behind it."""

Command = Literal["approve", "pause", "resume", "abort"]
_PAST: Final[dict[Command, str]] = {
    "approve": "approved",
    "pause": "paused",
    "resume": "resumed",
    "abort": "aborted",
}


class _Conflict(Exception):  # noqa: N818  (not an error of a caller: the work is done again)
    """Somebody else changed rollouts between our reading and our writing."""


class Runner:
    """Steps and commands of the rollouts of one fleet.

    Args:
        store: the database.
        clock: seconds since the epoch.
        on_desired: called after a commit that gave devices new desired documents.
        signed: says which releases of the agent there are.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.time,
        on_desired: Callable[[], None] = lambda: None,
        signed: Signed = nothing,
    ) -> None:
        self._store = store
        self._clock = clock
        self._on_desired = on_desired
        self._signed = signed
        self._lock = threading.Lock()
        self._after = ""

    # Steps --------------------------------------------------------------------------------

    def tick(self) -> bool:
        """One look at what changed and what is due.

        Returns:
            Whether there may be more to do at once.
        """
        with self._lock:
            try:
                return self._tick()
            except _Conflict:
                return True

    def _tick(self) -> bool:
        now = self._clock()
        with self._store.read() as connection:
            changed = devices.unseen(connection, self._after, _DEVICES)
            due = rollouts.due(connection, now)
            if not changed and not due:
                return False
            seen = leases.generation(connection, LEASE)
            look = Look(connection, now, changed, due, self._signed)
            look.run()
        self._commit(seen, look.world, look.changes, now, look=look)
        # In turn: devices that change all the time must not hide the others.
        more = len(changed) == _DEVICES
        self._after = list(changed)[-1] if more else ""
        return more or bool(look.changes)

    def _commit(
        self,
        seen: int,
        world: World,
        changes: Sequence[Change],
        now: float,
        *,
        look: Look | None = None,
        extra: Callable[[sa.Connection], None] | None = None,
    ) -> None:
        """Stores all that belongs together, if nobody else changed rollouts since `seen`."""
        sent = False
        moments: dict[str, float | None] = {c.after.id: now for c in changes}
        with self._store.write() as connection:
            if not leases.advance(connection, self._store, LEASE, seen):
                raise _Conflict
            if look is not None:
                # First: what is written below changes the devices anew.
                devices.looked_at(connection, look.changed)
                for rollout in look.forgotten:
                    desired.release_all(connection, rollout)
                moments = look.moments
            for change in changes:
                sent |= self._store_change(connection, world, change, now)
            rollouts.look_at(connection, moments)
            if any(c.after.header.status in ENDED for c in changes):
                rollouts.look_at_queued(connection, now)
            if extra is not None:
                extra(connection)
        if sent:
            self._on_desired()

    def _store_change(
        self, connection: sa.Connection, world: World, change: Change, now: float
    ) -> bool:
        """Stores a step; returns whether there is something to send."""
        rollout = change.after.id
        rollouts.save(self._store, connection, change.before, change.after, change.stored.spec, now)
        documents = []
        for name in sorted({a.device for a in change.actions if isinstance(a, SetDesired)}):
            device = world.devices[name]
            assert device.desired is not None
            documents.append((name, device.desired, device.rollout))
        if not desired.write(self._store, connection, documents):
            raise _Conflict
        released = [a.device for a in change.actions if isinstance(a, Release)]
        desired.release(connection, rollout, released)
        notes = [a for a in change.actions if isinstance(a, Note)]
        rollouts.add_events(connection, rollout, notes, now)
        for note in notes:
            facts = {"rollout": rollout, "message": note.message, **note.detail}
            webhooks.enqueue(connection, note.kind, facts, now)
        return bool(documents)

    # What people ask ----------------------------------------------------------------------

    def plan(self, spec: RolloutSpec) -> Plan:
        """What a rollout would do now.

        Raises:
            InputError: ``no-such-bundle``.
        """
        with self._store.read() as connection:
            world = World(connection, self._clock(), self._signed)
            target = world.target(spec)
            target.check(spec)
            fit, left_out = world.pool(spec)
            left_out = world.explained(spec, left_out)
            world.load(fit)
            moving, given = [], 0
            for name in sorted(fit):
                device = world.devices[name]
                if device.rollout is not None:
                    left_out[name] = f"held by rollout {device.rollout}"
                    continue
                fact = device_fact(device, target.slot, spec.mode, eligible=True)
                if has(fact, target.ref):
                    given += not _is_meant_to(world, spec, name)
                    left_out[name] = "has it already"
                else:
                    moving.append(fact)
            before = setbacks.of(connection, target.ref)
            return plan(rollouts.next_id(connection), spec, moving, left_out, before, given)

    def ahead(self, rollout: str) -> Ahead:
        """What is still ahead of a rollout that is under way.

        Raises:
            InputError: ``no-such-rollout``, ``no-such-bundle``.
        """
        with self._store.read() as connection:
            stored = rollouts.get(connection, rollout)
            return ahead(World(connection, self._clock(), self._signed), stored)

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
            RefusedError: ``devices-busy``; another rollout may touch the same devices, or holds
                all that would move.
        """

        def work() -> str:
            now = self._clock()
            with self._store.read() as connection:
                seen = leases.generation(connection, LEASE)
                world = World(connection, now, self._signed)
                target = world.target(spec)
                target.check(spec)
                fit, left_out = world.pool(spec)
                if not fit:
                    left_out = world.explained(spec, left_out)
                    hint = selection.hint(connection, selector.parse(spec.selector))
                    raise InputError(
                        "no-devices",
                        f"selector {spec.selector!r} means no device that can have the bundle"
                        + (f"; left out: {_some(left_out)}" if left_out else hint),
                        left_out=dict(list(left_out.items())[:20]),
                    )
                busy = sharing(connection, world, spec)
                held = None if busy or spec.allow_empty else _holder(world, spec, fit)
                if held:
                    raise RefusedError(
                        "devices-busy",
                        f"rollout {held} gives its version now to those that joined late or came "
                        "back, and to no other would this one move: wait until they have it; with "
                        "allow_empty this one serves them then, without waves",
                        rollouts=[held],
                    )
                if held == "":
                    raise InputError(
                        "no-devices",
                        f"every device that selector {spec.selector!r} means has {target.ref} "
                        f"already ({len(fit)}): nothing would move; with allow_empty the rollout "
                        "serves those that join later",
                    )
            if busy and spec.if_busy == "refuse":
                raise RefusedError(
                    "devices-busy",
                    f"rollout {busy[0]} is under way on some of the same devices: wait for it, "
                    "abort it, or create this one with if_busy=queue",
                    rollouts=busy,
                )
            header = Header("queued" if busy else "running", target.ref, target.slot)
            with self._store.write() as connection:
                if not leases.advance(connection, self._store, LEASE, seen):
                    raise _Conflict
                rollout = rollouts.next_id(connection)
                rollouts.create(self._store, connection, rollout, spec, header, who, now)
                note = Note("rollout-created", f"created by {who}", {"bundle": str(target.ref)})
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
                world = World(connection, now, self._signed)
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
                        world.load(before.members)
                        slot = before.header.slot
                        newest = rollouts.taken_over(connection, slot, before.number)
                        facts = world.facts(stored.spec, before, set(), newest, {}, [])
                        after, actions = commands.abort(stored.spec, before, facts, now, who)
            past = _PAST[what]
            note = Note(f"{past}-by-person", f"{past} by {who}", {"by": who})
            world.change(after, actions, now)
            change = Change(stored, before, after, [note, *actions])
            self._commit(seen, world, [change], now, extra=extra)
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


def _is_meant_to(world: World, spec: RolloutSpec, name: str) -> bool:
    """Whether the device was told to have it: of one that came with it, nobody asked it."""
    target = world.target(spec)
    desired = world.devices[name].desired
    slot = desired.slots.get(target.slot) if desired else None
    return slot is not None and slot.bundle == target.ref and slot.mode == spec.mode


def _holder(world: World, spec: RolloutSpec, names: set[str]) -> str | None:
    """Which rollout holds all that would move; empty: none would, None: one that is free would.

    Devices are read until one is found.
    """
    holder = ""
    ordered = sorted(names)
    for start in range(0, len(ordered), _CHUNK):
        chunk = ordered[start : start + _CHUNK]
        world.load(chunk)
        for device in (world.devices[name] for name in chunk if name in world.devices):
            if runs(world, spec, device.id) and _is_meant_to(world, spec, device.id):
                continue
            if device.rollout is None:
                return None
            holder = device.rollout
    return holder


def _some(left_out: dict[str, str]) -> str:
    return ", ".join(f"{device} ({why})" for device, why in list(left_out.items())[:3])
