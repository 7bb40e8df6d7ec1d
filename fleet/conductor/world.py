"""From the store to the engine's facts: which devices a rollout sees, and why not the others."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from contracts import board as boards
from contracts.errors import InputError
from contracts.manifest import Manifest
from contracts.messages import BundleRef
from fleet.figures import Figures
from fleet.rollout import selector
from fleet.rollout.facts import DeviceFact, Facts
from fleet.rollout.spec import Gates, RolloutSpec
from fleet.rollout.state import RolloutState
from fleet.store import telemetry
from fleet.store.bundles import Published
from fleet.store.devices import Device

_COUNTED_GATES = (
    "max_error_rate", "max_latency_p95_us", "max_rss_bytes", "max_label_drift",
    "max_confidence_drift", "max_unknown_rate", "max_shadow_disagreement",
)  # fmt: skip


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
    """All devices at one moment, as one rollout after the other sees and changes them.

    Args:
        devices: every device.
    """

    def __init__(self, devices: Iterable[Device]) -> None:
        self.devices = {device.id: device for device in devices}
        self._misfits: dict[tuple[str, str], str | None] = {}

    def _misfit(self, published: Published, board: str) -> str | None:
        key = (published.ref.manifest_sha256, board)
        if key not in self._misfits:
            self._misfits[key] = misfit(published.manifest, board)
        return self._misfits[key]

    def pool(self, spec: RolloutSpec, published: Published) -> tuple[list[Device], dict[str, str]]:
        """Devices that the selector means: those that can have the bundle, and why not the rest."""
        wanted = selector.parse(spec.selector)
        fit: list[Device] = []
        left_out: dict[str, str] = {}
        for device in self.devices.values():
            if not device.matches(wanted):
                continue
            if device.revoked_at is not None:
                left_out[device.id] = "revoked"
            elif reason := self._misfit(published, device.hardware):
                left_out[device.id] = reason
            else:
                fit.append(device)
        return fit, left_out

    def facts(
        self,
        spec: RolloutSpec,
        state: RolloutState,
        published: Published,
        *,
        figures: Mapping[str, Figures],
        newest: Mapping[str, int],
        blockers: list[str],
    ) -> Facts:
        """What the engine is told about a rollout."""
        fit, _ = self.pool(spec, published)
        eligible = {device.id for device in fit}
        seen = eligible | {d for d in state.members if d in self.devices}
        return Facts(
            devices={
                d: device_fact(
                    self.devices[d], state.header.slot, spec.mode, d in eligible, newest.get(d, 0)
                )
                for d in seen
            },
            figures=dict(figures),
            baseline=published.manifest.baseline,
            blockers=blockers,
        )


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
    if not any(_counts(spec.gates_of(wave)) for wave in range(len(spec.waves))):
        return {}
    since = {m.device: m.since for m in state.members.values() if m.phase in ("trial", "confirmed")}
    target = state.header.target.manifest_sha256
    return telemetry.of_bundle(connection, state.header.slot, target, since)


def _counts(gates: Gates) -> bool:
    return any(getattr(gates, name) is not None for name in _COUNTED_GATES)
