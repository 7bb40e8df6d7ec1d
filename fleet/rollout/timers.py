"""When a rollout must be looked at again though nothing that is known of its devices changes."""

from __future__ import annotations

from typing import Final

from fleet.rollout import progress, windows
from fleet.rollout.facts import Facts
from fleet.rollout.gates import counts
from fleet.rollout.spec import RolloutSpec
from fleet.rollout.state import ENDED, IN_FLIGHT, Member, RolloutState

_LATE_S: Final = 0.001
"""Behind the moment itself, where differences of two times are rounded to either side."""

FIGURES_S: Final = 2.0
"""Seconds between two looks at what devices measure, at first."""

_FIGURES_SHARE: Final = 0.01
FIGURES_MAX_S: Final = 300.0
"""Later a hundredth of the time since anything moved, up to this: the longer it stands, the more
there is to read, and the less a moment tells."""


def next_look(spec: RolloutSpec, state: RolloutState, facts: Facts, now: float) -> float | None:
    """The next moment at which a step may do something that it does not do now.

    Args:
        spec: what was asked.
        state: after a step that changed nothing, or that part of it whose devices are in `facts`.
        facts: as that step saw them.
        now: of that step.

    Returns:
        Seconds since the epoch, after `now`; None: only a change of facts, or a person.
    """
    header = state.header
    status = header.status
    moments: list[float] = []
    for member in state.members.values():
        moments += _of_member(spec, member, facts, status, now)
    if status in ("running", "succeeded") and not windows.is_open(spec.windows, now):
        moments.append(windows.next_open(spec.windows, now))
    if status not in ENDED:
        if header.bake_until is not None:
            moments.append(header.bake_until)
            moments.append(header.bake_until + spec.gates_of(header.wave).evidence_s)
        if status in ("running", "awaiting-approval") and _counts(spec, state):
            moments.append(now + _figures_s(state, now))
    return min((m + _LATE_S for m in moments if m + _LATE_S > now), default=None)


def _of_member(
    spec: RolloutSpec, member: Member, facts: Facts, status: str, now: float
) -> list[float]:
    """Deadlines of one member."""
    if member.phase in IN_FLIGHT:
        found = [progress.deadline(member, spec, now), progress.patience(member, spec, now)]
        fact = facts.devices.get(member.device)
        if fact is not None and not fact.online and member.phase == "assigned":
            found.append(max(member.since, fact.since) + spec.offline_s)
        return found
    if member.phase == "undoing" and status == "rolling-back":
        return [member.since + spec.deadline_s]
    if member.phase == "failed" and status == "running":
        return [member.changed + spec.retry_s]
    return []


def _figures_s(state: RolloutState, now: float) -> float:
    moved = max((member.changed for member in state.members.values()), default=now)
    still = now - max(moved, state.header.began or moved)
    return min(max(FIGURES_S, _FIGURES_SHARE * still), FIGURES_MAX_S)


def _counts(spec: RolloutSpec, state: RolloutState) -> bool:
    """Whether some gate of a wave that began looks at what devices measure."""
    return any(counts(spec.gates_of(wave)) for wave in range(state.header.wave + 1))
