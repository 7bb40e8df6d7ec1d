"""From the store to the engine's facts: which devices a rollout sees, and why not the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
import sqlalchemy as sa

from contracts.judged import Judged
from contracts.messages import BundleRef
from fleet.conductor import target
from fleet.conductor.target import Target
from fleet.figures import Figures
from fleet.rollout import selector
from fleet.rollout.facts import Action, DeviceFact, Facts, Release, SetDesired
from fleet.rollout.gates import counts
from fleet.rollout.spec import RolloutSpec
from fleet.rollout.state import RolloutState
from fleet.store import desired, devices, field, rollouts, selection, telemetry
from fleet.store.devices import Device


class World:
    """Devices at one moment, read when they are asked for; rollouts change them one by one.

    A rollout that nobody follows any more may have ended its days with a device on its way: it
    never lets go of it, and must not keep it from the others.

    Args:
        connection: one consistent view of the database.
        now: seconds since the epoch.
        signed: says which releases of the agent there are.
    """

    def __init__(
        self, connection: sa.Connection, now: float, signed: target.Signed = target.nothing
    ) -> None:
        self.devices: dict[str, Device] = {}
        self._connection = connection
        self._now = now
        self._signed = signed
        self._targets: dict[tuple[str, str, str | None], Target] = {}
        self._misfits: dict[tuple[str, str], str | None] = {}

    def load(self, names: Iterable[str]) -> None:
        """Reads devices that were not read yet; those that the store has not are left out."""
        missing = [name for name in names if name not in self.devices]
        found = devices.some(self._connection, missing)
        holders = {device.rollout for device in found.values() if device.rollout is not None}
        gone = holders - rollouts.live(self._connection, self._now, holders) if holders else set()
        for name, device in found.items():
            free = device.rollout in gone
            self.devices[name] = msgspec.structs.replace(device, rollout=None) if free else device

    def target(self, spec: RolloutSpec) -> Target:
        """What a rollout moves to.

        Raises:
            InputError: ``no-such-bundle``.
        """
        key = (spec.bundle, spec.version, spec.slot)
        if key not in self._targets:
            self._targets[key] = target.find(self._connection, spec, self._signed)
        return self._targets[key]

    def _misfit(self, wanted: Target, hardware: str) -> str | None:
        """Why a device cannot have it, by its board or the archive that it takes."""
        key = (wanted.ref.manifest_sha256, hardware)
        if key not in self._misfits:
            self._misfits[key] = wanted.misfit(hardware)
        return self._misfits[key]

    def pool(
        self, spec: RolloutSpec, *conditions: sa.ColumnElement[bool]
    ) -> tuple[set[str], dict[str, str]]:
        """Devices that the selector means: those that can have the bundle, and why not the rest."""
        wanted = self.target(spec)
        means = selection.means(selector.parse(spec.selector))
        read = devices.boards if wanted.manifest is not None else devices.releases
        fit: set[str] = set()
        left_out: dict[str, str] = {}
        for device, hardware, revoked in read(self._connection, means, *conditions):
            if revoked:
                left_out[device] = "revoked"
            elif reason := self._misfit(wanted, hardware):
                left_out[device] = reason
            else:
                fit.add(device)
        return fit, left_out

    def explained(self, spec: RolloutSpec, left_out: Mapping[str, str]) -> dict[str, str]:
        """Why devices are left out, in their own words where they say more."""
        found = dict(left_out)
        if self.target(spec).manifest is None:
            ids = [name for name, why in left_out.items() if why == target.NO_RELEASE]
            self.load(ids[: target.EXPLAINED])
            for name in ids[: target.EXPLAINED]:
                found[name] = target.why_none(self.devices[name].reported)
        return found

    def fitting(self, spec: RolloutSpec, names: Iterable[str]) -> set[str]:
        """Of devices that were read, those that :meth:`pool` says can have the bundle."""
        wanted = selector.parse(spec.selector)
        to = self.target(spec)
        return {
            name
            for name in names
            if (device := self.devices.get(name)) is not None
            and device.revoked_at is None
            and device.matches(wanted)
            and self._misfit(to, to.hardware(device)) is None
        }

    def facts(
        self,
        spec: RolloutSpec,
        state: RolloutState,
        eligible: set[str],
        newest: Mapping[str, int],
        figures: Mapping[str, Figures],
        blockers: list[str],
        before: Mapping[str, Judged] | None = None,
        groups: Mapping[str, dict[str, str]] | None = None,
    ) -> Facts:
        """What the engine is told about a rollout: of those that are eligible, and of members."""
        seen = eligible | state.members.keys()
        return Facts(
            devices={
                name: device_fact(
                    device, state.header.slot, spec.mode, name in eligible, newest.get(name, 0)
                )
                for name in seen
                if (device := self.devices.get(name)) is not None
            },
            figures=dict(figures),
            baseline=self.target(spec).baseline,
            before=dict(before or {}),
            groups=dict(groups or {}),
            blockers=blockers,
        )

    def change(self, state: RolloutState, actions: Iterable[Action], now: float) -> None:
        """Changes the devices as a rollout's actions will, for the rollouts that come after."""
        for action in actions:
            if isinstance(action, SetDesired):
                device = self.devices[action.device]
                document = desired.with_slot(
                    device, action.revision, action.slot, action.bundle, state.id, now
                )
                ended = state.header.status in ("stopped", "aborted")
                holder = state.id if action.hold and not ended else None
                self.devices[action.device] = msgspec.structs.replace(
                    device, desired=document, desired_revision=action.revision, rollout=holder
                )
            elif isinstance(action, Release):
                device = self.devices[action.device]
                self.devices[action.device] = msgspec.structs.replace(device, rollout=None)


def sharing(
    connection: sa.Connection, world: World, spec: RolloutSpec, before: int | None = None
) -> list[str]:
    """Active rollouts that may touch the same devices; only those older than number `before`."""
    mine: set[str] | None = None
    found: list[str] = []
    for rollout in rollouts.active(connection):
        other = rollouts.get(connection, rollout)
        if before is not None and other.state.number >= before:
            continue
        if mine is None:
            mine = world.pool(spec)[0]
        if mine & (world.pool(other.spec)[0] | other.state.members.keys()):
            found.append(rollout)
    return found


def device_fact(
    device: Device, slot: str, mode: str, eligible: bool, newest: int = 0
) -> DeviceFact:
    """One device as the engine sees it."""
    report = device.reported.slots.get(slot) if device.reported else None
    active: BundleRef | None = None
    serving = report.active if report is not None else None
    if report is not None:
        active = report.shadow if mode == "shadow" else report.active
    return DeviceFact(
        device=device.id,
        eligible=eligible,
        revoked=device.revoked_at is not None,
        online=device.online,
        since=device.state_at or 0.0,
        active=active,
        serving=serving,
        trial=report.trial if report is not None and mode == "active" else False,
        reached=device.reported.desired_revision if device.reported else 0,
        revision=device.desired_revision,
        desired=device.desired.slots.get(slot) if device.desired else None,
        event=device.update,
        holder=device.rollout,
        newest=newest,
        waits=device.reported.waits if device.reported else [],
    )


def has(fact: DeviceFact, ref: BundleRef) -> bool:
    """Whether a device has a version, and is not in its trial."""
    return fact.active == ref and not fact.trial


def runs(world: World, spec: RolloutSpec, name: str) -> bool:
    """Whether a device that was read has the version, and is not in its trial."""
    target = world.target(spec)
    fact = device_fact(world.devices[name], target.slot, spec.mode, eligible=True)
    return has(fact, target.ref)


def figures_of(
    connection: sa.Connection, spec: RolloutSpec, state: RolloutState
) -> dict[str, Figures]:
    """What the members measured with the target, when some gate asks for it."""
    if not any(counts(spec.gates_of(wave)) for wave in range(len(spec.waves))):
        return {}
    since = {m.device: m.since for m in state.members.values() if m.phase in ("trial", "confirmed")}
    target = state.header.target.manifest_sha256
    return telemetry.of_bundle(connection, state.header.slot, target, since)


def judged_before(
    connection: sa.Connection, spec: RolloutSpec, state: RolloutState
) -> dict[str, Judged]:
    """What was said, on any device, of the versions that the members ran before.

    Nothing where no gate asks for it.
    """
    if all(spec.gates_of(w).max_field_regression is None for w in range(len(spec.waves))):
        return {}
    old = {m.previous_ref.manifest_sha256 for m in state.members.values() if m.previous_ref}
    if not old:
        return {}
    since = min(m.since for m in state.members.values()) - field.BEFORE_S
    return field.by_device(connection, state.header.slot, sorted(old), since)


def groups_of(connection: sa.Connection, spec: RolloutSpec) -> dict[str, dict[str, str]]:
    """The values that devices have of the labels by which gates tell parts of the fleet apart."""
    keys = {spec.gates_of(wave).field_by for wave in range(len(spec.waves))} - {None}
    return {
        key: {
            device: value
            for value, devices in field.values(connection, key).items()
            for device in devices
        }
        for key in sorted(filter(None, keys))
    }
