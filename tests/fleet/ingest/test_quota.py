"""Quotas: what a device may store on a day holds over restarts, and no honest device meets it."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from agent.telemetry.recorder import Recorder
from contracts import codec, drops
from contracts.config import AgentConfig, MqttConfig
from contracts.messages import BundleRef, Result, Sample, Telemetry
from contracts.topics import DeviceKind, Topics
from fleet.ingest.arrived import Arrived
from fleet.ingest.consumer import Consumer
from fleet.ingest.decode import decode
from fleet.ingest.quota import Accounts, Quota
from fleet.ingest.writer import Writer
from fleet.store import Store, delivery
from fleet.store.delivery import DAY_S, Spent

TOPICS = Topics("home")
NOON = 20_000.5 * DAY_S
BUNDLE = BundleRef("m", "1.0.0", "a" * 64)


class Sink:
    """In the place of the connection: takes what is acknowledged and told."""

    def acknowledge(self, mids: list[int]) -> None:
        """As ingest's client."""

    def send(self, messages: object, *, retain: bool = False) -> None:
        """As ingest's client."""


class Ingest:
    """One ingest process on a database, as far as the broker."""

    def __init__(self, store: Store, quota: Quota, clock: Callable[[], float]) -> None:
        writer = Writer(store, admit_unknown=True)
        self.consumer = Consumer(TOPICS, MqttConfig(), writer, quota=quota, clock=clock)
        self.consumer._client = Sink()  # type: ignore[assignment]

    def take(self, device: str, payload: bytes, kind: DeviceKind = "result") -> bool:
        """A message comes; whether it was stored."""
        arrived = Arrived(0, 1, 1, TOPICS.of_device(device, kind), payload)
        (message,) = self.consumer._decode([arrived])
        assert self.consumer._commit([message])
        return not message.over

    def end(self) -> None:
        """As `stop` does it: what is known is stored."""
        self.consumer._settle(everything=True)


def result(seq: int) -> bytes:
    """The output of a local source."""
    return codec.encode(Result("s", float(seq), "on", 1.0, BUNDLE, boot="b", seq=seq))


def test_a_controller_that_begins_anew_knows_at_once_who_is_over(store: Store) -> None:
    """From the first message on: a restart gives nobody a second quota."""
    quota = Quota(messages_per_day=50, bytes_per_day=0)
    now = [NOON]
    first = Ingest(store, quota, lambda: now[0])
    assert [first.take("greedy", result(seq)) for seq in range(60)] == [True] * 50 + [False] * 10
    assert first.take("honest", result(0))
    first.end()
    second = Ingest(store, quota, lambda: now[0])
    assert not second.take("greedy", result(60))
    assert [second.take("honest", result(seq)) for seq in range(1, 60)].count(True) == 49
    second.end()
    assert second.consumer.counters.over_quota == 11
    with store.read() as connection:
        day = delivery.day_of(now[0])
        used = delivery.usage(connection, day, ["greedy", "honest"])
        told = delivery.losses(connection, day)
    assert {one: spent.messages for one, spent in used.items()} == {"greedy": 50, "honest": 50}
    assert told == {"greedy": {drops.OVER: 11}, "honest": {drops.OVER: 10}}
    now[0] += DAY_S
    assert second.take("greedy", result(61)), "the next day begins anew"


def test_a_controller_that_is_killed_forgets_a_small_part_of_a_quota(store: Store) -> None:
    """What a day's counts are noted by: a device gains a 64th of its quota, and no more."""
    quota = Quota(messages_per_day=640, bytes_per_day=0)
    stored, seq, kills = 0, 0, 10
    for _ in range(kills):
        ingest = Ingest(store, quota, lambda: NOON)
        while ingest.take("greedy", result(seq)):
            stored, seq = stored + 1, seq + 1
            ingest.consumer._settle(everything=False)
            if seq % 100 == 0:
                break  # killed
    assert 640 <= stored <= 640 + kills * (640 // 64 + 2 * 16)


def test_what_devices_stored_is_asked_for_until_the_database_tells(store: Store) -> None:
    """While it is away nothing is committed either; then nobody has a quota anew."""
    quota = Quota(messages_per_day=50, bytes_per_day=0)
    with store.write() as connection:
        delivery.add_usage(store, connection, delivery.day_of(NOON), {"greedy": Spent(50, 1)})
    accounts = Accounts(quota)
    assert not accounts.is_over("greedy", NOON), "it was not asked for yet"
    assert accounts.strangers(["greedy"], NOON) == {"greedy"}
    accounts.recall({"greedy": Spent(50, 1)}, NOON)
    assert accounts.is_over("greedy", NOON) and not accounts.strangers(["greedy"], NOON)
    assert accounts.strangers(["greedy"], NOON + DAY_S) == {"greedy"}
    ingest = Ingest(store, quota, lambda: NOON)
    assert not ingest.take("greedy", result(0))


def test_the_busiest_honest_device_stays_below_the_default_quota() -> None:
    """Three models at work all day, a result each second, and a full spool of a week to hand in."""
    chance = random.Random(3)
    defaults = {field.name: field.default for field in msgspec.structs.fields(AgentConfig)}
    accounts = Accounts(Quota())

    def spend(payload: bytes, kind: DeviceKind) -> int:
        message = decode("home", TOPICS.of_device("d", kind), payload)
        accounts.spend("d", accounts.priced(message, NOON).cost, NOON)
        return len(payload)

    def batch(seq: int, at: float) -> bytes:
        recorder = Recorder()
        for slot in ("classify", "intents", "shadow"):
            for _ in range(40):
                label, confidence = f"label-{chance.randrange(30)}", chance.uniform(0.5, 1.0)
                latency = 900 * chance.lognormvariate(0, 0.25)
                recorder.answered(slot, BUNDLE, latency, label=label, confidence=confidence)
        gauges = {"rss_bytes": 61_000_000.0, "cpu_ratio": 0.05, "temperature_c": 51.2}
        samples = [*recorder.take(at, 10.0), Sample(at, 10.0, gauges=gauges)]
        return codec.encode(Telemetry("b", seq, samples))

    sample = batch(0, NOON)
    for seq in range(DAY_S // 10):
        spend(sample if seq % 50 else batch(seq, NOON + seq * 10), "telemetry")
        if not seq % 6:
            spend(batch(seq, NOON + seq * 10), "telemetry")  # a minute of its own
    for seq in range(DAY_S):
        spend(result(seq), "result")
    handed = seq = 0
    while handed < defaults["spool_bytes"]:
        seq += 1
        handed += spend(result(seq), "result")
    assert not accounts.is_over("d", NOON)
    _, due = accounts.take_due(NOON, everything=True)
    assert due["d"].bytes < 0.75 * Quota().bytes_per_day, due
