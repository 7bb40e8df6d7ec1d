"""Alert rules with those of a new fleet, alerts, and mail."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0610"
down_revision = "0620"
branch_labels = None
depends_on = None

_NAME = sa.String(64)
_TIME: sa.Double[float] = sa.Double()
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_RULES = (
    ("error-rate", "Many errors", "error-rate", 0.1, 300.0, 600.0),
    ("offline", "Offline for a quarter of an hour", "offline", 900.0, 0.0, 120.0),
    ("drift", "Answers differ from the test's", "drift", 0.3, 0.0, 3600.0),
    ("disk", "Disk nearly full", "disk", 200e6, 300.0, 600.0),
    ("temperature", "Too hot", "temperature", 80.0, 300.0, 600.0),
    ("expiry", "Runs out within two weeks", "expiry", 14.0, 0.0, 0.0),
    ("stuck", "Does not reach its version", "stuck", 3600.0, 0.0, 0.0),
)
"""As they were when this was written: id, title, kind, threshold, hold, clear."""


def upgrade() -> None:
    """Applies the change."""
    rules = op.create_table(
        "alert_rule",
        sa.Column("id", _NAME, primary_key=True),
        sa.Column("title", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("selector", sa.Text(), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("hold_s", sa.Double(), nullable=False),
        sa.Column("clear_s", sa.Double(), nullable=False),
        sa.Column("emails", sa.Text(), nullable=False, server_default="[]"),
        sa.Column("silenced_until", _TIME, nullable=False, server_default="0"),
        sa.Column("told_at", _TIME, nullable=False, server_default="0"),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
    )
    op.bulk_insert(
        rules,
        [
            {
                "id": identifier,
                "title": title,
                "kind": kind,
                "selector": "all",
                "threshold": threshold,
                "hold_s": hold,
                "clear_s": clear,
                "emails": "[]",
                "silenced_until": 0.0,
                "told_at": 0.0,
                "created_at": time.time(),
                "created_by": "controller",
            }
            for identifier, title, kind, threshold, hold, clear in _RULES
        ],
    )
    op.create_table(
        "alert",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("rule", _NAME, nullable=False),
        sa.Column("title", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(256), nullable=False),
        sa.Column("device", _NAME),
        sa.Column("status", sa.String(8), nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("opened_at", _TIME),
        sa.Column("clear_since", _TIME),
        sa.Column("resolved_at", _TIME),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("to_tell", sa.String(8), nullable=False, server_default=""),
        sa.Column("told", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    going_on = sa.text("status <> 'resolved'")
    op.create_index(
        "uq_alert_rule_subject",
        "alert",
        ["rule", "subject"],
        unique=True,
        sqlite_where=going_on,
        postgresql_where=going_on,
    )
    untold = sa.text("to_tell <> ''")
    op.create_index(
        "ix_alert_to_tell", "alert", ["rule"], sqlite_where=untold, postgresql_where=untold
    )
    op.create_index("ix_alert_device", "alert", ["device", "opened_at"])
    op.create_index("ix_alert_resolved_at", "alert", ["resolved_at"])
    op.create_table(
        "mail",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("recipient", sa.String(254), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("next_at", _TIME),
        sa.Column("delivered_at", _TIME),
        sa.Column("error", sa.Text()),
    )
    op.create_index("ix_mail_next_at", "mail", ["next_at"])
    op.create_index("ix_mail_created_at", "mail", ["created_at"])


def downgrade() -> None:
    """Takes the change back."""
    for name in ("mail", "alert", "alert_rule"):
        op.drop_table(name)
