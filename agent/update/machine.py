"""The update as a state machine: values in, values out, no clock, no disk.

::

    desired -> downloading -> verified -> fits (-> held) -> self-tested -> trial -> committed
                    |             |         |       |            |           |
                    +-------------+---------+-------+            +-----------+-> rolling-back
                                  |                                                    |
                               refused                                            rolled-back

``held``: it was self-tested, and waits for its maintenance window.

Every state is written to the journal before its work begins, and every work can be done
again from its start, so that a crash at any moment is continued by :func:`action` of the
state in the journal.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from contracts import limits
from contracts.desired import Desired, DesiredBundle, TrialRules, Window
from contracts.errors import ErrorInfo
from contracts.messages import FINAL_UPDATE_STATES, BundleRef, Count, Name, SlotReport, UpdateState

State = Literal["desired", "held", "rolling-back", UpdateState]
"""The states of the protocol, and three that only the journal knows."""

Mode = Literal["active", "shadow"]

Action = Literal[
    "download",
    "check-fit",
    "self-test",
    "await-window",
    "activate",
    "watch-trial",
    "restore",
    "nothing",
]

BASE: Final = "base"
"""In the detail of a reason: digest of the base that an adapter lacks."""

MAX_LOCAL_FAILURES: Final = 8
"""Failures of this device in a row (disk full, input/output error) that end an update."""


class Update(msgspec.Struct, frozen=True, omit_defaults=True):
    """One update of one slot, as the journal keeps it.

    Attributes:
        revision, slot, bundle, mode, trial, windows, rollout: from the desired document.
        state: where it is.
        at: when it got there, seconds since the epoch.
        old, older: the active and previous bundle when it began; a rollback restores them.
        done_bytes, total_bytes: of the bundle's files.
        failures: local failures in a row.
        restarts: starts of the agent within the trial, or its activation.
        golden_accuracy: share of golden vectors that held.
        reason: why it was refused or rolled back, or why the last try failed.
    """

    revision: Count
    slot: Name
    bundle: BundleRef
    state: State = "desired"
    at: float = 0.0
    mode: Mode = "active"
    trial: TrialRules = TrialRules()
    rollout: str | None = None
    old: BundleRef | None = None
    older: BundleRef | None = None
    done_bytes: Count = 0
    total_bytes: Count = 0
    failures: Count = 0
    restarts: Count = 0
    golden_accuracy: float | None = None
    reason: ErrorInfo | None = None
    windows: list[Window] = []

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL_UPDATE_STATES


class Began(msgspec.Struct, frozen=True):
    """The work of the update begins."""


class Downloaded(msgspec.Struct, frozen=True):
    """Every file is on disk and is what the signed manifest says."""

    total_bytes: int


class Fitted(msgspec.Struct, frozen=True):
    """The bundle fits this device."""


class SelfTested(msgspec.Struct, frozen=True):
    """The golden vectors hold."""

    accuracy: float


class Opened(msgspec.Struct, frozen=True):
    """Its maintenance window is open."""


class Activated(msgspec.Struct, frozen=True):
    """The links point at the new bundle and it serves."""


class TrialPassed(msgspec.Struct, frozen=True):
    """The trial's time is over and its rules hold."""


class Restored(msgspec.Struct, frozen=True):
    """The links point at the old bundle and it serves; `problem`: why it does not."""

    problem: ErrorInfo | None = None


class Restarted(msgspec.Struct, frozen=True):
    """The agent started again."""


class Failed(msgspec.Struct, frozen=True):
    """This must not go on: a rule was broken, or the bundle is bad."""

    reason: ErrorInfo


class Hindered(msgspec.Struct, frozen=True):
    """A try failed and may be repeated. `local`: because of this device, not the network."""

    reason: ErrorInfo
    local: bool


Event = (
    Began
    | Downloaded
    | Fitted
    | SelfTested
    | Opened
    | Activated
    | TrialPassed
    | Restored
    | Restarted
    | Failed
    | Hindered
)

_ACTIONS: Final[dict[str, Action]] = {
    "desired": "download",
    "downloading": "download",
    "verified": "check-fit",
    "fits": "self-test",
    "held": "await-window",
    "self-tested": "activate",
    "trial": "watch-trial",
    "rolling-back": "restore",
}


def action(update: Update | None) -> Action:
    """What has to be done in the update's state."""
    return "nothing" if update is None else _ACTIONS.get(update.state, "nothing")


class IllegalEvent(AssertionError):  # noqa: N818  # a fault of the caller, never of the input
    """An event came in a state in which it cannot."""


def advance(update: Update, event: Event, now: float) -> Update:
    """The update after an event.

    Args:
        update: before it.
        event: what happened.
        now: seconds since the epoch.

    Raises:
        IllegalEvent: the event cannot come in this state.
    """
    change = msgspec.structs.replace
    match update.state, event:
        case "desired", Began():
            return change(update, state="downloading", at=now)
        case "downloading", Downloaded(total):
            return change(
                update,
                state="verified",
                at=now,
                failures=0,
                reason=None,
                done_bytes=total,
                total_bytes=total,
            )
        case "verified", Fitted():
            return change(update, state="fits", at=now, failures=0, reason=None)
        case "fits", SelfTested(accuracy):
            return change(
                update,
                state="held" if update.windows else "self-tested",
                at=now,
                failures=0,
                reason=None,
                golden_accuracy=accuracy,
            )
        case "held", Opened():
            return change(update, state="self-tested", at=now, failures=0, reason=None)
        case "self-tested", Activated():
            state: State = "committed" if update.mode == "shadow" else "trial"
            return change(update, state=state, at=now, failures=0, restarts=0, reason=None)
        case "trial", TrialPassed():
            return change(update, state="committed", at=now, failures=0, reason=None)
        case "rolling-back", Restored(problem):
            return change(update, state="rolled-back", at=now, reason=_both(update, problem))
        case (("trial" | "self-tested"), Restarted()):  # the activation of a shadow may kill, too
            return _count_restart(update, now)
        case _, Restarted():
            return update
        case _, Hindered(reason, local) if not update.final:
            return _count_failure(update, reason, local, now)
        case "trial", Failed(reason):
            return change(update, state="rolling-back", at=now, reason=_capped(reason))
        case "self-tested", Failed(reason):
            # The links may already point at the new bundle.
            return change(update, state="rolling-back", at=now, reason=_capped(reason))
        case (("desired" | "downloading" | "verified" | "fits" | "held"), Failed(reason)):
            return change(update, state="refused", at=now, reason=_capped(reason))
    raise IllegalEvent(f"{type(event).__name__} in state {update.state}")


def _count_restart(update: Update, now: float) -> Update:
    restarts = update.restarts + 1
    limit = update.trial.max_restarts
    what = "the trial" if update.state == "trial" else "the activation"
    if restarts < limit:
        # An activation that was cut short begins again inside a window, like the first.
        held = update.state == "self-tested" and bool(update.windows)
        state: State = "held" if held else update.state
        return msgspec.structs.replace(update, restarts=restarts, state=state)
    return msgspec.structs.replace(
        update,
        restarts=restarts,
        state="rolling-back",
        at=now,
        reason=ErrorInfo("trial-restarts", f"the agent started {restarts} times within {what}", {}),
    )


def _count_failure(update: Update, reason: ErrorInfo, local: bool, now: float) -> Update:
    failures = update.failures + 1 if local else update.failures
    if update.state == "rolling-back":  # keeps the reason why; it is never given up
        return msgspec.structs.replace(update, failures=failures)
    update = msgspec.structs.replace(update, failures=failures, reason=_capped(reason))
    if failures < MAX_LOCAL_FAILURES or update.state == "trial":
        return update
    return advance(msgspec.structs.replace(update, failures=0), Failed(reason), now)


def _both(update: Update, problem: ErrorInfo | None) -> ErrorInfo | None:
    """Why it was rolled back, and why what ran before does not serve."""
    if problem is None or update.reason is None:
        return problem or update.reason
    old = f"{update.old} does not serve either" if update.old else "nothing ran before"
    message = f"{update.reason.message}; {old}: {problem.code}: {problem.message}"
    return _capped(msgspec.structs.replace(update.reason, message=message))


def _capped(reason: ErrorInfo) -> ErrorInfo:
    if len(reason.message) <= limits.MAX_REASON_CHARS:
        return reason
    return msgspec.structs.replace(reason, message=reason.message[: limits.MAX_REASON_CHARS])


class Settled(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a desired bundle of a slot ended, so that it is not tried again and again.

    `base`: digest of the base that an adapter was refused for. When that is there it is tried.
    """

    revision: Count
    bundle: BundleRef
    mode: str
    base: str = ""

    def holds(self, update: tuple[int, BundleRef, Mode], others: set[str]) -> bool:
        """Whether the same need not be tried again.

        Args:
            update: revision, bundle and mode of what is wanted.
            others: digests of the active bundles of other slots.
        """
        return (self.revision, self.bundle, self.mode) == update and self.base not in others


def plan(
    desired: Desired, slots: dict[str, SlotReport], settled: dict[str, Settled]
) -> list[Update]:
    """The updates that bring a device to what is desired, in the order of their slots.

    Args:
        desired: the newest desired document.
        slots: what the device runs.
        settled: failures by slot; the same revision does not try the same bundle twice.

    Returns:
        Updates in state ``desired``; empty when there is nothing to do.
    """
    updates = []
    for slot, wish in sorted(desired.slots.items()):
        has = slots.get(slot, SlotReport())
        others = {
            report.active.manifest_sha256
            for other, report in slots.items()
            if report.active and other != slot
        }
        for mode, bundle in wishes(wish).items():
            there = has.active if mode == "active" else has.shadow
            if there == bundle:
                continue
            ended = settled.get(place(slot, mode))
            if ended is not None and ended.holds((desired.revision, bundle, mode), others):
                continue
            updates.append(
                Update(
                    revision=desired.revision,
                    slot=slot,
                    bundle=bundle,
                    mode=mode,
                    trial=wish.trial,
                    windows=wish.windows,
                    rollout=desired.rollout,
                    old=has.active,
                    older=has.previous,
                )
            )
    return updates


def wishes(wish: DesiredBundle) -> dict[Mode, BundleRef]:
    """The bundles of a wish by their mode, in the order in which they are installed."""
    found: dict[Mode, BundleRef] = {}
    if wish.active is not None:
        found["active"] = wish.active
    if wish.shadow is not None:
        found["shadow"] = wish.shadow
    return found


def place(slot: str, mode: Mode) -> str:
    """What a bundle of a slot is loaded as, and remembered by when it failed."""
    return slot if mode == "active" else f"{slot}/shadow"


def unwanted(update: Update | None, desired: Desired | None, slots: list[str]) -> list[str]:
    """Slots that desired does not name: they are emptied. One that is being updated is not yet.

    Args:
        update: the running update, or the last one.
        desired: the newest desired document; with none everything stays.
        slots: that there are.
    """
    if desired is None:
        return []
    busy = None if update is None or update.final else update.slot
    return [slot for slot in slots if slot not in desired.slots and slot != busy]


def superseded(update: Update, desired: Desired) -> ErrorInfo | None:
    """Why a running update is no longer wanted; None while it is."""
    wish = desired.slots.get(update.slot)
    if wish is not None and wishes(wish).get(update.mode) == update.bundle:
        return None
    what = f"{wish.bundle} in {wish.mode} mode" if wish else "nothing"
    return ErrorInfo(
        "superseded", f"revision {desired.revision} wants {what} for {update.slot}", {}
    )
