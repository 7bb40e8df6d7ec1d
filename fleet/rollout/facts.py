"""What the engine is told about the world, and what it asks for in return."""

from __future__ import annotations

from typing import Any

import msgspec

from contracts.desired import DesiredBundle
from contracts.judged import Judged
from contracts.manifest import Baseline
from contracts.messages import BundleRef, UpdateEvent, Wait
from fleet.figures import Figures


class DeviceFact(msgspec.Struct, frozen=True):
    """One device, as the store knows it.

    Attributes:
        device: its id.
        eligible: the selector means it, it is not revoked, and its board can hold the bundle.
        revoked: it may not connect any more.
        online: it is connected.
        since: when it got online or offline.
        active: the bundle in the rollout's slot (in shadow mode: the shadow bundle).
        serving: the bundle that answers in the slot, in either mode.
        trial: the active bundle is on trial.
        reached: the desired revision that the device reported to have reached.
        revision: the newest desired revision that the controller gave it.
        desired: what the controller wants in the slot.
        event: the newest event of an update, of any slot.
        holder: the rollout that holds the device.
        newest: number of the newest rollout of this slot that touched it; 0: none.
        waits: what it waits for, by its own word.
    """

    device: str
    eligible: bool = True
    revoked: bool = False
    online: bool = True
    since: float = 0.0
    active: BundleRef | None = None
    serving: BundleRef | None = None
    trial: bool = False
    reached: int = 0
    revision: int = 0
    desired: DesiredBundle | None = None
    event: UpdateEvent | None = None
    holder: str | None = None
    newest: int = 0
    waits: list[Wait] = []


class Facts(msgspec.Struct, frozen=True):
    """The world at one moment.

    Attributes:
        devices: every device that is eligible or a member.
        figures: what members measured while they ran the rollout's bundle.
        baseline: of the bundle's manifest.
        before: what was said of answers of the versions that the members ran before, by device.
        groups: by the name of a label, the value that each device has.
        blockers: ids of older active rollouts that share devices with this one.
    """

    devices: dict[str, DeviceFact] = {}
    figures: dict[str, Figures] = {}
    baseline: Baseline | None = None
    before: dict[str, Judged] = {}
    groups: dict[str, dict[str, str]] = {}
    blockers: list[str] = []


class SetDesired(msgspec.Struct, frozen=True):
    """Give a device a new desired document. `bundle` None empties the slot.

    With `hold` no other rollout may touch the device until this one lets go of it.
    """

    device: str
    revision: int
    slot: str
    bundle: DesiredBundle | None
    hold: bool = True


class Release(msgspec.Struct, frozen=True):
    """The rollout no longer holds the device."""

    device: str


class Note(msgspec.Struct, frozen=True):
    """Something that people and webhooks are told."""

    kind: str
    message: str
    detail: dict[str, Any] = {}


Action = SetDesired | Release | Note
