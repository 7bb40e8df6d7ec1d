"""From the store to the engine's facts: which devices a rollout sees, and why not the others."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import msgspec
import sqlalchemy as sa

from contracts import board as boards
from contracts.errors import InputError
from contracts.manifest import Manifest
from contracts.messages import BundleRef
from fleet.figures import Figures
from fleet.rollout import selector
from fleet.rollout.facts import Action, DeviceFact, Facts, Release, SetDesired
from fleet.rollout.gates import counts
from fleet.rollout.spec import RolloutSpec
from fleet.rollout.state import RolloutState
from fleet.store import bundles, desired, devices, rollouts, selection, telemetry
from fleet.store.bundles import Published
from fleet.store.devices import Device


@functools.lru_cache(maxsize=256)
def _profile(name: str) -> boards.Board | None:
    try:
        return boards.load(name)
    except InputError:
        return None


def misfit(manifest: Manifest, board: str) -> str | None:
    """Why a bundle does not fit a board, in one line; None when it does."""
    profile = _profile(board)
    if profile is None:
        return f"its board {board!r} has no profile"
    reasons = boards.misfits(manifest, profile)
    return "; ".join(str(reason) for reason in reasons) or None


def slot_of(spec: RolloutSpec, manifest: Manifest) -> str:
    """Which of a device's models the rollout replaces."""
    return spec.slot or manifest.task


class World:
    """Devices at one moment, read when they are asked for; rollouts change them one by one.

    A rollout that nobody follows any more may have ended its days with a device on its way: it
    never lets go of it, and must not keep it from the others.

    Args:
        connection: one consistent view of the database.
        now: seconds since the epoch.
    """

    def __init__(self, connection: sa.Connection, now: float) -> None:
        self.devices: dict[str, Device] = {}
        self._connection = connection
        self._now = now
        self._published: dict[tuple[str, str], Published] = {}
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

    def published(self, spec: RolloutSpec) -> Published:
        """The bundle of a rollout.

        Raises:
            InputError: ``no-such-bundle``.
        """
        key = (spec.bundle, spec.version)
        if key not in self._published:
            self._published[key] = bundles.find(self._connection, *key)
        return self._published[key]

    def _misfit(self, published: Published, board: str) -> str | None:
        key = (published.ref.manifest_sha256, board)
        if key not in self._misfits:
            self._misfits[key] = misfit(published.manifest, board)
        return self._misfits[key]

    def pool(
        self, spec: RolloutSpec, *conditions: sa.ColumnElement[bool]
    ) -> tuple[set[str], dict[str, str]]:
        """Devices that the selector means: those that can have the bundle, and why not the rest."""
        published = self.published(spec)
        wanted = selection.means(selector.parse(spec.selector))
        fit: set[str] = set()
        left_out: dict[str, str] = {}
        for device, board, revoked in devices.boards(self._connection, wanted, *conditions):
            if revoked:
                left_out[device] = "revoked"
            elif reason := self._misfit(published, board):
                left_out[device] = reason
            else:
                fit.add(device)
        return fit, left_out

    def fitting(self, spec: RolloutSpec, names: Iterable[str]) -> set[str]:
        """Of devices that were read, those that :meth:`pool` says can have the bundle."""
        wanted = selector.parse(spec.selector)
        return {
            name
            for name in names
            if (device := self.devices.get(name)) is not None
            and device.revoked_at is None
            and device.matches(wanted)
            and self._misfit(self.published(spec), device.hardware) is None
        }

    def facts(
        self,
        spec: RolloutSpec,
        state: RolloutState,
        eligible: set[str],
        newest: Mapping[str, int],
        figures: Mapping[str, Figures],
        blockers: list[str],
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
            baseline=self.published(spec).manifest.baseline,
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


def figures_of(
    connection: sa.Connection, spec: RolloutSpec, state: RolloutState
) -> dict[str, Figures]:
    """What the members measured with the target, when some gate asks for it."""
    if not any(counts(spec.gates_of(wave)) for wave in range(len(spec.waves))):
        return {}
    since = {m.device: m.since for m in state.members.values() if m.phase in ("trial", "confirmed")}
    target = state.header.target.manifest_sha256
    return telemetry.of_bundle(connection, state.header.slot, target, since)
