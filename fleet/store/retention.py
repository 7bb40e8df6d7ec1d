"""How long what is kept, and the statements that delete what is older."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from fleet.store import Store, delivery
from fleet.store.schema import RESULT, ROLLUP, TELEMETRY, UPDATE_EVENT
from fleet.store.telemetry import HOUR, MINUTE


class Retention(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How long what is kept, in seconds.

    Attributes:
        raw_s: payloads of raw batches.
        seen_s: that a batch was seen; must be longer than a device's spool keeps it.
        minute_s: roll-ups of a minute.
        hour_s: roll-ups of an hour.
        event_s: events of updates, and counts of a day.
        result_s: results of local sources.
        sample_s: hard examples that devices gave, with their labels.
    """

    raw_s: float = 24 * 3600.0
    seen_s: float = 9 * 24 * 3600.0
    minute_s: float = 14 * 24 * 3600.0
    hour_s: float = 400 * 24 * 3600.0
    event_s: float = 400 * 24 * 3600.0
    result_s: float = 30 * 24 * 3600.0
    sample_s: float = 180 * 24 * 3600.0


def expire(store: Store, rules: Retention, now: float) -> dict[str, int]:
    """Deletes what is past its time.

    Returns:
        How many rows of each kind.
    """
    done: dict[str, int] = {}
    statements: Sequence[tuple[str, sa.Update | sa.Delete]] = (
        (
            "payloads",
            TELEMETRY.update()
            .where(
                TELEMETRY.c.received_at < now - rules.raw_s,
                TELEMETRY.c.payload.is_not(None),
                TELEMETRY.c.rolled == sa.true(),
            )
            .values(payload=None),
        ),
        (
            "batches",
            TELEMETRY.delete().where(
                TELEMETRY.c.received_at < now - rules.seen_s, TELEMETRY.c.rolled == sa.true()
            ),
        ),
        *(
            (
                name,
                ROLLUP.delete().where(
                    ROLLUP.c.resolution == resolution, ROLLUP.c.start < now - keep
                ),
            )
            for name, resolution, keep in (
                ("minutes", MINUTE, rules.minute_s),
                ("hours", HOUR, rules.hour_s),
            )
        ),
        ("events", UPDATE_EVENT.delete().where(UPDATE_EVENT.c.received_at < now - rules.event_s)),
        ("results", RESULT.delete().where(RESULT.c.received_at < now - rules.result_s)),
    )
    for name, statement in statements:
        # One transaction each: ingest must not wait for all of them.
        with store.write() as connection:
            done[name] = connection.execute(statement).rowcount
    with store.write() as connection:
        done["books"] = delivery.expire(connection, rules.seen_s, rules.event_s, now)
    return done
