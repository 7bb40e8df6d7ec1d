"""One device that sends nonsense must not stop the ingest of the whole fleet."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from contracts.config import MqttConfig
from contracts.errors import InputError, UnavailableError
from contracts.topics import Topics
from fleet.figures import Figures
from fleet.ingest.arrived import Arrived
from fleet.ingest.consumer import Consumer
from fleet.ingest.decode import Batch, Message, decode
from fleet.ingest.writer import Writer, Written
from fleet.store import Store, devices, rollups, telemetry
from fleet.store.documents import dump, load
from fleet.store.schema import DEVICE, ROLLUP
from tests.support.read_only import read_only

TOPICS = Topics("reef")
REF = {"name": "m", "version": "1.0.0", "manifest_sha256": "0" * 64}
EVENT = {
    "boot": "b", "seq": 1, "revision": 1, "slot": "classify", "bundle": REF, "state": "trial",
    "at": 1.0, "rollout": "r", "reason": {"code": "c", "message": "m", "detail": {"k": 1}},
}  # fmt: skip
HONEST: dict[str, dict[str, Any]] = {
    "status": {"state": "online", "boot": "b", "session": 1, "since": 1.0},
    "reported": {
        "device": "d", "boot": "b", "agent_version": "1", "board": "x", "runtime": "r", "at": 1.0,
        "last_update": EVENT, "platform": {"k": "v"},
        "slots": {"classify": {"active": REF, "problem": EVENT["reason"]}},
    },
    "update": EVENT,
    "telemetry": {
        "boot": "b", "seq": 1, "samples": [
            {"at": 1.0, "window_s": 1.0, "slot": "classify", "bundle": REF, "requests": 1,
             "labels": {"on": 1}, "gauges": {"rss": 1.0}, "drift": 0.5,
             "latency_us": {"scale": "log8", "counts": {"3": 1}, "total": 1.0},
             "confidence": {"scale": "unit20", "counts": {"3": 1}, "total": 0.5}},
        ],
    },
    "result": {"source": "s", "at": 1.0, "label": "l", "confidence": 0.5, "bundle": REF,
               "text": "t"},
}  # fmt: skip
NASTY: list[Any] = [
        "\x00", "a\x00b", "x" * 70, "x" * 300, "é" * 64, "\N{GRINNING FACE}" * 100, "\u2028", "",
        1.7e308, -1.7e308, 1e300, 1e18, 1e15, 2**40, -1, 0, 2**53, 2**63, 2**64, -(2**63), 0.1,
        None, True, [], {},
        {"\x00": 1}, {"x" * 256: 2**53}, ["\x00"], float(2**53),
]  # fmt: skip


def places(document: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of every value inside a document."""
    inner = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    return [
        path for key, value in inner for path in [(*prefix, key), *places(value, (*prefix, key))]
    ]


@pytest.fixture(autouse=True)
def counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of a test start at zero."""
    monkeypatch.setattr(telemetry.counters, "skipped", 0)


@pytest.fixture
def writer(store: Store) -> Writer:
    """Ingest that lists whoever speaks."""
    return Writer(store, admit_unknown=True)


def _rolled(store: Store, limit: int = 2000) -> None:
    while telemetry.roll_up(store, limit):
        pass


def _requests(store: Store, device: str) -> int:
    with store.read() as connection:
        points = telemetry.points(connection, device, telemetry.MINUTE, 0, time.time() + 60)
    return sum(point.figures.requests for point in points)


@pytest.mark.parametrize("kind", sorted(HONEST))
def test_what_is_accepted_can_be_stored_and_rolled_up(
    store: Store, writer: Writer, kind: str
) -> None:
    """Every field of an honest message in turn, by every nasty value, on both databases."""
    seq = 1
    for path in places(HONEST[kind]):
        for value in NASTY:
            # Twice: two values that can be stored may add up to one that cannot.
            for _ in range(2):
                document = msgspec.json.decode(msgspec.json.encode(HONEST[kind]))
                if "seq" in document:
                    seq += 1
                    document["seq"] = seq
                target = document
                for key in path[:-1]:
                    target = target[key]
                target[path[-1]] = value
                try:
                    message = decode(
                        "reef", f"{TOPICS.prefix}/d/d/{kind}", msgspec.json.encode(document)
                    )
                except InputError:
                    continue
                writer.write([message], time.time())
    _rolled(store, 50)
    assert telemetry.counters.skipped == 0
    with store.read() as connection:
        devices.every(connection)
        telemetry.fleet_totals(connection, 0)
        telemetry.of_bundle(connection, "classify", "0" * 64, {"d": 0.0})


def _deeper(frames: int, work: Callable[[], Any]) -> Any:
    return _deeper(frames - 1, work) if frames else work()


@pytest.mark.parametrize("place", ["update", "last_update", "problem"])
@pytest.mark.parametrize("levels", [10, 100, 600, 900])
def test_what_is_accepted_can_be_read_by_whoever_has_called_far(
    store: Store, writer: Writer, place: str, levels: int
) -> None:
    """A detail as deep as ingest can decode would stop all who list the devices."""
    detail: dict[str, Any] = {}
    for _ in range(levels):
        detail = {"k": detail}
    reason = {"code": "c", "message": "m", "detail": detail}
    if place == "update":
        kind, document = "update", EVENT | {"reason": reason}
    elif place == "last_update":
        kind, document = (
            "reported",
            HONEST["reported"] | {"last_update": EVENT | {"reason": reason}},
        )
    else:
        slots = {"classify": {"active": REF, "problem": reason}}
        kind, document = "reported", HONEST["reported"] | {"slots": slots}
    try:
        message = decode("reef", f"{TOPICS.prefix}/d/d/{kind}", msgspec.json.encode(document))
    except InputError:
        assert levels > 10, "an honest error is not refused"
        return
    writer.write([message], time.time())
    with store.read() as connection:
        _deeper(500, lambda: devices.every(connection))


def _let_in(device: str, seq: int, *samples: dict[str, Any]) -> Message:
    """A batch as an earlier version let it into the database: nothing of it is checked."""
    whole = {"at": 1.0, "window_s": 1.0, "slot": "classify", "bundle": REF}
    payload = {"boot": "b", "seq": seq, "samples": [whole | sample for sample in samples]}
    return Message(device, Batch("b", seq), msgspec.json.encode(payload))


@pytest.mark.parametrize(
    "sample",
    [
        {"latency_us": {"scale": "log8", "counts": {"3": 2**53}, "total": 1.7e308}},
        {"confidence": {"scale": "unit20", "counts": {"3": 2**53}, "total": -1.7e308}},
        {"window_s": 1.7e308},
        {"requests": 2**53},
        {"errors": 2**53},
        {"labels": {"on": 2**53}},
        {"tokens": 2**53},
        {"gauges": {"x" * 65: 1.0, "rss_bytes": 1.7e308}},
    ],
    ids=lambda sample: next(iter(sample)),
)
def test_sums_over_the_batches_of_an_earlier_version_can_be_stored_and_read(
    store: Store, writer: Writer, sample: dict[str, Any]
) -> None:
    """What one device sent adds up to no row that stops the roll-up and the totals of all."""
    now = time.time()
    for seq in range(5):
        writer.write([_let_in("evil", seq, *[sample] * 256)], now)
    writer.write([_let_in("good", 1, {"requests": 5})], now)
    _rolled(store, 2)
    assert _requests(store, "good") == 5
    assert telemetry.counters.skipped == 0
    with store.read() as connection:
        (total,) = telemetry.fleet_totals(connection, 0).values()
        assert total.samples == 5 * 256 + 1
        assert not any(len(name) > 64 for name in total.gauges)
        found = telemetry.of_bundle(connection, "classify", "0" * 64, {"evil": 0.0, "good": 0.0})
        assert found["good"].requests == 5
        dump(found)


def test_the_database_itself_can_add_up_the_rows_of_one_device(
    store: Store, writer: Writer
) -> None:
    """SQLite refuses a sum of integers over 2**63, and the dashboard asks for one."""
    now = time.time()
    for seq in range(5):
        slots = [{"slot": f"s{seq}-{i}", "requests": 2**53, "errors": 2**53} for i in range(256)]
        writer.write([_let_in("evil", seq, *slots)], now)
    _rolled(store)
    with store.read() as connection:
        columns = [sa.func.sum(ROLLUP.c.requests), sa.func.sum(ROLLUP.c.errors)]
        for resolution in (telemetry.MINUTE, telemetry.HOUR):
            query = sa.select(*columns).where(ROLLUP.c.resolution == resolution)
            assert all(value > 2**40 for value in connection.execute(query).one())


@pytest.mark.parametrize(
    "content",
    [
        '{"samples":2,"requests":3,"window_s":null}',
        '{"requests":3,"latency_us":{"scale":"log8","counts":{"3":2},"total":null}}',
        json.dumps({"requests": 3, "gauges": {"x" * 65: [1.0, 2.0]}, "peaks": {"x" * 65: 2.0}}),
        '{"samples":2,"requests":',
    ],
    ids=["infinite-time", "infinite-latency", "long-names", "half-a-row"],
)
def test_a_row_that_an_earlier_version_spoilt_is_read_and_mended(
    store: Store, writer: Writer, content: str
) -> None:
    """It stops no reader, and the next batch of its minute makes it whole again."""
    now = time.time() // 3600 * 3600
    writer.write([_let_in("evil", 1, {"requests": 1}), _let_in("good", 1, {"requests": 5})], now)
    _rolled(store)
    with store.write() as connection:
        connection.execute(ROLLUP.update().where(ROLLUP.c.device == "evil").values(content=content))
    known = 3 if content.endswith("}") else 0
    with store.read() as connection:
        both = DEVICE.c.id.in_(["evil", "good"])
        (total,) = telemetry.fleet_totals(connection, 0, both).values()
        assert total.requests == 5 + known
        telemetry.of_bundle(connection, "classify", "0" * 64, {"evil": 0.0})
    assert _requests(store, "evil") == known
    writer.write([_let_in("evil", 2, {"requests": 4}), _let_in("good", 2, {"requests": 5})], now)
    _rolled(store)
    assert (_requests(store, "evil"), _requests(store, "good")) == (known + 4, 10)
    with store.read() as connection:
        for text in connection.scalars(sa.select(ROLLUP.c.content)):
            assert "null" not in text and "xxx" not in text
            load(text, Figures)


def test_a_batch_that_cannot_be_rolled_up_is_skipped_and_the_rest_is_added(
    store: Store, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the defect is, of a batch or of a row: the others count, and all can expire."""
    whole = rollups._row

    def brittle(key: rollups.Key, figures: Figures) -> dict[str, object]:
        if key[2] == "bad-row":
            raise OverflowError("a value that the database does not take")
        return whole(key, figures)

    monkeypatch.setattr(rollups, "_row", brittle)
    broken = msgspec.structs.replace(_let_in("evil", 100), payload=b"{")
    messages = [_let_in("good", seq, {"requests": 1}) for seq in range(20)]
    messages[3:3] = [broken, _let_in("evil", 101, {"slot": "bad-row"})]
    messages.append(_let_in("evil", 102, {"requests": 7}))
    writer.write(messages, time.time())
    assert telemetry.roll_up(store) == 23
    assert telemetry.counters.skipped == 2
    assert (_requests(store, "good"), _requests(store, "evil")) == (20, 7)
    assert telemetry.roll_up(store) == 0


def test_a_database_that_is_away_makes_no_batch_bad(
    store: Store, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is skipped: the batches are added once it is back."""
    writer.write([_let_in("good", seq, {"requests": 1}) for seq in range(3)], time.time())

    def away(*_arguments: Any) -> None:
        raise UnavailableError("database", "the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(rollups, "add", away)
        with pytest.raises(UnavailableError):
            telemetry.roll_up(store)
    _rolled(store)
    assert _requests(store, "good") == 3
    assert telemetry.counters.skipped == 0


class Sink:
    """Remembers what the consumer acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []

    def acknowledge(self, mids: list[int]) -> None:
        """As ingest's client."""
        self.acknowledged += mids


class Brittle(Writer):
    """A writer with a defect: it cannot store what one device sends."""

    def write(self, batch: Any, now: float) -> Written:
        """Fails for the whole batch when device `evil` is in it."""
        if any(message.device == "evil" for message in batch):
            raise ValueError("a value that the database does not take")
        return super().write(batch, now)


def _consumer(writer: Writer, **more: Any) -> tuple[Consumer, Sink]:
    consumer = Consumer(TOPICS, MqttConfig(), writer, **more)
    sink = Sink()
    consumer._client = sink  # type: ignore[assignment]
    payload = msgspec.json.encode(HONEST["status"])
    for mid, device in enumerate(["a", "evil", "b"]):
        topic = TOPICS.of_device(device, "status")
        consumer._queue.put(Arrived(0, mid, 1, topic, payload))
    consumer._queue.put(None)
    return consumer, sink


def _states(store: Store) -> dict[str, str]:
    with store.read() as connection:
        return {device.id: device.state for device in devices.every(connection)}


def test_a_message_that_cannot_be_stored_is_dropped_and_the_rest_is_kept(store: Store) -> None:
    """Whatever the defect is: the worker goes on, the others' messages are committed."""
    consumer, sink = _consumer(Brittle(store, admit_unknown=True))
    consumer._run()
    assert sink.acknowledged == [0, 1, 2]
    assert consumer.counters.rejected == 1
    assert _states(store) == {"a": "online", "b": "online"}


def test_a_message_that_decoding_fails_at_is_dropped_and_the_rest_is_kept(
    store: Store, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect there ends no thread either."""

    def brittle(fleet: str, topic: str, payload: bytes) -> Message:
        if "/evil/" in topic:
            raise ZeroDivisionError
        return decode(fleet, topic, payload)

    monkeypatch.setattr("fleet.ingest.consumer.decode", brittle)
    consumer, sink = _consumer(writer)
    consumer._run()
    assert sink.acknowledged == [0, 1, 2]
    assert consumer.counters.rejected == 1
    assert _states(store) == {"a": "online", "b": "online"}


def test_what_listens_to_changes_cannot_stop_the_ingest(store: Store, writer: Writer) -> None:
    """The changes are committed by then, once, and are acknowledged."""

    def listen(_changes: Any) -> None:
        raise ZeroDivisionError

    consumer, sink = _consumer(writer, on_changes=listen)
    consumer._run()
    assert sink.acknowledged == [0, 1, 2]
    assert (consumer.counters.messages, consumer.counters.rejected) == (3, 0)


def test_no_message_is_lost_while_the_database_is_read_only(
    store: Store, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover makes no message bad: all are acknowledged once they are stored."""
    consumer, sink = _consumer(writer)
    read_only(store, True)
    waits: list[list[int]] = []

    def wait(_seconds: float) -> bool:
        waits.append(list(sink.acknowledged))
        if len(waits) == 2:
            read_only(store, False)
        return False

    monkeypatch.setattr(consumer._stopping, "wait", wait)
    consumer._run()
    assert waits == [[], []], "nothing is acknowledged before it is stored"
    assert sink.acknowledged == [0, 1, 2]
    assert (consumer.counters.retries, consumer.counters.rejected) == (2, 0)
    assert _states(store) == {"a": "online", "b": "online", "evil": "online"}
