"""Pooled figures of whole weeks, as they were told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0620"
down_revision = "0510"
branch_labels = None
depends_on = None

_NAME = sa.String(64)
_TIME: sa.Double[float] = sa.Double()


def upgrade() -> None:
    """Applies the change."""
    op.create_table(
        "field_pool",
        sa.Column("slot", _NAME, primary_key=True),
        sa.Column("bundle", sa.String(64), primary_key=True),
        sa.Column("week", sa.String(8), primary_key=True),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
    )


def downgrade() -> None:
    """Undoes it: what was told is told anew, from what devices counted."""
    op.drop_table("field_pool")
