"""What went wrong with a version before: who rolls it out again should know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from contracts.errors import RefusedError
from contracts.messages import BundleRef
from fleet.rollout.plan import Setback
from fleet.rollout.state import Header
from fleet.store import rollouts
from fleet.store.documents import load
from fleet.store.schema import ROLLOUT

_LOOKED_AT: Final = 500
_MOST: Final = 10


def of(connection: sa.Connection, target: BundleRef) -> list[Setback]:
    """Earlier rollouts of a version that were stopped, or on which devices failed; newest first.

    At most ten, of the newest 500 rollouts.
    """
    query = (
        sa.select(ROLLOUT.c.id, ROLLOUT.c.header)
        .order_by(ROLLOUT.c.number.desc())
        .limit(_LOOKED_AT)
    )
    same = [r.id for r in connection.execute(query) if load(r.header, Header).target == target]
    found: list[Setback] = []
    for rollout in same:
        one = _setback(connection, rollout)
        if one.ended or one.failed:
            found.append(one)
        if len(found) == _MOST:
            break
    return found


def stopped(connection: sa.Connection, target: BundleRef) -> list[str]:
    """The rollouts of :func:`of` that were stopped."""
    return [one.rollout for one in of(connection, target) if one.ended]


def check(connection: sa.Connection, target: BundleRef, known: Sequence[str]) -> None:
    """Whether who rolls a version out knows of every rollout of it that was stopped.

    Raises:
        RefusedError: ``stopped-before``; its detail `rollouts` names the others.
    """
    others = [one for one in of(connection, target) if one.ended and one.rollout not in known]
    if others:
        why = others[0].reason.message if others[0].reason else others[0].status
        raise RefusedError(
            "stopped-before",
            f"{target} was stopped in rollout {others[0].rollout} ({why[:300]}): look why, then "
            "start it again (`--again`, or `again=true` on the API)",
            rollouts=[one.rollout for one in others],
        )


def _setback(connection: sa.Connection, rollout: str) -> Setback:
    stored = rollouts.get(connection, rollout, members=False)
    counts = rollouts.phase_counts(connection, [rollout])[rollout]
    header = stored.state.header
    failed = sum(phases.get("failed", 0) for phases in counts.values())
    members = rollouts.members_page(connection, rollout, "failed", "", 1)[0] if failed else []
    reasons = [member.reason for member in members if member.reason is not None]
    return Setback(
        rollout=rollout,
        status=header.status,
        wave=header.wave,
        waves=len(stored.spec.waves),
        at=stored.created_at,
        reason=header.reason,
        failed=failed,
        why=reasons[0] if reasons else None,
    )
