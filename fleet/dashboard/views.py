"""What templates show: plain values made from the store's types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from contracts.clock import TOLERANCE_S, span
from contracts.messages import BundleRef, Reported
from fleet.dashboard import words
from fleet.field import Line, Version
from fleet.rollout.gates import MAX_BLAMED
from fleet.rollout.state import ACTIVE, Reading
from fleet.store import waits
from fleet.store.delivery import complaints
from fleet.store.devices import Device
from fleet.store.rollouts import Stored
from fleet.store.waits import Waiting

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_DEPTH: Final = 16
"""Levels of a nested document that a table shows: reports come from elsewhere."""

DONE: Final = frozenset({"confirmed", "undone"})
PHASE_ORDER: Final = (
    "confirmed", "trial", "updating", "assigned", "undoing", "undone", "deferred", "failed",
    "undo-failed", "removed",
)  # fmt: skip

GATE_TITLES: Final = {
    "max_failure_rate": "Failure rate",
    "max_error_rate": "Error rate",
    "max_latency_p95_us": "Latency p95 (µs)",
    "max_rss_bytes": "Resident memory (bytes)",
    "min_golden_accuracy": "Golden accuracy",
    "max_label_drift": "Label drift",
    "max_confidence_drift": "Confidence drift",
    "max_unknown_rate": "Rate of “unknown”",
    "max_shadow_disagreement": "Shadow disagreement",
    "min_field_accuracy": "Accuracy in the field",
    "max_field_regression": "Accuracy lost in the field",
}


class Alert(msgspec.Struct, frozen=True):
    """Something to look at. `level` is ``bad``, ``warn`` or ``info``; `link` may be empty."""

    level: str
    text: str
    link: str


class SlotView(msgspec.Struct, frozen=True):
    """One slot of a device: what it runs against what is wanted."""

    name: str
    active: str
    wanted: str
    previous: str
    shadow: str
    trial: bool
    mode: str
    problem: str = ""
    accelerator: str = ""

    @property
    def differs(self) -> bool:
        """Whether the device does not (yet) run what is wanted."""
        return bool(self.wanted) and self.wanted != (
            self.shadow if self.mode == "shadow" else self.active
        )


class DeviceView(msgspec.Struct, frozen=True):
    """A device."""

    id: str
    state: str
    state_at: float | None
    seen_at: float | None
    board: str
    labels: dict[str, str]
    groups: list[str]
    own_labels: dict[str, str]
    own_groups: list[str]
    slots: list[SlotView]
    facts: list[tuple[str, str]]
    wanted_revision: int
    reached_revision: int
    rollout: str
    update_state: str
    waits: list[Waiting]
    complaints: list[str]

    @classmethod
    def of(cls, device: Device, dropped: Mapping[str, int]) -> Self:
        """From the store's device, and what was dropped of its data."""
        reported = device.reported
        reports = reported.slots if reported else {}
        wanted = device.desired.slots if device.desired else {}
        slots = []
        for name in sorted(reports.keys() | wanted.keys()):
            report, desired = reports.get(name), wanted.get(name)
            slots.append(
                SlotView(
                    name=name,
                    active=_ref(report.active if report else None),
                    wanted=_ref(desired.bundle if desired else None),
                    previous=_ref(report.previous if report else None),
                    shadow=_ref(report.shadow if report else None),
                    trial=report.trial if report else False,
                    mode=desired.mode if desired else "active",
                    problem=words.both(report.problem) if report and report.problem else "",
                    accelerator=words.accelerator(report.acceleration) if report else "",
                )
            )
        event = device.update
        return cls(
            id=device.id,
            state="revoked" if device.revoked_at is not None else device.state,
            state_at=device.state_at,
            seen_at=device.seen_at,
            board=device.hardware,
            labels=device.labels,
            groups=device.groups,
            own_labels=device.own_labels,
            own_groups=device.own_groups,
            slots=slots,
            facts=_facts(device),
            wanted_revision=device.desired_revision,
            reached_revision=reported.desired_revision if reported else 0,
            rollout=device.rollout or "",
            update_state=event.state if event else "",
            waits=waits.of(device),
            complaints=complaints(dropped),
        )


def _ref(ref: BundleRef | None) -> str:
    return str(ref) if ref is not None else ""


def _facts(device: Device) -> list[tuple[str, str]]:
    reported = device.reported
    found = [("Board", device.hardware or "unknown")]
    if reported is not None:
        found += [
            ("Agent", reported.agent_version),
            ("Runtime", reported.runtime),
            ("Memory", f"{reported.memory_bytes / 1e6:,.0f} MB"),
            ("Free storage", f"{reported.free_bytes / 1e6:,.0f} MB"),
            ("Clock", _clock(reported)),
        ]
        found += [(name[:40], value[:200]) for name, value in sorted(reported.platform.items())]
    return found[:24]


def _clock(reported: Reported) -> str:
    offset = reported.clock_offset_s
    if reported.clock == "unsynced":
        return "never set"
    if offset is None or abs(offset) <= TOLERANCE_S:
        return "set"
    return f"{span(offset)} {'ahead of' if offset > 0 else 'behind'} the controller's"


class DevicePage(msgspec.Struct, frozen=True):
    """Some devices; which page of how many devices; and counts of all by state."""

    devices: list[DeviceView]
    number: int
    size: int
    total: int
    counts: dict[str, int]

    @property
    def first(self) -> int:
        """Which device of the list the first is, from 1."""
        return (self.number - 1) * self.size + 1

    @property
    def pages(self) -> int:
        """How many there are."""
        return max(1, -(-self.total // self.size))


FIELD_GROUPS: Final = "site"
"""The label of devices by whose values accuracy is shown."""


class FieldView(msgspec.Struct, frozen=True):
    """What people say of a bundle's answers: all versions, and one by label and by site."""

    bundle: str
    versions: list[Version]
    labels: list[Line]
    confusions: list[tuple[str, str, int]]
    groups: list[Line]

    @property
    def apart(self) -> list[tuple[str, float, float]]:
        """Devices whose users say something else of this version than all others."""
        return [row for one in self.versions if one.bundle == self.bundle for row in one.apart]


class GateView(msgspec.Struct, frozen=True):
    """One gate's figure in one wave."""

    title: str
    wave: int
    value: float | None
    limit: float
    least: bool
    holds: bool | None
    samples: int
    devices: list[str]
    why: str

    @classmethod
    def of(cls, reading: Reading) -> Self:
        """From the engine's reading."""
        return cls(
            GATE_TITLES.get(reading.gate, reading.gate),
            reading.wave,
            reading.value,
            reading.limit,
            reading.gate.startswith("min_"),
            reading.holds,
            reading.samples,
            [device for device, _ in reading.devices[:MAX_BLAMED]] if not reading.holds else [],
            reading.why,
        )


class WaveView(msgspec.Struct, frozen=True):
    """One wave: ``state`` is ``done``, ``now``, ``next`` or ``skipped``."""

    index: int
    size: str
    approval: bool
    state: str
    phases: list[tuple[str, int]]
    devices: int


class RolloutView(msgspec.Struct, frozen=True):
    """A rollout."""

    id: str
    bundle: str
    slot: str
    mode: str
    status: str
    selector: str
    wave: int
    waves: list[WaveView]
    phases: list[tuple[str, int]]
    devices: int
    gates: list[GateView]
    reason: str
    waiting: str
    bake_until: float | None
    note: str
    created_at: float
    created_by: str
    updated_at: float
    ended: float | None

    @property
    def active(self) -> bool:
        """Whether it goes on."""
        return self.status in ACTIVE

    @property
    def commands(self) -> list[str]:
        """What a person may tell it now."""
        return {
            "queued": ["abort"],
            "running": ["pause", "abort"],
            "awaiting-approval": ["approve", "pause", "abort"],
            "paused": ["resume", "abort"],
        }.get(self.status, [])

    @property
    def progress(self) -> str:
        """In words, of the devices that it has told so far."""
        counts = dict(self.phases)
        text = f"{counts.get('confirmed', 0)} of {self.devices} confirmed"
        text += " so far" if self.active else ""
        for phase, said in (("deferred", "away"), ("failed", "failed")):
            text += f", {counts[phase]} {said}" if phase in counts else ""
        return text

    @classmethod
    def of(cls, stored: Stored, by_wave: dict[int, dict[str, int]]) -> Self:
        """From the store's rollout and its members counted by wave and phase."""
        header, spec = stored.state.header, stored.spec
        total: dict[str, int] = {}
        for phases in by_wave.values():
            for phase, count in phases.items():
                total[phase] = total.get(phase, 0) + count
        waves = [
            WaveView(
                index=index,
                size=str(wave),
                approval=wave.approval,
                state=_wave_state(index, header.wave, header.status),
                phases=ordered(by_wave.get(index, {})),
                devices=sum(by_wave.get(index, {}).values()),
            )
            for index, wave in enumerate(spec.waves)
        ]
        return cls(
            id=stored.state.id,
            bundle=str(header.target),
            slot=header.slot,
            mode=spec.mode,
            status=header.status,
            selector=spec.selector,
            wave=header.wave,
            waves=waves,
            phases=ordered(total),
            devices=sum(total.values()),
            gates=[GateView.of(reading) for reading in header.readings],
            reason=header.reason.message if header.reason else "",
            waiting=header.waiting,
            bake_until=header.bake_until,
            note=spec.note,
            created_at=stored.created_at,
            created_by=stored.created_by,
            updated_at=stored.updated_at,
            ended=header.ended,
        )


def ordered(phases: dict[str, int]) -> list[tuple[str, int]]:
    """Counts in the order in which a bar shows them."""
    return [(phase, phases[phase]) for phase in PHASE_ORDER if phases.get(phase)]


def _wave_state(index: int, current: int, status: str) -> str:
    if status == "succeeded" or index < current:
        return "done"
    if index == current:
        return "now" if status in ACTIVE else "ended"
    return "next" if status in ACTIVE else "skipped"


class Overview(msgspec.Struct, frozen=True):
    """The first page."""

    counts: dict[str, int]
    traffic: list[tuple[int, int, int]]
    rollouts: list[RolloutView]
    recent: list[RolloutView]
    versions: list[tuple[str, int]]
    published: int
    alerts: list[Alert]

    @property
    def devices(self) -> int:
        """All devices that may connect."""
        return sum(count for state, count in self.counts.items() if state != "revoked")

    @property
    def requests(self) -> int:
        """In the last hour."""
        return sum(requests for _, requests, _ in self.traffic)

    @property
    def error_rate(self) -> float | None:
        """In the last hour."""
        return sum(errors for *_, errors in self.traffic) / self.requests if self.requests else None


def flatten(document: dict[str, Any], prefix: str = "", depth: int = 0) -> list[tuple[str, Any]]:
    """A nested document as dotted names and values, for a table; at most 400 of them."""
    found: list[tuple[str, Any]] = []
    for key, value in document.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            deep = depth >= MAX_DEPTH
            found += [(name, "more")] if deep else flatten(value, f"{name}.", depth + 1)
        elif isinstance(value, list) and len(value) > 12:
            found.append((name, f"{len(value)} values"))
        else:
            found.append((name, value))
        if len(found) >= 400:
            break
    return found[:400]
