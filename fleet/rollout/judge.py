"""Where a member is, by what its device reported. Pure."""

from __future__ import annotations

import msgspec

from contracts.errors import ErrorInfo
from contracts.messages import BundleRef, UpdateEvent
from fleet.rollout.facts import DeviceFact
from fleet.rollout.spec import RolloutSpec
from fleet.rollout.state import IN_FLIGHT, Member, Phase


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
    if event is not None:
        golden = event.golden_accuracy
        if golden is None:
            golden = member.golden_accuracy
        match event.state:
            case "refused" | "rolled-back":
                reason = event.reason or ErrorInfo(event.state, f"the device {event.state} it")
                return _moved(member, "failed", now, reason=reason, golden_accuracy=golden)
            case "committed":
                return _moved(member, "confirmed", now, golden_accuracy=golden)
            case "trial" if member.phase in IN_FLIGHT or member.phase == "deferred":
                member = _moved(member, "trial", now, golden_accuracy=golden)
            case _ if member.phase in ("assigned", "updating"):
                member = _moved(member, "updating", now, golden_accuracy=golden)
    on_its_way = member.phase in IN_FLIGHT or member.phase == "deferred"
    there = fact.reached >= member.revision and fact.active == target and not fact.trial
    if on_its_way and there:
        return _moved(member, "confirmed", now)
    return _with_clock(member, fact, spec, now)


def _with_clock(member: Member, fact: DeviceFact, spec: RolloutSpec, now: float) -> Member:
    """Deadlines: late and online has failed, away is deferred, back again starts anew."""
    if member.phase == "deferred":
        return _moved(member, "assigned", now, since=now) if fact.online else member
    if member.phase not in IN_FLIGHT:
        return member
    if not fact.online and now - max(member.since, fact.since) >= spec.offline_s:
        return _moved(member, "deferred", now)
    # The trial is the device's own watch, after the update: it does not eat the deadline.
    trial = spec.trial.seconds if member.phase == "trial" else 0.0
    if now - member.since < spec.deadline_s + trial:
        return member
    if not fact.online:
        return _moved(member, "deferred", now)
    reason = ErrorInfo(
        "deadline",
        f"not confirmed within {spec.deadline_s:g} s, last seen {member.phase}",
        {"phase": member.phase},
    )
    return _moved(member, "failed", now, reason=reason)


def judge_undo(member: Member, fact: DeviceFact, target: BundleRef, now: float) -> Member:
    """A member on its way back."""
    event = fact.event
    ours = event is not None and event.revision >= member.revision and event.bundle != target
    if event is not None and ours and event.state in ("refused", "rolled-back"):
        return _moved(member, "undo-failed", now, reason=event.reason)
    if fact.reached < member.revision:
        return member
    back_to = member.previous.bundle if member.previous else member.previous_ref
    if fact.active == target and back_to is not None:
        return member
    return _moved(member, "undone", now)
