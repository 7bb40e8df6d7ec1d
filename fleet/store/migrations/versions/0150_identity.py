"""Clones, departures, and warnings of what runs out."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0150"
down_revision = "0130"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies the change."""
    with op.batch_alter_table("device", schema=None) as batch_op:
        batch_op.add_column(sa.Column("recent", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("clone", sa.Text(), nullable=True))
        batch_op.create_index(
            "ix_device_clone",
            ["id"],
            unique=False,
            sqlite_where=sa.text("clone IS NOT NULL"),
            postgresql_where=sa.text("clone IS NOT NULL"),
        )
    op.create_table(
        "departure",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("why", sa.String(length=16), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("by", sa.String(length=128), nullable=False),
        sa.Column("facts", sa.Text(), server_default="{}", nullable=False),
        sa.Column("cleared", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_departure")),
    )
    with op.batch_alter_table("departure", schema=None) as batch_op:
        batch_op.create_index("ix_departure_device", ["device"], unique=False)
    op.create_table(
        "expiry_notice",
        sa.Column("item", sa.String(length=256), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.Column("days", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("item", name=op.f("pk_expiry_notice")),
    )


def downgrade() -> None:
    """Takes the change back."""
    op.drop_table("expiry_notice")
    op.drop_table("departure")
    with op.batch_alter_table("device", schema=None) as batch_op:
        batch_op.drop_index("ix_device_clone")
        batch_op.drop_column("clone")
        batch_op.drop_column("recent")
