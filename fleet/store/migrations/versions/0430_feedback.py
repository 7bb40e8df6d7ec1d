"""What people said of answers, beside each roll-up: the database adds it up."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0430"
down_revision = "0420"
branch_labels = None
depends_on = None

_COLUMNS = ("judged_right", "judged_wrong", "sampled_right", "sampled_wrong")


def upgrade() -> None:
    """Applies the change."""
    for name in _COLUMNS:
        column = sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")
        op.add_column("telemetry_rollup", column)
    where = sa.text("judged_right + judged_wrong > 0")
    op.create_index(
        "ix_telemetry_rollup_judged",
        "telemetry_rollup",
        ["start"],
        sqlite_where=where,
        postgresql_where=where,
    )


def downgrade() -> None:
    """Takes the change back."""
    op.drop_index("ix_telemetry_rollup_judged", "telemetry_rollup")
    for name in _COLUMNS:
        op.drop_column("telemetry_rollup", name)
