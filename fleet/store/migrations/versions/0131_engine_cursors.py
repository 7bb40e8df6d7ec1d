"""What the engine looks at next: changed devices, rollouts that are due; counts of members."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0131"
down_revision = "0120"
branch_labels = None
depends_on = None

_BATCH = 500
_ACTIVE = ("queued", "running", "awaiting-approval", "paused", "rolling-back")
_FEW = {
    "ix_device_unseen": "unseen > 0",
    "ix_device_unsent": "desired_revision > sent_revision",
    "ix_device_behind": "desired_revision > reached_revision",
    "ix_device_revoked": "revoked_at IS NOT NULL",
}


def upgrade() -> None:
    """Applies the change."""
    columns: dict[str, list[sa.Column[Any]]] = {
        "device": [
            sa.Column("unseen", sa.BigInteger(), nullable=False, server_default="0"),
            sa.Column("desired_at", sa.Double()),
            sa.Column("reached_revision", sa.BigInteger(), nullable=False, server_default="0"),
        ],
        "rollout": [
            sa.Column("slot", sa.String(64), nullable=False, server_default=""),
            sa.Column("due", sa.Double()),
            sa.Column("follow_until", sa.Double()),
            sa.Column("counts", sa.Text(), nullable=False, server_default="{}"),
        ],
    }
    for table, added in columns.items():
        for column in added:
            op.add_column(table, column)
    connection = op.get_bind()
    _fill_devices(connection)
    _fill_rollouts(connection)
    op.create_index("ix_device_state", "device", ["state", "revoked_at"])
    for name, condition in _FEW.items():
        where = sa.text(condition)
        op.create_index(name, "device", ["id"], sqlite_where=where, postgresql_where=where)
    op.create_index("ix_rollout_due", "rollout", ["due"])
    op.create_index("ix_rollout_follow_until", "rollout", ["follow_until"])
    op.create_index("ix_rollout_slot", "rollout", ["slot", "number"])
    op.create_index("ix_rollout_member_phase", "rollout_member", ["rollout", "phase"])


def _fill_devices(connection: sa.Connection) -> None:
    names = ("id", "desired", "reported", "desired_at", "reached_revision")
    device = sa.table("device", *(sa.column(name) for name in names))
    after = ""
    while True:
        rows = connection.execute(
            sa.select(device.c.id, device.c.desired, device.c.reported)
            .where(device.c.id > after)
            .order_by(device.c.id)
            .limit(_BATCH)
        ).all()
        if not rows:
            return
        after = rows[-1].id
        connection.execute(
            device.update()
            .where(device.c.id == sa.bindparam("b_id"))
            .values(desired_at=sa.bindparam("b_at"), reached_revision=sa.bindparam("b_reached")),
            [
                {
                    "b_id": row.id,
                    "b_at": _field(row.desired, "at"),
                    "b_reached": _field(row.reported, "desired_revision") or 0,
                }
                for row in rows
            ],
        )


def _field(document: str | None, name: str) -> Any:
    return json.loads(document).get(name) if document else None


def _fill_rollouts(connection: sa.Connection) -> None:
    names = ("id", "status", "header", "spec", "slot", "due", "follow_until", "counts")
    rollout = sa.table("rollout", *(sa.column(name) for name in names))
    member = sa.table("rollout_member", *(sa.column(c) for c in ("rollout", "wave", "phase")))
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for row in connection.execute(
        sa.select(member.c.rollout, member.c.wave, member.c.phase, sa.func.count()).group_by(
            member.c.rollout, member.c.wave, member.c.phase
        )
    ):
        waves = counts.setdefault(row.rollout, {})
        waves.setdefault(str(row.wave), {})[row.phase] = row[3]
    rows = connection.execute(
        sa.select(rollout.c.id, rollout.c.status, rollout.c.header, rollout.c.spec)
    ).all()
    for row in rows:
        header, spec = json.loads(row.header), json.loads(row.spec)
        ended = None if row.status in _ACTIVE else header.get("ended") or 0.0
        connection.execute(
            rollout.update()
            .where(rollout.c.id == row.id)
            .values(
                slot=header["slot"],
                # All that is followed is looked at once: nobody kept marks before.
                due=0.0,
                follow_until=None if ended is None else ended + spec["follow_s"],
                counts=json.dumps(counts.get(row.id, {}), separators=(",", ":"), sort_keys=True),
            )
        )


def downgrade() -> None:
    """Takes the change back."""
    op.drop_index("ix_rollout_member_phase", "rollout_member")
    for name in ("ix_rollout_slot", "ix_rollout_follow_until", "ix_rollout_due"):
        op.drop_index(name, "rollout")
    for name in (*_FEW, "ix_device_state"):
        op.drop_index(name, "device")
    for column in ("counts", "follow_until", "due", "slot"):
        op.drop_column("rollout", column)
    for column in ("reached_revision", "desired_at", "unseen"):
        op.drop_column("device", column)
