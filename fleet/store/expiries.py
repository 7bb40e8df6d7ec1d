"""Statements on warnings of what runs out: each is given once, whoever runs the controller."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from fleet.store import Store
from fleet.store.schema import EXPIRY_NOTICE

_CHUNK = 500


def news(
    store: Store, connection: sa.Connection, due: Sequence[tuple[str, float, int]]
) -> set[str]:
    """Records warnings: item, when it runs out, and the days of the warning.

    Returns:
        Items whose warning is new: another end, or fewer days than the last.
    """
    before: dict[str, tuple[float, int]] = {}
    names = [item for item, _, _ in due]
    for start in range(0, len(names), _CHUNK):
        rows = connection.execute(
            sa.select(EXPIRY_NOTICE).where(EXPIRY_NOTICE.c.item.in_(names[start : start + _CHUNK]))
        )
        before |= {row.item: (row.expires, row.days) for row in rows}
    new = [
        (item, expires, days)
        for item, expires, days in due
        if item not in before or before[item][0] != expires or days < before[item][1]
    ]
    if new:
        insert = store.insert(EXPIRY_NOTICE)
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=["item"],
                set_={"expires": insert.excluded.expires, "days": insert.excluded.days},
            ),
            [{"item": item, "expires": expires, "days": days} for item, expires, days in new],
        )
    return {item for item, _, _ in new}
