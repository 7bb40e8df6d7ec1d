"""One device cannot fill the controller: what a day of hostile messages takes on the disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from contracts import limits
from contracts.config import MqttConfig
from contracts.topics import DeviceKind, Topics
from fleet.ingest.arrived import Arrived
from fleet.ingest.consumer import Consumer
from fleet.ingest.quota import Quota
from fleet.ingest.writer import Writer
from fleet.store import Store, telemetry
from tests.fleet.ingest.test_hostile_devices import Sink

TOPICS = Topics("home")
QUOTA = Quota(messages_per_day=0, bytes_per_day=limits.MIB // 4)
GROWTH = 2.0
"""Bytes of the database for each byte of the quota, at most."""

SLACK = limits.MIB // 4
"""What files and tables take before anything is in them."""

BUNDLE = {"name": "m", "version": "1.0.0", "manifest_sha256": "a" * 64}


def _batch(seq: int, samples: list[dict[str, Any]]) -> bytes:
    return msgspec.json.encode({"boot": "b", "seq": seq, "samples": samples})


def _small_samples(seq: int) -> bytes:
    """Each of a slot and a minute of its own: four rows for some eighty bytes."""
    now = time.time()
    return _batch(
        seq,
        [
            {"at": now - 3600.0 * (n % 600), "window_s": 1, "slot": f"{seq}-{n}", "bundle": BUNDLE}
            for n in range(100)
        ],
    )


def _tiny_batches(seq: int) -> bytes:
    """One sample in each: the row's own bytes are more than the message's."""
    sample = {"at": time.time() - 3600.0 * (seq % 600), "window_s": 1, "slot": f"s{seq}"}
    return _batch(seq, [sample])


def _many_labels(seq: int) -> bytes:
    """As much as a sample may hold, in a minute of its own."""
    labels = {f"{seq}-{n}-{'x' * 40}": 1 for n in range(2000)}
    at = time.time() - 3600.0 * (seq % 600)
    sample = {"at": at, "window_s": 1, "slot": f"s{seq}", "bundle": BUNDLE, "labels": labels}
    return _batch(seq, [sample])


def _results(seq: int) -> bytes:
    """The shortest."""
    return msgspec.json.encode(
        {"source": "s", "at": float(seq), "label": "l", "confidence": 1.0, "bundle": BUNDLE,
         "boot": "b", "seq": seq}
    )  # fmt: skip


def _unnumbered(seq: int) -> bytes:
    """As agents before acknowledgements send them: what is not numbered is stored all the same."""
    return msgspec.json.encode(
        {"source": "s", "at": float(seq), "label": "l", "confidence": 1.0, "bundle": BUNDLE}
    )


def _updates(seq: int) -> bytes:
    """Events of updates that never were."""
    return msgspec.json.encode(
        {"boot": "b", "seq": seq, "revision": 1, "slot": "s", "bundle": BUNDLE,
         "state": "committed", "at": 1.0, "reason": {"code": "c", "message": "m"}}
    )  # fmt: skip


def _size(store: Store, url: str) -> int:
    """Bytes of the database's files."""
    if store.is_sqlite:
        with store.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return Path(url.removeprefix("sqlite:///")).stat().st_size
    with store.read() as connection:
        found = connection.scalar(sa.text("SELECT pg_database_size(current_database())"))
    return int(found or 0)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("telemetry", _small_samples),
        ("telemetry", _tiny_batches),
        ("telemetry", _many_labels),
        ("result", _results),
        ("result", _unnumbered),
        ("update", _updates),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__.strip("_"),
)
def test_a_day_of_one_device_s_messages_is_bounded_on_the_disk(
    store: Store, database_url: str, kind: DeviceKind, make: Callable[[int], bytes]
) -> None:
    """The quota is of what is stored, not of what is sent; beyond it nothing grows."""
    consumer = Consumer(
        TOPICS, MqttConfig(), Writer(store, admit_unknown=True), quota=QUOTA, ack_s=3600.0
    )
    consumer._client = Sink()  # type: ignore[assignment]
    topic = TOPICS.of_device("evil", kind)

    def send(first: int, count: int) -> None:
        arrived = [Arrived(0, n, 1, topic, make(n)) for n in range(first, first + count)]
        for start in range(0, count, 20):
            messages = consumer._decode(arrived[start : start + 20])
            assert len(messages) == len(arrived[start : start + 20])
            assert consumer._commit(messages)
        while telemetry.roll_up(store):
            pass

    before = _size(store, database_url)
    # Twice the quota in bytes of messages, so that it is used up whatever they count for.
    count = 2 * QUOTA.bytes_per_day // len(make(1)) + 100
    send(1, count)
    grown = _size(store, database_url) - before

    assert grown <= GROWTH * QUOTA.bytes_per_day + SLACK, f"{grown:,} bytes"
    if kind != "update":  # its events go on to change, in place, what is known of the device
        assert consumer.counters.over_quota > 0
    send(count + 1, 200)
    again = _size(store, database_url) - before - grown
    assert again <= SLACK / 4, "it grows beyond the quota"
