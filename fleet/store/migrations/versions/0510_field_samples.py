"""Hard examples of devices, and what people say of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0510"
down_revision = "0430"
branch_labels = None
depends_on = None

_NAME = sa.String(64)
_TIME: sa.Double[float] = sa.Double()
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Applies the change."""
    op.create_table(
        "field_ask",
        sa.Column("name", _NAME, primary_key=True),
        sa.Column("model", _NAME, nullable=False),
        sa.Column("selector", sa.Text(), nullable=False),
        sa.Column("most", sa.Integer(), nullable=False),
        sa.Column("why", sa.String(200), nullable=False, server_default=""),
        sa.Column("by", _NAME, nullable=False),
        sa.Column("at", _TIME, nullable=False),
    )
    op.create_table(
        "field_sample",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("device", _NAME, nullable=False),
        sa.Column("mark", sa.String(32), nullable=False),
        sa.Column("ask", _NAME, nullable=False),
        sa.Column("model", _NAME, nullable=False),
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("received_at", _TIME, nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.UniqueConstraint("device", "mark", name="uq_field_sample_device_mark"),
    )
    op.create_index("ix_field_sample_model_key", "field_sample", ["model", "key"])
    op.create_table(
        "field_label",
        sa.Column("model", _NAME, primary_key=True),
        sa.Column("key", sa.String(32), primary_key=True),
        sa.Column("person", _NAME, primary_key=True),
        sa.Column("label", sa.String(256)),
        sa.Column("at", _TIME, nullable=False),
    )


def downgrade() -> None:
    """Takes the change back."""
    for name in ("field_label", "field_sample", "field_ask"):
        op.drop_table(name)
