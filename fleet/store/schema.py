"""The tables, the same on SQLite and PostgreSQL.

Times are seconds since the Unix epoch by the controller's clock unless said otherwise. JSON
documents are text in the compact form of :func:`contracts.codec.encode`: the database keeps
them, Python reads them.

Over 400 lines: a list of tables without logic.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

METADATA: Final = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_NAME = sa.String(64)
_TIME: sa.Double[float] = sa.Double()
_JSON = sa.Text()
# SQLite gives automatic ids to INTEGER alone.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _few(name: str, column: str, condition: str) -> sa.Index:
    """An index of the few rows for which a condition holds."""
    where = sa.text(condition)
    return sa.Index(name, column, sqlite_where=where, postgresql_where=where)


DEVICE: Final = sa.Table(
    "device",
    METADATA,
    sa.Column("id", _NAME, primary_key=True),
    sa.Column("board", _NAME, nullable=False, server_default=""),
    # Labels that enrolment or an operator gave: a device cannot change them.
    sa.Column("labels", _JSON, nullable=False, server_default="{}"),
    sa.Column("groups", _JSON, nullable=False, server_default="[]"),
    sa.Column("enrolled_at", _TIME),
    sa.Column("revoked_at", _TIME),
    sa.Column("state", sa.String(8), nullable=False, server_default="unknown"),
    sa.Column("session", sa.BigInteger, nullable=False, server_default="-1"),
    sa.Column("boot", _NAME, nullable=False, server_default=""),
    sa.Column("state_at", _TIME),
    sa.Column("seen_at", _TIME),
    sa.Column("reported", _JSON),
    sa.Column("reported_at", _TIME),
    # The newest event of an update, by the device's own order.
    sa.Column("update", _JSON),
    sa.Column("update_boot", _NAME),
    sa.Column("update_seq", sa.BigInteger, nullable=False, server_default="-1"),
    sa.Column("desired", _JSON),
    sa.Column("desired_revision", sa.BigInteger, nullable=False, server_default="0"),
    # The revision that the broker has acknowledged: the rest is still to be sent.
    sa.Column("sent_revision", sa.BigInteger, nullable=False, server_default="0"),
    # The rollout that holds the device: no other may touch it.
    sa.Column("rollout", _NAME),
    # Grows with every write by a person or the engine: the ETag.
    sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
    # The newest connections, and the signs that two devices share the identity: see
    # :mod:`fleet.store.clones`.
    sa.Column("recent", _JSON),
    sa.Column("clone", _JSON),
    # Changes of what the engine goes by that it has not looked at.
    sa.Column("unseen", sa.BigInteger, nullable=False, server_default="0"),
    # What of the documents is asked for without reading them.
    sa.Column("desired_at", _TIME),
    sa.Column("reached_revision", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index("ix_device_rollout", "rollout"),
    sa.Index("ix_device_state", "state", "revoked_at"),
    _few("ix_device_unseen", "id", "unseen > 0"),
    _few("ix_device_unsent", "id", "desired_revision > sent_revision"),
    _few("ix_device_behind", "id", "desired_revision > reached_revision"),
    _few("ix_device_revoked", "id", "revoked_at IS NOT NULL"),
    _few("ix_device_clone", "id", "clone IS NOT NULL"),
)

DEPARTURE: Final = sa.Table(
    "departure",
    METADATA,
    # Under which the history is: see :mod:`fleet.store.departures`.
    sa.Column("id", _NAME, primary_key=True),
    sa.Column("device", _NAME, nullable=False),
    sa.Column("why", sa.String(16), nullable=False),
    sa.Column("at", _TIME, nullable=False),
    sa.Column("by", sa.String(128), nullable=False),
    sa.Column("facts", _JSON, nullable=False, server_default="{}"),
    sa.Column("cleared", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("ix_departure_device", "device"),
)

EXPIRY_NOTICE: Final = sa.Table(
    "expiry_notice",
    METADATA,
    # What runs out (kind and name), when, and the warning that was given last, in days.
    sa.Column("item", sa.String(256), primary_key=True),
    sa.Column("expires", _TIME, nullable=False),
    sa.Column("days", sa.Integer, nullable=False),
)

TRAIT: Final = sa.Table(
    "device_trait",
    METADATA,
    sa.Column("device", _NAME, primary_key=True),
    # What selectors ask for; what the device says of itself begins with ``own:``.
    sa.Column("key", sa.String(80), primary_key=True),
    sa.Column("value", sa.String(256), primary_key=True),
    # Whose word it is: rows of one source are replaced together (:mod:`fleet.store.traits`).
    sa.Column("source", sa.String(8), nullable=False),
    sa.Index("ix_device_trait_value", "key", "value", "device"),
    sqlite_with_rowid=False,
)

WENT_WRONG: Final = sa.text("state IN ('refused', 'rolled-back')")
"""Events of updates that went wrong: an index has them alone."""

UPDATE_EVENT: Final = sa.Table(
    "update_event",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("device", _NAME, nullable=False),
    sa.Column("boot", _NAME, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("received_at", _TIME, nullable=False),
    sa.Column("rollout", _NAME),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("event", _JSON, nullable=False),
    sa.UniqueConstraint("device", "boot", "seq"),
    sa.Index("ix_update_event_received_at", "received_at"),
    _few("ix_update_event_wrong", "received_at", WENT_WRONG.text),
)

TELEMETRY: Final = sa.Table(
    "telemetry",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("device", _NAME, nullable=False),
    sa.Column("boot", _NAME, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("received_at", _TIME, nullable=False),
    # Null once past the raw retention; the row stays longer, to know a late duplicate.
    sa.Column("payload", sa.LargeBinary),
    sa.Column("rolled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("device", "boot", "seq"),
    sa.Index(
        "ix_telemetry_unrolled",
        "id",
        sqlite_where=sa.text("rolled = 0"),
        postgresql_where=sa.text("rolled = false"),
    ),
    sa.Index("ix_telemetry_received_at", "received_at"),
)

# How far numbered messages are there; see :class:`fleet.store.marks.Mark`.
MARK: Final = sa.Table(
    "delivery_mark",
    METADATA,
    sa.Column("device", _NAME, primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("boot", _NAME, primary_key=True),
    sa.Column("upto", sa.BigInteger, nullable=False),
    sa.Column("ahead", _JSON, nullable=False, server_default="[]"),
    sa.Column("at", _TIME, nullable=False),
    sa.Index("ix_delivery_mark_at", "at"),
)

# What a device stored on a day (since the epoch).
USAGE: Final = sa.Table(
    "device_usage",
    METADATA,
    sa.Column("device", _NAME, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("messages", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index("ix_device_usage_day", "day"),
)

# What was dropped of a device's, by place, on a day (since the epoch).
LOSS: Final = sa.Table(
    "device_loss",
    METADATA,
    sa.Column("device", _NAME, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("place", _NAME, primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Column("at", _TIME, nullable=False),
    sa.Index("ix_device_loss_at", "at"),
)

JUDGED: Final = sa.text("judged_right + judged_wrong > 0")
"""Roll-ups with feedback are few: an index has them alone."""

ROLLUP: Final = sa.Table(
    "telemetry_rollup",
    METADATA,
    sa.Column("resolution", sa.Integer, primary_key=True, autoincrement=False),
    # Empty: all devices together, in minutes, without gauges.
    sa.Column("device", _NAME, primary_key=True),
    sa.Column("slot", _NAME, primary_key=True),
    # sha256 of the manifest; empty for what is not of a model.
    sa.Column("bundle", sa.String(64), primary_key=True),
    sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("requests", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("errors", sa.BigInteger, nullable=False, server_default="0"),
    # What people said of answers; the database adds it up (:mod:`fleet.store.field`).
    sa.Column("judged_right", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("judged_wrong", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("sampled_right", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("sampled_wrong", sa.BigInteger, nullable=False, server_default="0"),
    # The whole of :class:`fleet.figures.Figures`.
    sa.Column("content", _JSON, nullable=False),
    sa.Index("ix_telemetry_rollup_start", "resolution", "start"),
    _few("ix_telemetry_rollup_fleet", "start", "device = ''"),
    _few("ix_telemetry_rollup_judged", "start", JUDGED.text),
)

RESULT: Final = sa.Table(
    "result",
    METADATA,
    sa.Column("device", _NAME, primary_key=True),
    sa.Column("source", _NAME, primary_key=True),
    sa.Column("at", _TIME, primary_key=True, autoincrement=False),
    sa.Column("received_at", _TIME, nullable=False),
    sa.Column("label", sa.String(256), nullable=False),
    sa.Column("confidence", sa.Double, nullable=False),
    sa.Column("bundle", _JSON, nullable=False),
    sa.Column("text", sa.Text),
    sa.Index("ix_result_received_at", "received_at"),
)

BUNDLE: Final = sa.Table(
    "bundle",
    METADATA,
    sa.Column("name", _NAME, primary_key=True),
    sa.Column("version", sa.String(32), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("task", sa.String(16), nullable=False),
    sa.Column("release", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("manifest", _JSON, nullable=False),
    sa.Column("report", _JSON),
    sa.Column("published_at", _TIME, nullable=False),
)

ROLLOUT: Final = sa.Table(
    "rollout",
    METADATA,
    sa.Column("id", _NAME, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False, unique=True),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("slot", _NAME, nullable=False, server_default=""),
    # When the engine looks again though nothing changes; null: never.
    sa.Column("due", _TIME),
    # Until when late joiners and returning devices are served; null: it has not ended.
    sa.Column("follow_until", _TIME),
    sa.Column("spec", _JSON, nullable=False),
    # :class:`fleet.rollout.state.Header`; the members are rows of their own.
    sa.Column("header", _JSON, nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.Column("updated_at", _TIME, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
    # Members by wave and phase.
    sa.Column("counts", _JSON, nullable=False, server_default="{}"),
    sa.Index("ix_rollout_status", "status"),
    sa.Index("ix_rollout_due", "due"),
    sa.Index("ix_rollout_follow_until", "follow_until"),
    sa.Index("ix_rollout_slot", "slot", "number"),
)

MEMBER: Final = sa.Table(
    "rollout_member",
    METADATA,
    sa.Column("rollout", _NAME, primary_key=True),
    sa.Column("device", _NAME, primary_key=True),
    sa.Column("wave", sa.Integer, nullable=False),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("content", _JSON, nullable=False),
    sa.Index("ix_rollout_member_device", "device"),
    sa.Index("ix_rollout_member_phase", "rollout", "phase"),
)

ROLLOUT_EVENT: Final = sa.Table(
    "rollout_event",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("rollout", _NAME, nullable=False),
    sa.Column("at", _TIME, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("detail", _JSON, nullable=False, server_default="{}"),
    sa.Index("ix_rollout_event_rollout", "rollout", "id"),
)

LEASE: Final = sa.Table(
    "lease",
    METADATA,
    sa.Column("name", _NAME, primary_key=True),
    sa.Column("holder", sa.String(128), nullable=False),
    sa.Column("expires_at", _TIME, nullable=False),
    # Grows with every transaction that the lease guards: an optimistic lock.
    sa.Column("generation", sa.BigInteger, nullable=False, server_default="0"),
    # Up to when somebody else wants it: only until then does its holder renew it in writing.
    sa.Column("asked_until", _TIME, nullable=False, server_default="0"),
    sa.Column("renewals", sa.BigInteger, nullable=False, server_default="0"),
)

OWNERSHIP: Final = sa.Table(
    "ownership",
    METADATA,
    # One row.
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    # Which database this is: a restored one is another.
    sa.Column("database", _NAME, nullable=False),
    # An owner that lives, but elsewhere (:class:`fleet.store.ownership.Fence`).
    sa.Column("contested", _JSON),
    # A person's word that the fleet is to be taken from another owner.
    sa.Column("takeover", _JSON),
)

FENCE: Final = sa.Table(
    "fence",
    METADATA,
    sa.Column("fence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("instance", _NAME, nullable=False),
    sa.Column("since", _TIME, nullable=False),
)

TOKEN: Final = sa.Table(
    "api_token",
    METADATA,
    sa.Column("id", _NAME, primary_key=True),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("secret_sha256", sa.String(64), nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("expires_at", _TIME),
    sa.Column("revoked_at", _TIME),
)

AUDIT: Final = sa.Table(
    "audit",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("at", _TIME, nullable=False),
    sa.Column("actor", sa.String(128), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("target", sa.String(256), nullable=False),
    sa.Column("detail", _JSON, nullable=False, server_default="{}"),
    # `done`, `begun`, or an error's code; see :mod:`fleet.store.audit`.
    sa.Column("outcome", sa.String(64), nullable=False, server_default="done"),
    # Failures of a kind share an entry: how often, and when last.
    sa.Column("times", sa.BigInteger, nullable=False, server_default="1"),
    sa.Column("until", _TIME),
    sa.Index("ix_audit_at", "at"),
    sa.Index("ix_audit_target", "target", "at"),
)

PRESENCE: Final = sa.Table(
    "presence",
    METADATA,
    # A device connected (`online`), or lost its connection (`offline`).
    sa.Column("id", _ID, primary_key=True),
    sa.Column("device", _NAME, nullable=False),
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("at", _TIME, nullable=False),
    sa.Index("ix_presence_device", "device", "at"),
    sa.Index("ix_presence_at", "at"),
)

WRITTEN_BY: Final = sa.Table(
    "written_by",
    METADATA,
    sa.Column("schema", sa.String(64), primary_key=True),
    sa.Column("program", sa.String(64), nullable=False),
    sa.Column("at", _TIME, nullable=False),
)
"""Which version of the program brought the database to a schema: a later one keeps this table."""

IDEMPOTENCY: Final = sa.Table(
    "idempotency",
    METADATA,
    sa.Column("token", _NAME, primary_key=True),
    sa.Column("key", sa.String(128), primary_key=True),
    sa.Column("request_sha256", sa.String(64), nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("headers", _JSON),
    sa.Column("body", sa.LargeBinary),
    sa.Column("at", _TIME, nullable=False),
    sa.Column("owner", sa.String(32)),
    sa.Column("changed", sa.Boolean, nullable=False, server_default=sa.false()),
)

WEBHOOK: Final = sa.Table(
    "webhook",
    METADATA,
    sa.Column("id", _NAME, primary_key=True),
    sa.Column("url", sa.String(2000), nullable=False),
    sa.Column("secret", sa.String(128), nullable=False),
    sa.Column("events", _JSON, nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
)

DELIVERY: Final = sa.Table(
    "webhook_delivery",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("webhook", _NAME, nullable=False),
    sa.Column("event", sa.String(64), nullable=False),
    sa.Column("payload", _JSON, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("next_at", _TIME, nullable=False),
    sa.Column("delivered_at", _TIME),
    sa.Column("error", sa.Text),
    sa.Index("ix_webhook_delivery_next_at", "next_at"),
)

ALERT_RULE: Final = sa.Table(
    "alert_rule",
    METADATA,
    sa.Column("id", _NAME, primary_key=True),
    sa.Column("title", sa.String(128), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("selector", sa.Text, nullable=False),
    sa.Column("threshold", sa.Double, nullable=False),
    sa.Column("hold_s", sa.Double, nullable=False),
    sa.Column("clear_s", sa.Double, nullable=False),
    sa.Column("emails", _JSON, nullable=False, server_default="[]"),
    sa.Column("silenced_until", _TIME, nullable=False, server_default="0"),
    # When somebody was told last: what opens soon after is told together.
    sa.Column("told_at", _TIME, nullable=False, server_default="0"),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
)

ALERT: Final = sa.Table(
    "alert",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("rule", _NAME, nullable=False),
    # As the rule said: it may be gone.
    sa.Column("title", sa.String(128), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("subject", sa.String(256), nullable=False),
    # Null: of no device alone.
    sa.Column("device", _NAME),
    # `pending`, `open` or `resolved`; see :mod:`fleet.alerts.judge`.
    sa.Column("status", sa.String(8), nullable=False),
    sa.Column("since", _TIME, nullable=False),
    sa.Column("opened_at", _TIME),
    sa.Column("clear_since", _TIME),
    sa.Column("resolved_at", _TIME),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    # `open` or `resolved`: what somebody is still to be told; empty: nothing.
    sa.Column("to_tell", sa.String(8), nullable=False, server_default=""),
    # Whether somebody was told that it is open.
    sa.Column("told", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index(
        "uq_alert_rule_subject",
        "rule",
        "subject",
        unique=True,
        sqlite_where=sa.text("status <> 'resolved'"),
        postgresql_where=sa.text("status <> 'resolved'"),
    ),
    _few("ix_alert_to_tell", "rule", "to_tell <> ''"),
    sa.Index("ix_alert_device", "device", "opened_at"),
    sa.Index("ix_alert_resolved_at", "resolved_at"),
)

MAIL: Final = sa.Table(
    "mail",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("event", sa.String(64), nullable=False),
    sa.Column("recipient", sa.String(254), nullable=False),
    sa.Column("subject", sa.String(200), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    # Null: it is not tried (any more).
    sa.Column("next_at", _TIME),
    sa.Column("delivered_at", _TIME),
    sa.Column("error", sa.Text),
    sa.Index("ix_mail_next_at", "next_at"),
    sa.Index("ix_mail_created_at", "created_at"),
)

FIELD_ASK: Final = sa.Table(
    "field_ask",
    METADATA,
    # A request for hard examples of a model, to the devices of a selector.
    sa.Column("name", _NAME, primary_key=True),
    sa.Column("model", _NAME, nullable=False),
    sa.Column("selector", sa.Text, nullable=False),
    sa.Column("most", sa.Integer, nullable=False),
    sa.Column("why", sa.String(200), nullable=False, server_default=""),
    sa.Column("by", _NAME, nullable=False),
    sa.Column("at", _TIME, nullable=False),
)

FIELD_SAMPLE: Final = sa.Table(
    "field_sample",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("device", _NAME, nullable=False),
    # By which the device knows the text: it is stored once, however often it comes.
    sa.Column("mark", sa.String(32), nullable=False),
    sa.Column("ask", _NAME, nullable=False),
    sa.Column("model", _NAME, nullable=False),
    # Of the normalised text: what several devices heard is labelled once.
    sa.Column("key", sa.String(32), nullable=False),
    sa.Column("received_at", _TIME, nullable=False),
    sa.Column("content", _JSON, nullable=False),
    sa.UniqueConstraint("device", "mark", name="uq_field_sample_device_mark"),
    sa.Index("ix_field_sample_model_key", "model", "key"),
)

FIELD_LABEL: Final = sa.Table(
    "field_label",
    METADATA,
    sa.Column("model", _NAME, primary_key=True),
    sa.Column("key", sa.String(32), primary_key=True),
    sa.Column("person", _NAME, primary_key=True),
    # NULL: passed over.
    sa.Column("label", sa.String(256)),
    sa.Column("at", _TIME, nullable=False),
)

FIELD_POOL: Final = sa.Table(
    "field_pool",
    METADATA,
    sa.Column("slot", _NAME, primary_key=True),
    sa.Column("bundle", sa.String(64), primary_key=True),
    # A week, as 2026-W48; what was told of it is never reckoned again.
    sa.Column("week", sa.String(8), primary_key=True),
    sa.Column("at", _TIME, nullable=False),
    sa.Column("content", sa.Text(), nullable=False),
)

FIELD_HINT: Final = sa.Table(
    "field_hint",
    METADATA,
    sa.Column("model", _NAME, primary_key=True),
    sa.Column("key", sa.String(32), primary_key=True),
    # Who suggests: a version of the model, or a teacher.
    sa.Column("source", _NAME, primary_key=True),
    sa.Column("label", sa.String(256), nullable=False),
    sa.Column("confidence", sa.Double, nullable=False),
)
