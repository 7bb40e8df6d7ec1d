"""What was refused is in the audit log too, counted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0170"
down_revision = "0150"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies the change."""
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("outcome", sa.String(64), nullable=False, server_default="done")
        )
        batch_op.add_column(sa.Column("times", sa.BigInteger(), nullable=False, server_default="1"))
        batch_op.add_column(sa.Column("until", sa.Double(), nullable=True))


def downgrade() -> None:
    """Takes the change back."""
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.drop_column("until")
        batch_op.drop_column("times")
        batch_op.drop_column("outcome")
