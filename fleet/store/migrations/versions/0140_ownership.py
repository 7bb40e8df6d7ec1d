"""Who has the fleet: which database this is, and the fences that its controllers were given."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0140"
down_revision = "0132"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies the change."""
    ownership = op.create_table(
        "ownership",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("database", sa.String(64), nullable=False),
        sa.Column("contested", sa.Text(), nullable=True),
        sa.Column("takeover", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ownership")),
    )
    op.bulk_insert(ownership, [{"id": 1, "database": secrets.token_hex(16)}])
    op.create_table(
        "fence",
        sa.Column("fence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("instance", sa.String(64), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("fence", name=op.f("pk_fence")),
    )


def downgrade() -> None:
    """Takes the change back."""
    op.drop_table("fence")
    op.drop_table("ownership")
