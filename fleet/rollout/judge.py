"""Where a member is, by what its device reported. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from contracts.errors import ErrorInfo
from contracts.messages import BundleRef, UpdateEvent
from fleet.rollout import progress
from fleet.rollout.facts import DeviceFact
from fleet.rollout.spec import RolloutSpec
from fleet.rollout.state import IN_FLIGHT, Member, Phase

_FOUND: Final[dict[str, object]] = {"lost": False, "reason": None}
"""What changes in a member that confirms: it is no longer lost, and failed no more."""


def _event_of(member: Member, fact: DeviceFact, target: BundleRef, slot: str) -> UpdateEvent | None:
    """The device's newest event, when it is about this member's current try."""
    event = fact.event
    if event is None or event.revision < member.revision:
        return None
    return event if event.bundle == target and event.slot == slot else None


def _moved(member: Member, phase: Phase, now: float, **changes: object) -> Member:
    if phase == member.phase and not changes:
        return member
    changed = member.changed if phase == member.phase else now
    moved = msgspec.structs.replace(member, phase=phase, changed=changed, **changes)
    return member if moved == member else moved


def judge(
    member: Member,
    fact: DeviceFact,
    target: BundleRef,
    slot: str,
    spec: RolloutSpec,
    now: float,
) -> Member:
    """A member on its way to the target, or there; the same object when nothing changed."""
    if member.phase in ("undone", "removed"):
        return member
    event = _event_of(member, fact, target, slot)
    if member.phase == "deferred" and (fact.online or (event is not None and not member.lost)):
        # Back again, or it was between two looks: it starts anew, before its event is read.
        member = _moved(member, "assigned", now, since=now, told=True)
    if event is not None:
        golden = event.golden_accuracy
        if golden is None:
            golden = member.golden_accuracy
        match event.state:
            case "refused" | "rolled-back":
                reason = event.reason or ErrorInfo(event.state, f"the device {event.state} it")
                return _moved(
                    member, "failed", now, reason=reason, golden_accuracy=golden, lost=False
                )
            case "committed":
                return _moved(member, "confirmed", now, golden_accuracy=golden, **_FOUND)
            case "trial" if member.phase in IN_FLIGHT:
                member = _moved(member, "trial", now, golden_accuracy=golden)
            case _ if member.phase in ("assigned", "updating"):
                member = _moved(member, "updating", now, golden_accuracy=golden)
    on_its_way = member.phase in IN_FLIGHT or member.phase == "deferred"
    there = fact.reached >= member.revision and fact.active == target and not fact.trial
    if on_its_way and there:
        return _moved(member, "confirmed", now, **_FOUND)
    if member.phase in IN_FLIGHT:
        member = progress.noted(member, event, now)
    return _with_clock(member, fact, slot, spec, now)


def _with_clock(
    member: Member, fact: DeviceFact, slot: str, spec: RolloutSpec, now: float
) -> Member:
    """Deadlines: stuck and online has failed; away is deferred, in mid-update it is lost.

    A device that is away before the first sign of the update has harmed nobody, and nobody waits
    for it. One that went away in the middle may be dead by the version: it has until its deadline
    to come back, and its wave waits.
    """
    if member.phase not in IN_FLIGHT:
        return member
    begun = member.phase != "assigned"
    if not begun and not fact.online and now - max(member.since, fact.since) >= spec.offline_s:
        return _moved(member, "deferred", now)
    overdue = progress.overdue(member, fact, slot, spec, now)
    if not overdue:
        return member
    if not fact.online and not begun:
        return _moved(member, "deferred", now)
    if not fact.online:
        reason = ErrorInfo(
            "lost",
            f"went away in the middle of the update, last seen {member.phase}, and was not back "
            f"within {spec.deadline_s:g} s",
            {"phase": member.phase},
        )
        return _moved(member, "deferred", now, reason=reason, lost=True)
    why = progress.reason(fact, slot)
    detail = {"phase": member.phase} | ({"cause": why.code[:40]} if why is not None else {})
    return _moved(member, "failed", now, reason=ErrorInfo("deadline", overdue, detail), lost=False)


def judge_undo(
    member: Member, fact: DeviceFact, target: BundleRef, spec: RolloutSpec, now: float
) -> Member:
    """A member on its way back: it is, when what the rollout brought is gone."""
    event = fact.event
    ours = event is not None and event.revision >= member.revision and event.bundle != target
    if event is not None and ours and event.state in ("refused", "rolled-back"):
        return _moved(member, "undo-failed", now, reason=event.reason)
    if fact.reached < member.revision:
        return member
    if spec.mode == "shadow":
        back_to = member.previous.shadow if member.previous else None
    else:
        back_to = member.previous.active if member.previous else member.previous_ref
    if fact.active == target and back_to != target:
        return member
    return _moved(member, "undone", now)
