"""How far messages are there, what devices store on a day, and what was dropped."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0120"
down_revision = "0170"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies the change."""
    op.create_table(
        "delivery_mark",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("boot", sa.String(length=64), nullable=False),
        sa.Column("upto", sa.BigInteger(), nullable=False),
        sa.Column("ahead", sa.Text(), server_default="[]", nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("device", "kind", "boot", name=op.f("pk_delivery_mark")),
    )
    op.create_index("ix_delivery_mark_at", "delivery_mark", ["at"])
    op.create_table(
        "device_usage",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("messages", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("device", "day", name=op.f("pk_device_usage")),
    )
    op.create_index("ix_device_usage_day", "device_usage", ["day"])
    op.create_table(
        "device_loss",
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("place", sa.String(length=64), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("device", "day", "place", name=op.f("pk_device_loss")),
    )
    op.create_index("ix_device_loss_at", "device_loss", ["at"])


def downgrade() -> None:
    """Takes the change back."""
    op.drop_table("device_loss")
    op.drop_table("device_usage")
    op.drop_table("delivery_mark")
