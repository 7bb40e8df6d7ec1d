"""Roll-ups of all devices together, updates that went wrong, what devices wait for: found at once.

Roll-ups of all devices begin here: what was measured before stays with each device.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0132"
down_revision = "0131"
branch_labels = None
depends_on = None

_INDEXES = (
    ("ix_telemetry_rollup_fleet", "telemetry_rollup", "start", "device = ''"),
    ("ix_update_event_wrong", "update_event", "received_at", "state IN ('refused', 'rolled-back')"),
)


def upgrade() -> None:
    """Applies the change."""
    for name, table, column, condition in _INDEXES:
        where = sa.text(condition)
        op.create_index(name, table, [column], sqlite_where=where, postgresql_where=where)
    device = sa.table("device", sa.column("id"), sa.column("reported"))
    trait = sa.table("device_trait", *(sa.column(c) for c in ("device", "key", "value", "source")))
    connection = op.get_bind()
    waiting = sa.select(device).where(device.c.reported.contains('"waits":', autoescape=True))
    rows = connection.execute(waiting).all()
    found = [
        {"device": row.id, "key": "own:waits", "value": code, "source": "own"}
        for row in rows
        for code in sorted(_codes(row.reported))
    ]
    if found:
        connection.execute(trait.insert(), found)


def _codes(reported: str) -> set[str]:
    codes = {wait["reason"]["code"][:64] for wait in json.loads(reported).get("waits", [])}
    return {code for code in codes if "\0" not in code}


def downgrade() -> None:
    """Takes the change back."""
    trait = sa.table("device_trait", sa.column("key"))
    op.get_bind().execute(trait.delete().where(trait.c.key == "own:waits"))
    for name, table, _, _ in _INDEXES:
        op.drop_index(name, table)
