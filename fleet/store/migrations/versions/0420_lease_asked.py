"""Who wants a lease that another holds: it is renewed in writing only while somebody does."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0420"
down_revision = "0320"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies the change."""
    with op.batch_alter_table("lease") as table:
        table.add_column(sa.Column("asked_until", sa.Double(), nullable=False, server_default="0"))
        table.add_column(sa.Column("renewals", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Takes the change back."""
    with op.batch_alter_table("lease") as table:
        table.drop_column("renewals")
        table.drop_column("asked_until")
