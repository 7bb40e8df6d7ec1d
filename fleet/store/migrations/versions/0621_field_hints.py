"""What the current version and a teacher take texts of the field for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0621"
down_revision = "0610"
branch_labels = None
depends_on = None

_NAME = sa.String(64)


def upgrade() -> None:
    """Applies the change."""
    op.create_table(
        "field_hint",
        sa.Column("model", _NAME, primary_key=True),
        sa.Column("key", sa.String(32), primary_key=True),
        sa.Column("source", _NAME, primary_key=True),
        sa.Column("label", sa.String(256), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
    )


def downgrade() -> None:
    """Undoes it: suggestions are made again when asked for."""
    op.drop_table("field_hint")
