"""One device that sends nonsense must not stop the ingest of the whole fleet."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from contracts.errors import InputError
from contracts.topics import Topics
from fleet.ingest.consumer import Arrived, Consumer
from fleet.ingest.decode import decode
from fleet.ingest.writer import Change, Writer
from fleet.store import Store, telemetry

TOPICS = Topics("reef")
REF = {"name": "m", "version": "1.0.0", "manifest_sha256": "0" * 64}
EVENT = {
    "boot": "b", "seq": 1, "revision": 1, "slot": "classify", "bundle": REF, "state": "trial",
    "at": 1.0, "rollout": "r", "reason": {"code": "c", "message": "m"},
}  # fmt: skip
HONEST: dict[str, dict[str, Any]] = {
    "status": {"state": "online", "boot": "b", "session": 1, "since": 1.0},
    "reported": {
        "device": "d", "boot": "b", "agent_version": "1", "board": "x", "runtime": "r", "at": 1.0,
        "last_update": EVENT, "platform": {"k": "v"},
    },
    "update": EVENT,
    "telemetry": {
        "boot": "b", "seq": 1, "samples": [
            {"at": 1.0, "window_s": 1.0, "slot": "classify", "bundle": REF, "requests": 1,
             "labels": {"on": 1}, "gauges": {"rss": 1.0}, "drift": 0.5,
             "latency_us": {"scale": "log8", "counts": {"3": 1}, "sum": 1.0}},
        ],
    },
    "result": {"source": "s", "at": 1.0, "label": "l", "confidence": 0.5, "bundle": REF,
               "text": "t"},
}  # fmt: skip
NASTY: list[Any] = [
        "\x00", "a\x00b", "x" * 70, "x" * 300, "é" * 64, "\N{GRINNING FACE}" * 100, "\u2028", "",
        1e300, -1e300, 1e18, -1, 0, 2**53, 2**63, 2**64, -(2**63), 0.1, None, True, [], {},
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


@pytest.fixture
def writer(store: Store) -> Writer:
    """Ingest that lists whoever speaks."""
    return Writer(store, admit_unknown=True)


@pytest.mark.parametrize("kind", sorted(HONEST))
def test_what_is_accepted_can_be_stored_and_rolled_up(
    store: Store, writer: Writer, kind: str
) -> None:
    """Every field of an honest message in turn, by every nasty value, on both databases."""
    seq = 1
    for path in places(HONEST[kind]):
        for value in NASTY:
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
    while telemetry.roll_up(store):
        pass


class Sink:
    """Remembers what the consumer acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []

    def acknowledge(self, mids: list[int]) -> None:
        """As ingest's client."""
        self.acknowledged += mids


class Brittle(Writer):
    """A writer with a defect: it cannot store what one device sends."""

    def write(self, batch: Any, now: float) -> tuple[list[Change], int]:
        """Fails for the whole batch when device `evil` is in it."""
        if any(message.device == "evil" for message in batch):
            raise ValueError("a value that the database does not take")
        return super().write(batch, now)


def test_a_message_that_cannot_be_stored_is_dropped_and_the_rest_is_kept(store: Store) -> None:
    """Whatever the defect is: the worker goes on, the others' messages are committed."""
    from contracts.config import MqttConfig

    consumer = Consumer(TOPICS, MqttConfig(), Brittle(store, admit_unknown=True))
    sink = Sink()
    consumer._client = sink  # type: ignore[assignment]
    payload = msgspec.json.encode(HONEST["status"])
    for mid, device in enumerate(["a", "evil", "b"]):
        topic = TOPICS.of_device(device, "status")
        consumer._queue.put(Arrived(0, mid, 1, topic, payload))
    consumer._queue.put(None)
    consumer._run()
    assert sink.acknowledged == [0, 1, 2]
    assert consumer.counters.rejected == 1
    with store.read() as connection:
        from fleet.store.schema import DEVICE

        states = dict(
            connection.execute(DEVICE.select().with_only_columns(DEVICE.c.id, DEVICE.c.state)).all()
        )
    assert states == {"a": "online", "b": "online"}
