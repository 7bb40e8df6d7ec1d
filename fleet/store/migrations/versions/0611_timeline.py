"""When devices connected and lost their connection; the audit log by what was changed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0611"
down_revision = "0621"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Applies the change."""
    op.create_table(
        "presence",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
    )
    op.create_index("ix_presence_device", "presence", ["device", "at"])
    op.create_index("ix_presence_at", "presence", ["at"])
    op.create_index("ix_audit_target", "audit", ["target", "at"])


def downgrade() -> None:
    """Takes the change back."""
    op.drop_index("ix_audit_target", "audit")
    op.drop_table("presence")
