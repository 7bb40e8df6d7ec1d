"""The store: migrations, transactions, telemetry that counts once and adds up exactly."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import codec
from contracts.errors import InputError, RefusedError, UnavailableError
from contracts.histogram import Histogram
from contracts.messages import BundleRef, Sample, Telemetry
from fleet.figures import Figures
from fleet.ingest.decode import Batch, Message
from fleet.ingest.writer import Writer
from fleet.store import Store, leases, retention, telemetry, tokens
from fleet.store.retention import Retention
from fleet.store.schema import DEVICE, METADATA, ROLLUP, TELEMETRY, TOKEN
from fleet.store.telemetry import HOUR, MINUTE
from tests.support.read_only import read_only

REF = BundleRef("m", "1.0.0", "a" * 64)
NOW = 1_800_000_000.0


def _batch(seq: int, at: float, *values: float, device: str = "d1", boot: str = "b") -> Message:
    latency, confidence = Histogram("log8"), Histogram("unit20")
    for value in values:
        latency.add(value)
        confidence.add(0.5)
    body = Telemetry(
        boot,
        seq,
        [
            Sample(
                at,
                10.0,
                "classify",
                REF,
                requests=len(values),
                latency_us=latency,
                confidence=confidence,
                labels={"on": len(values)},
                gauges={"rss_bytes": float(seq)},
            )
        ],
    )
    return Message(device, Batch(boot, seq), codec.encode(body))


def _rolled(store: Store) -> None:
    while telemetry.roll_up(store, 7):
        pass


def test_the_migrated_schema_is_the_one_that_the_code_describes(store: Store) -> None:
    """Alembic finds no difference between the migrations and the tables."""
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        found = compare_metadata(context, METADATA)
    kinds = {entry[0] for entry in found if isinstance(entry, tuple)}
    assert not kinds & {"add_table", "remove_table", "add_column", "remove_column", "add_index"}, (
        found
    )


def test_migrating_twice_changes_nothing_and_check_passes(store: Store) -> None:
    """A second controller may start at any time."""
    store.migrate()
    store.check()
    assert store.revision()[0] == store.revision()[1]


def test_a_database_without_schema_is_named_as_such(bare_database_url: str) -> None:
    """A store that was never migrated is unavailable, not a traceback."""
    store = Store(bare_database_url)
    with pytest.raises(UnavailableError) as error:
        store.check()
    assert error.value.code == "old-schema"
    store.close()


@pytest.mark.parametrize("url", ["nonsense", "mysql://h/d", ""])
def test_other_databases_are_refused(url: str) -> None:
    """Only the two databases that are tested are accepted."""
    with pytest.raises(InputError) as error:
        Store(url)
    assert error.value.code == "bad-database"


def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    """All of a block is committed, or none of it."""
    with pytest.raises(RefusedError), store.write() as connection:
        tokens.create(connection, "one", "viewer", NOW)
        row = {"id": "x", "name": "n", "role": "viewer", "secret_sha256": "s", "created_at": NOW}
        connection.execute(TOKEN.insert(), row)
        connection.execute(TOKEN.insert(), row)
    with store.read() as connection:
        assert tokens.every(connection) == []


def test_a_database_that_can_only_be_read_now_is_one_to_try_again(store: Store) -> None:
    """A failover is over in a while: what was to be written is not refused."""
    read_only(store, True)
    with pytest.raises(UnavailableError) as error, store.write() as connection:
        tokens.create(connection, "one", "viewer", NOW)
    assert error.value.code == "database"
    with store.read() as connection:
        assert tokens.every(connection) == []
    read_only(store, False)
    with store.write() as connection:
        tokens.create(connection, "one", "viewer", NOW)


def test_a_file_that_is_no_database_is_one_to_look_at(tmp_path: Path) -> None:
    """No message is to blame for a damaged disk."""
    path = tmp_path / "state.db"
    path.write_bytes(b"not a database" * 1000)
    store = Store(f"sqlite:///{path}")
    with pytest.raises(UnavailableError, match="not a database"), store.write():
        pass
    store.close()


def test_no_error_of_the_database_holds_a_value(store: Store) -> None:
    """They are logged and told; a value may be a secret. Neither does what they come from."""
    row = {"id": "S3CRET", "name": "n", "role": "viewer", "secret_sha256": "s", "created_at": NOW}
    with store.write() as connection:
        connection.execute(TOKEN.insert().values(**row))
    with pytest.raises(RefusedError) as caught, store.write() as connection:
        connection.execute(TOKEN.insert().values(**row))
    assert "S3CRET" not in str(caught.value)
    with pytest.raises(sa.exc.DBAPIError) as raw, store.engine.connect() as connection:
        connection.execute(sa.text("SELECT :value FROM nowhere"), {"value": "S3CRET"})
    assert "S3CRET" not in str(raw.value)


def test_a_value_that_the_database_cannot_keep_is_refused(store: Store) -> None:
    """Trying again would not help."""
    one = {"id": "x", "name": "n", "role": "viewer", "secret_sha256": "s", "created_at": NOW}
    bad = one | ({"name": None} if store.is_sqlite else {"name": "a\0b"})
    with pytest.raises(RefusedError), store.write() as connection:
        connection.execute(TOKEN.insert(), bad)


def test_two_writers_wait_for_one_another(store: Store) -> None:
    """Twenty threads that each add one to the same row lose no addition."""

    def work() -> None:
        for _ in range(10):
            while True:
                with store.read() as connection:
                    seen = leases.generation(connection, "x")
                with store.write() as connection:
                    if leases.advance(connection, store, "x", seen):
                        break

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as connection:
        assert leases.generation(connection, "x") == 40


def test_a_lease_has_one_holder_until_it_ends(store: Store) -> None:
    """Another controller takes over only after the end, or when it is given back."""
    assert leases.acquire(store, "engine", "a", NOW, 10)
    assert not leases.acquire(store, "engine", "b", NOW + 9, 10)
    assert leases.acquire(store, "engine", "a", NOW + 9, 10)
    assert leases.acquire(store, "engine", "b", NOW + 20, 10)
    leases.release(store, "engine", "b")
    assert leases.acquire(store, "engine", "a", NOW + 21, 10)


def test_a_lease_from_a_clock_that_was_wrong_ends(store: Store) -> None:
    """A controller that died while its clock was years ahead must not be waited for."""
    assert leases.acquire(store, "engine", "a", NOW + 1_000_000, 10)
    assert leases.acquire(store, "engine", "b", NOW, 10)
    assert not leases.acquire(store, "engine", "a", NOW, 10)


def test_a_token_is_known_by_its_secret_until_it_is_revoked_or_ends(store: Store) -> None:
    """The database holds no secret."""
    with store.write() as connection:
        secret = tokens.create(connection, "ops", "operator", NOW, NOW + 100)
    with store.read() as connection:
        found = tokens.check(connection, secret, NOW)
        assert found is not None
        assert found.may("viewer") and found.may("operator") and not found.may("admin")
        assert tokens.check(connection, secret, NOW + 101) is None
        assert tokens.check(connection, secret[:-1] + "!", NOW) is None
        assert tokens.check(connection, secret[:-2] + "AA", NOW) is None
        stored = connection.execute(sa.select(TOKEN)).one()
        assert secret.split("_", 2)[2] not in str(stored)
    with store.write() as connection:
        tokens.revoke(connection, found.id, NOW)
        assert tokens.check(connection, secret, NOW) is None
        with pytest.raises(InputError):
            tokens.revoke(connection, found.id, NOW)


def test_telemetry_is_counted_once_however_often_and_in_whatever_order_it_comes(
    store: Store,
) -> None:
    """Batches that come twice, out of order and in other transactions give the same sums."""
    writer = Writer(store, admit_unknown=True)
    batches = [_batch(seq, NOW + seq * 7, *[float(seq + 1)] * (seq % 5)) for seq in range(40)]
    rng = random.Random(1)
    sent = batches + rng.sample(batches, 25)
    rng.shuffle(sent)
    for start in range(0, len(sent), 9):
        writer.write(sent[start : start + 9], NOW + 300)
        if start % 2:
            _rolled(store)
    writer.write(batches, NOW + 301)
    _rolled(store)
    expected = Figures()
    for message in batches:
        body = codec.decode(message.payload, Telemetry, what="a batch")
        expected.add_sample(body.samples[0], body.samples[0].at)
    for resolution in (MINUTE, HOUR):
        with store.read() as connection:
            points = telemetry.points(connection, "d1", resolution, 0, NOW * 2)
        total = Figures()
        for point in points:
            total.merge(point.figures)
        assert total == expected
        assert all(point.start % resolution == 0 for point in points)


def test_two_processes_that_roll_up_at_once_count_each_batch_once(store: Store) -> None:
    """Concurrent roll-ups of one minute add up."""
    writer = Writer(store, admit_unknown=True)
    for start in range(0, 200, 20):
        writer.write([_batch(start + i, NOW + i % 3, 5.0) for i in range(20)], NOW)
    threads = [threading.Thread(target=_rolled, args=(store,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _rolled(store)
    with store.read() as connection:
        points = telemetry.points(connection, "d1", HOUR, 0, NOW * 2)
    assert sum(point.figures.requests for point in points) == 200


def test_a_roll_up_takes_no_more_batches_at_once_than_its_memory_is_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two thousand batches of the largest size would be half a gigabyte."""
    batches = [_batch(i, NOW, 5.0) for i in range(7)]
    size = len(batches[0].payload)
    monkeypatch.setattr(telemetry, "_MAX_BYTES", 3 * size)
    Writer(store, admit_unknown=True).write(batches, NOW)
    assert [telemetry.roll_up(store) for _ in range(4)] == [3, 3, 1, 0]
    Writer(store, admit_unknown=True).write([_batch(7, NOW, 5.0), _batch(8, NOW, 5.0)], NOW)
    monkeypatch.setattr(telemetry, "_MAX_BYTES", size - 1)
    assert [telemetry.roll_up(store) for _ in range(3)] == [1, 1, 0]
    with store.read() as connection:
        points = telemetry.points(connection, "d1", HOUR, 0, NOW * 2)
    assert sum(point.figures.requests for point in points) == 9


def test_a_device_with_a_wrong_clock_is_put_at_the_time_of_arrival(store: Store) -> None:
    """A sample from 1970 or from next year does not vanish."""
    writer = Writer(store, admit_unknown=True)
    writer.write([_batch(0, 5.0, 1.0), _batch(1, NOW + 10**7, 1.0)], NOW)
    _rolled(store)
    with store.read() as connection:
        points = telemetry.points(connection, "d1", MINUTE, NOW - 60, NOW + 60)
    assert [point.figures.requests for point in points] == [2]


def test_retention_forgets_in_steps_and_still_knows_duplicates(store: Store) -> None:
    """Payloads go first, then minutes, then that a batch was seen, then hours."""
    writer = Writer(store, admit_unknown=True)
    writer.write([_batch(0, NOW, 1.0)], NOW)
    _rolled(store)
    rules = Retention(raw_s=100, seen_s=1000, minute_s=500, hour_s=10_000)
    assert retention.expire(store, rules, NOW + 200)["payloads"] == 1
    writer.write([_batch(0, NOW, 1.0)], NOW + 201)
    _rolled(store)
    with store.read() as connection:
        assert len(telemetry.points(connection, "d1", MINUTE, 0, NOW * 2)) == 1
        points = telemetry.points(connection, "d1", HOUR, 0, NOW * 2)
    assert points[0].figures.requests == 1
    assert retention.expire(store, rules, NOW + 700)["minutes"] == 2, "the device's, the fleet's"
    assert retention.expire(store, rules, NOW + 1100)["batches"] == 1
    with store.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(TELEMETRY)) == 0
        assert len(telemetry.points(connection, "d1", HOUR, 0, NOW * 2)) == 1
    assert retention.expire(store, rules, NOW + 20_000)["hours"] == 1


def test_the_figures_of_all_devices_together_are_the_sum_of_each(store: Store) -> None:
    """Added up as they come, in any order, by two processes: nobody adds all devices again."""
    writer = Writer(store, admit_unknown=True)
    rng = random.Random(2)
    batches = [
        _batch(seq, NOW + rng.choice([0, 30, 90]), *[float(rng.randint(1, 900))] * 3, device=name)
        for seq in range(12)
        for name in ("d1", "d2", "d3")
    ]
    rng.shuffle(batches)
    for start in range(0, len(batches), 7):
        writer.write(batches[start : start + 7], NOW)
        threads = [threading.Thread(target=_rolled, args=(store,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    _rolled(store)
    with store.read() as connection:
        whole = telemetry.fleet_totals(connection, 0)
        each = telemetry.fleet_totals(connection, 0, DEVICE.c.id != "")
        some = telemetry.fleet_totals(connection, 0, DEVICE.c.id.in_(["d1", "d3"]))
    (total,), (sums,), (two,) = whole.values(), each.values(), some.values()
    assert total.gauges == {} and sums.gauges != {}
    sums.gauges, sums.peaks = {}, {}
    assert total == sums
    assert (total.requests, two.requests) == (108, 72)
    with store.read() as connection:
        rows = connection.execute(sa.select(ROLLUP).where(telemetry.of_fleet(MINUTE))).all()
        assert sum(row.requests for row in rows) == 108
        assert len(rows) == 2, "one a minute, whatever the number of devices"


def test_what_is_not_rolled_up_is_never_forgotten(store: Store) -> None:
    """Retention waits for the roll-up."""
    writer = Writer(store, admit_unknown=True)
    writer.write([_batch(0, NOW, 1.0)], NOW)
    retention.expire(store, Retention(raw_s=1, seen_s=1), NOW + 100)
    _rolled(store)
    with store.read() as connection:
        assert len(telemetry.points(connection, "d1", HOUR, 0, NOW * 2)) == 1


_SAMPLES = st.builds(
    Sample,
    at=st.floats(0, 1e6),
    window_s=st.integers(0, 100).map(float),
    requests=st.integers(0, 1000),
    errors=st.integers(0, 10),
    labels=st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 50), max_size=3),
    latency_us=st.none()
    | st.builds(
        Histogram,
        scale=st.just("log8"),
        counts=st.dictionaries(st.integers(0, 60).map(str), st.integers(1, 9), max_size=4),
    ),
    gauges=st.dictionaries(st.sampled_from(["rss_bytes", "queue"]), st.floats(0, 1e9)),
)


@given(st.lists(_SAMPLES, max_size=12), st.randoms())
@settings(max_examples=60, deadline=None)
def test_figures_add_up_in_any_order_and_any_grouping(
    samples: list[Sample], rng: random.Random
) -> None:
    """Merging groups of samples gives what adding them one by one gives."""
    whole = Figures()
    for sample in samples:
        whole.add_sample(sample, sample.at)
    shuffled = list(samples)
    rng.shuffle(shuffled)
    parts: list[Figures] = []
    while shuffled:
        part = Figures()
        for _ in range(rng.randint(1, 3)):
            if shuffled:
                sample = shuffled.pop()
                part.add_sample(sample, sample.at)
        parts.append(msgspec.json.decode(msgspec.json.encode(part), type=Figures))
    rng.shuffle(parts)
    total = Figures()
    for part in parts:
        total.merge(part)
    ties = len({sample.at for sample in samples}) < len(samples)
    if ties:
        # Two gauges of the very same moment: either is the newest.
        whole.gauges = total.gauges = {}
    assert total == whole
