"""Who handles a request with an Idempotency-Key, and whether it has changed something."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0320"
down_revision = "0200"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies the change."""
    with op.batch_alter_table("idempotency") as table:
        table.add_column(sa.Column("owner", sa.String(length=32)))
        table.add_column(
            sa.Column("changed", sa.Boolean(), nullable=False, server_default=sa.false())
        )


def downgrade() -> None:
    """Takes the change back."""
    with op.batch_alter_table("idempotency") as table:
        table.drop_column("changed")
        table.drop_column("owner")
