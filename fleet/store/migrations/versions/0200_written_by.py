"""Which version of the program brought the database to its schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0200"
down_revision = "0140"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies the change."""
    op.create_table(
        "written_by",
        sa.Column("schema", sa.String(length=64), nullable=False),
        sa.Column("program", sa.String(length=64), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("schema", name=op.f("pk_written_by")),
    )


def downgrade() -> None:
    """Takes the change back."""
    op.drop_table("written_by")
