"""The state of a rollout: a header, and one member for each device that it touched."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from contracts.desired import DesiredBundle
from contracts.errors import ErrorInfo
from contracts.messages import BundleRef

Status = Literal[
    "queued",
    "running",
    "awaiting-approval",
    "paused",
    "rolling-back",
    "succeeded",
    "stopped",
    "aborted",
]
"""``stopped``: by a gate. ``aborted``: by a person. Both after the rollback, where there is one."""

ACTIVE: Final[frozenset[str]] = frozenset(
    {"queued", "running", "awaiting-approval", "paused", "rolling-back"}
)
ENDED: Final[frozenset[str]] = frozenset({"succeeded", "stopped", "aborted"})

Phase = Literal[
    "assigned",
    "updating",
    "trial",
    "confirmed",
    "failed",
    "deferred",
    "removed",
    "undoing",
    "undone",
    "undo-failed",
]
"""Where a device is in a rollout.

``deferred``: it is away, no wave waits for it; it goes on when it comes back. One that went away
in the middle of the update is waited for until its deadline, and is `lost` from then on.
``failed``: refused, rolled back by itself, or past its deadline, and out of tries.
``removed``: revoked while it was a member.
``undoing``: told to go back; ``undone``: went back.
"""

IN_FLIGHT: Final[frozenset[str]] = frozenset({"assigned", "updating", "trial"})


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """A device of a rollout.

    Attributes:
        device: its id.
        wave: index of the wave that gave it the version.
        phase: where it is.
        revision: the desired revision that the engine last gave it.
        since: when it got its version last (a retry starts anew).
        changed: when the phase last changed.
        attempts: tries so far.
        previous: what its slot desired before, to go back to.
        previous_ref: the bundle that was active before.
        reason: why it failed.
        golden_accuracy: from the device's self-test.
        told: it was connected when it got the version, or since.
        lost: it went away after the first sign of the update, and has neither confirmed nor
            refused since. It counts as failed.
        progressed: when it last got on; the deadline counts from here.
        step: how far the update has come in this try, counted in states.
        done_bytes: most bytes of the bundle that it had in this try.
    """

    device: str
    wave: int
    phase: Phase
    revision: int
    since: float
    changed: float
    attempts: int = 1
    previous: DesiredBundle | None = None
    previous_ref: BundleRef | None = None
    reason: ErrorInfo | None = None
    golden_accuracy: float | None = None
    told: bool = False
    lost: bool = False
    progressed: float = 0.0
    step: int = 0
    done_bytes: int = 0


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """One gate's figure in one wave.

    Attributes:
        gate: its name in :class:`fleet.rollout.spec.Gates`.
        wave: index of the wave.
        limit: of the gate.
        value: the figure; None: no evidence yet.
        holds: whether the gate holds; None: no evidence yet.
        samples: requests (or devices) behind the figure.
        devices: who made the figure bad, worst first: id and own figure.
        lost: how many of the failed devices went away in the middle of the update.
        why: what is missing to know whether it holds.
    """

    gate: str
    wave: int
    limit: float
    value: float | None = None
    holds: bool | None = None
    samples: int = 0
    devices: list[tuple[str, float]] = []
    lost: int = 0
    why: str = ""


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """A rollout without its members.

    Attributes:
        status: of the whole.
        target: the bundle.
        slot: of the devices.
        wave: index of the current wave.
        approved: index of the last wave that a person approved.
        began: when the current wave began; None: not yet.
        bake_until: end of the current wave's bake time; None: its devices are not done.
        readings: the newest figures of all gates.
        reason: why it was stopped, paused or aborted.
        ending: how a rollback that is under way ends.
        ended: when it ended.
        waiting: why nothing moves now, for people; empty when it does.
    """

    status: Status
    target: BundleRef
    slot: str
    wave: int = 0
    approved: int = -1
    began: float | None = None
    bake_until: float | None = None
    readings: list[Reading] = []
    reason: ErrorInfo | None = None
    ending: Literal["stopped", "aborted"] | None = None
    ended: float | None = None
    waiting: str = ""


class RolloutState(msgspec.Struct, frozen=True):
    """A rollout: `number` orders rollouts by age."""

    id: str
    number: int
    header: Header
    members: dict[str, Member] = {}

    def replace(self, **header: object) -> RolloutState:
        """This state with fields of the header replaced."""
        return msgspec.structs.replace(self, header=msgspec.structs.replace(self.header, **header))
