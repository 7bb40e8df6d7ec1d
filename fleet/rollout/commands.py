"""What people tell a rollout: approve, pause, resume, abort. Pure."""

from __future__ import annotations

from contracts.errors import ErrorInfo, RefusedError
from fleet.rollout.engine import Step
from fleet.rollout.facts import Action, Facts
from fleet.rollout.spec import RolloutSpec
from fleet.rollout.state import ACTIVE, RolloutState


def _refuse(state: RolloutState, what: str) -> RefusedError:
    return RefusedError(
        "wrong-state",
        f"rollout {state.id} is {state.header.status}: it cannot be {what}",
        status=state.header.status,
    )


def approve(state: RolloutState) -> RolloutState:
    """Lets the wave that waits begin."""
    if state.header.status != "awaiting-approval":
        raise _refuse(state, "approved")
    return state.replace(approved=state.header.wave, status="running", waiting="")


def pause(state: RolloutState, who: str) -> RolloutState:
    """No device gets the version until it is resumed; updates under way go on."""
    if state.header.status not in ("running", "awaiting-approval"):
        raise _refuse(state, "paused")
    return state.replace(
        status="paused", waiting="", reason=ErrorInfo("paused", f"paused by {who}")
    )


def resume(state: RolloutState) -> RolloutState:
    """Goes on after a pause; bake time starts again."""
    if state.header.status != "paused":
        raise _refuse(state, "resumed")
    return state.replace(status="running", reason=None, bake_until=None, waiting="")


def abort(
    spec: RolloutSpec, state: RolloutState, facts: Facts, now: float, who: str
) -> tuple[RolloutState, list[Action]]:
    """Ends the rollout and gives devices their previous version back, when it is set so."""
    if state.header.status not in ACTIVE or state.header.status == "rolling-back":
        raise _refuse(state, "aborted")
    run = Step(spec, state, facts, now)
    run.judge_members()
    run.roll_back(ErrorInfo("aborted", f"aborted by {who}"), "aborted")
    run.finish_rollback()
    return run.state, run.actions
