"""Whether a device gets on, and in words why it does not. Pure.

A deadline counts from progress, not from the start: a slow link is not a device that is stuck.
Progress is a further state of the update, or bytes that were never there before in this try; a
reason, a repeated try, or a connection is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from contracts import progress
from contracts.clock import span
from contracts.errors import ErrorInfo
from contracts.messages import FINAL_UPDATE_STATES, UpdateEvent
from fleet.rollout import windows
from fleet.rollout.facts import DeviceFact
from fleet.rollout.spec import RolloutSpec
from fleet.rollout.state import Member

_STEPS: Final = {"downloading": 1, "verified": 2, "fits": 3, "self-tested": 4, "trial": 5}

MAX_CHARS: Final = 300
"""Characters of a device's own words in the reason of a member."""


def noted(member: Member, event: UpdateEvent | None, now: float) -> Member:
    """The member with its progress noted, if there is any."""
    step = _STEPS.get(event.state, 0) if event is not None else 0
    if event is None or (step, event.done_bytes) <= (member.step, member.done_bytes):
        return member
    return msgspec.structs.replace(
        member, progressed=now, step=max(step, member.step), done_bytes=event.done_bytes
    )


def last(member: Member) -> float:
    """When a member last got on, or was told to begin."""
    return max(member.since, member.progressed, member.changed)


def deadline(member: Member, spec: RolloutSpec, now: float) -> float:
    """When a member is stuck that has not got on by then; or after `now` a moment before that.

    The trial is the device's own watch, after the update: it does not eat the deadline. Before it
    a device may have to wait for a window to open, and the time in which none is does not count;
    a trial that began may end outside.
    """
    if member.phase == "trial":
        return last(member) + spec.deadline_s + spec.trial.seconds
    return _inside(last(member), spec.deadline_s, spec, now)


def patience(member: Member, spec: RolloutSpec, now: float) -> float:
    """When a member has failed that gets on, however slowly; otherwise as :func:`deadline`."""
    trial = spec.trial.seconds if member.phase == "trial" else 0.0
    return _inside(member.since, max(spec.patience_s, spec.deadline_s) + trial, spec, now)


def _inside(since: float, seconds: float, spec: RolloutSpec, now: float) -> float:
    """So many seconds of open windows later; what is after `now` without them is not reckoned."""
    if since + seconds > now:
        return since + seconds
    return windows.later(spec.windows, since, seconds, spec.trial.seconds)


def overdue(member: Member, fact: DeviceFact, slot: str, spec: RolloutSpec, now: float) -> str:
    """Why a member's time is over, in words; empty: it is not."""
    why = reason(fact, slot)
    words = f": {why.message[:MAX_CHARS]}" if why is not None else ""
    if now >= deadline(member, spec, now):
        inside = " of open maintenance windows" if spec.windows and member.phase != "trial" else ""
        return f"no progress within {spec.deadline_s:g} s{inside}, last seen {member.phase}{words}"
    if now >= patience(member, spec, now):
        return f"not done after {span(now - member.since)}, last seen {member.phase}{words}"
    return ""


def reason(fact: DeviceFact, slot: str) -> ErrorInfo | None:
    """Why a device does not get on with the update of a slot, by its own word; None: it says none.

    A download that runs is one: that its link is slow is all that is to be known.
    """
    for wait in fact.waits:
        if wait.blocks and wait.slot in ("", slot):
            return wait.reason
    event = fact.event
    if event is None or event.slot != slot or event.state in FINAL_UPDATE_STATES:
        return None
    if event.reason is not None:
        return event.reason
    text = progress.download(event)
    return ErrorInfo("slow-link", f"downloads {text}") if text else None


def waiting(facts: Sequence[DeviceFact], slot: str) -> str:
    """What devices wait for, in a line; empty where none says so."""
    found = [(fact.device, why) for fact in facts for why in [reason(fact, slot)] if why]
    found = [(device, why) for device, why in found if why.code != "slow-link"]
    if not found:
        return ""
    if len(found) == 1:
        device, why = found[0]
        return f"{device} waits: {why.message[:MAX_CHARS]}"
    counts = Counter(why.code[:40] for _, why in found)
    codes = ", ".join(f"{code} ({count})" for code, count in counts.most_common(5))
    named = ", ".join(sorted(device for device, _ in found)[:3])
    return f"{named}{' and others' if len(found) > 3 else ''} wait: {codes}"
