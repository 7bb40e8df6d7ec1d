"""What went wrong with a version before: who rolls it out again should know."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

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
