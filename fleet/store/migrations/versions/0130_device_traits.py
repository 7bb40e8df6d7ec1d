"""What selectors ask for, as rows: the operator's word, what is desired, the device's own word."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0130"
down_revision = "0001"
branch_labels = None
depends_on = None

_BUILT_IN = {"device", "board", "group", "state", "task"}
_OWN_BUILT_IN = {"board", "group", "task", "bundle"}
_BATCH = 500


def upgrade() -> None:
    """Applies the change."""
    trait = op.create_table(
        "device_trait",
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("key", sa.String(80), nullable=False),
        sa.Column("value", sa.String(256), nullable=False),
        sa.Column("source", sa.String(8), nullable=False),
        sa.PrimaryKeyConstraint("device", "key", "value", name=op.f("pk_device_trait")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_device_trait_value", "device_trait", ["key", "value", "device"])
    device = sa.table(
        "device", *(sa.column(c) for c in ("id", "labels", "groups", "desired", "reported"))
    )
    connection = op.get_bind()
    after = ""
    while True:
        rows = connection.execute(
            sa.select(device).where(device.c.id > after).order_by(device.c.id).limit(_BATCH)
        ).all()
        if not rows:
            return
        after = rows[-1].id
        found = [entry for row in rows for entry in _traits(row)]
        if found:
            connection.execute(trait.insert(), found)


def _traits(row: Any) -> list[dict[str, str]]:
    labels, groups = json.loads(row.labels), json.loads(row.groups)
    given = {(k, v) for k, v in labels.items() if k not in _BUILT_IN}
    given |= {("group", group) for group in groups}
    wanted: set[tuple[str, str]] = set()
    if row.desired:
        wanted = {("task", slot) for slot in json.loads(row.desired).get("slots", {})}
    own: set[tuple[str, str]] = set()
    if row.reported:
        reported = json.loads(row.reported)
        said = reported.get("labels", {})
        own = {(k, v) for k, v in said.items() if k not in _OWN_BUILT_IN}
        own |= {("group", group) for group in reported.get("groups", [])}
        own.add(("board", reported["board"]))
        for slot, report in reported.get("slots", {}).items():
            active = report.get("active")
            if active:
                own |= {("task", slot), ("bundle", f"{active['name']}/{active['version']}")}
    sources = (("given", given), ("wanted", wanted), ("own", {(f"own:{k}", v) for k, v in own}))
    return [
        {"device": row.id, "key": key, "value": value, "source": source}
        for source, traits in sources
        for key, value in sorted(traits)
        if "\0" not in value
    ]


def downgrade() -> None:
    """Takes the change back."""
    op.drop_table("device_trait")
