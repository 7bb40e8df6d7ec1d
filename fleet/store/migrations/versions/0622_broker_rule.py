"""A rule for a broker that is gone, for fleets that are there already."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0622"
down_revision = "0611"
branch_labels = None
depends_on = None

_RULE = sa.table(
    "alert_rule",
    *(sa.column(name) for name in ("id", "title", "kind", "selector", "threshold", "hold_s",
      "clear_s", "emails", "silenced_until", "told_at", "created_at", "created_by")),
)  # fmt: skip


def upgrade() -> None:
    """Applies the change; a rule that somebody gave that name stays."""
    query = sa.select(sa.func.count()).select_from(_RULE).where(_RULE.c.id == "broker")
    if op.get_bind().scalar(query):
        return
    op.execute(
        _RULE.insert().values(
            id="broker", title="No broker for a minute", kind="broker", selector="all",
            threshold=60.0, hold_s=0.0, clear_s=60.0, emails="[]", silenced_until=0.0,
            told_at=0.0, created_at=time.time(), created_by="controller",
        )
    )  # fmt: skip


def downgrade() -> None:
    """Undoes it: an older version does not know the kind."""
    op.execute(_RULE.delete().where(_RULE.c.kind == "broker"))
