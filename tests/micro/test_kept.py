"""A MicroPython device keeps telemetry until the controller has it, whatever the broker said."""

from __future__ import annotations

import json
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as paho
import pytest
import sqlalchemy as sa

from agent.micro.kept import (
    GREETING,
    IDLE_SECONDS,
    MAX_BYTES,
    MAX_KEPT,
    NOBODY_LISTENS,
    PATIENCE,
    WATCHED,
    Kept,
    Quiet,
)
from contracts import codec
from contracts.config import MqttConfig
from contracts.connection import new_client
from contracts.messages import Ack, Telemetry
from contracts.topics import Topics
from fleet.ingest.consumer import Consumer
from fleet.ingest.writer import Writer
from fleet.repository.repository import Repository
from fleet.store import Store
from fleet.store.marks import NOTHING, Mark, advance
from fleet.store.schema import TELEMETRY
from tests.micro import device
from tests.micro.controller import enrol
from tests.support.broker import mosquitto
from tests.support.tools import free_port

BOOT = "b0"
WAIT_S = 120.0


def test_an_idle_board_tells_of_a_day_in_some_hundred_batches() -> None:
    """Everything after a start and after a step of an update; then each board at its own pace."""
    numbers = []
    for boot in ("00", "7f", "ff"):
        quiet, since, told = Quiet(boot, IDLE_SECONDS), 0, []
        for now in range(0, WATCHED + 86_400_000, 30_000):
            if quiet.has_news(now, since):
                told.append(now)
                since = now
        assert len([at for at in told if at < WATCHED]) == WATCHED / 30_000
        numbers.append(len(told) - WATCHED // 30_000)
        assert not quiet.has_news(since + 30_000, since)
        quiet.stir(since)
        assert quiet.has_news(since + 30_000, since)
    assert numbers == sorted(numbers, reverse=True)
    assert 96 <= numbers[-1] < numbers[0] <= 128
    assert Quiet("00", 0).has_news(2 * WATCHED, 2 * WATCHED)


# The rules, without a network. -----------------------------------------------------------------


class World:
    """A device's ring, and a controller as ingest counts: what was lost on the way is chance's."""

    def __init__(self, known: bool = False) -> None:
        self.now = 0
        self.kept = Kept(BOOT, known, 0)
        self.mark: Mark | None = None
        self.stored: list[int] = []
        self.given_way: set[int] = set()
        self.kept.connected(0)

    def put(self) -> bool:
        """A window of time ends; whether there was room for it."""
        before, known = {batch.seq for batch in self.kept._batches}, self.kept.known
        room = self.kept.room()
        gone = before - {batch.seq for batch in self.kept._batches}
        assert not (gone and known)
        self.given_way |= gone
        if room:
            self.kept.put(b'{"boot":"b0","seq":%d,"samples":[]}' % self.kept.seq)
        return room

    def send(self, *, lost: bool = False, code: int = 0) -> list[int]:
        """Sends all that is to be sent now; the numbers."""
        sent = []
        while (found := self.kept.next(self.now)) is not None:
            batch, payload = found
            if not lost and code == 0:
                self.arrive(payload)
            self.kept.landed(batch, code, self.now)
            sent.append(batch.seq)
        return sent

    def arrive(self, payload: bytes) -> None:
        """The controller commits a batch."""
        batch = codec.decode(payload, Telemetry, what="a batch")
        if batch.seq not in self.stored:
            self.stored.append(batch.seq)
        if self.mark is None and batch.after is None:
            return
        after = batch.seq - 1 if batch.after is None else batch.after
        self.mark = advance(self.mark or Mark(), [(after, batch.seq)])

    def ack(self) -> bool:
        """The controller says what it has."""
        mark = self.mark or Mark(NOTHING)
        ack = Ack(BOOT, mark.upto, "telemetry", [(a, b) for a, b in mark.ahead])
        return self.kept.heard(json.loads(codec.encode(ack)), self.now)


def test_the_first_of_a_boot_says_so_and_the_next_need_not() -> None:
    """`after` is given where a number does not follow the one before."""
    world = World()
    found = []
    for _ in range(2):
        world.put()
        batch, payload = world.kept.next(0)
        world.kept.landed(batch, 0, 0)
        found.append(json.loads(payload).get("after"))
    assert found == [-1, None]


def test_what_the_broker_took_is_kept_until_the_controller_has_it() -> None:
    """And sent again with a new connection, after the greeting."""
    world = World(known=True)
    world.put()
    assert world.send(lost=True) == [0]
    assert world.send() == []
    world.now += 1000
    world.kept.connected(world.now)
    world.put()
    assert world.send() == [1], "the controller is given the time to say what it has"
    world.ack()
    assert world.send() == [0, 1], "the controller does not know where the boot begins"
    world.ack()
    world.put()
    assert world.send(lost=True) == [2]
    world.kept.connected(world.now)
    world.put()
    assert world.send() == [3]
    world.ack()
    assert world.send() == [2], "it was sent before what is there"
    world.ack()
    world.now += GREETING
    assert world.send() == []
    assert sorted(world.stored) == [0, 1, 2, 3]


def test_the_broker_s_refusal_is_no_success() -> None:
    """Nobody listens, or not allowed: it waits, and longer each time."""
    for code in (NOBODY_LISTENS, 0x87):
        world = World()
        world.put()
        batch, _ = world.kept.next(0)
        world.kept.landed(batch, code, 0)
        assert world.send() == []
        world.now = 30_000
        batch, _ = world.kept.next(world.now)
        world.kept.landed(batch, code, world.now)
        world.now += 30_000
        assert world.send() == []
        world.now += 30_000
        assert world.send() == [0]


def test_without_room_the_window_goes_on_and_nothing_is_dropped() -> None:
    """Both in number and in bytes; who was acknowledged once does not take the broker's word."""
    world = World(known=True)
    while world.put():
        pass
    world.send(lost=True)
    assert not world.put() and world.kept.seq == MAX_KEPT
    large = Kept(BOOT, True, 0)
    large.put(b"{" + b" " * MAX_BYTES)
    assert not large.room()


def test_where_nobody_acknowledges_the_broker_s_word_counts() -> None:
    """A controller of before: the ring takes new batches, and the oldest that were taken go."""
    world = World()
    for _ in range(3 * MAX_KEPT):
        assert world.put()
        world.send()
    assert world.stored == list(range(3 * MAX_KEPT))
    silent = World(known=True)
    while silent.put():
        pass
    silent.send(lost=True)
    assert not silent.put()
    silent.now = PATIENCE + 1
    silent.send()
    assert silent.put(), "after a day without a word it is one of before"


def test_words_that_no_controller_says_change_nothing() -> None:
    """Of another boot, another kind, numbers that were never sent, and what is no word at all."""
    world = World()
    world.put()
    world.send()
    for word in (
        None, [], 7, {}, {"boot": BOOT}, {"boot": BOOT, "seq": "0"}, {"boot": BOOT, "seq": True},
        {"boot": "other", "seq": 0}, {"boot": BOOT, "seq": 0, "kind": "update"},
        {"boot": BOOT, "seq": 5}, {"boot": BOOT, "seq": -1, "ahead": [[0, 9]]},
        {"boot": BOOT, "seq": -1, "ahead": 3}, {"boot": BOOT, "seq": -1, "ahead": [[0]]},
        {"boot": BOOT, "seq": -1, "ahead": [["0", 0]]},
    ):  # fmt: skip
        assert not world.kept.heard(word, 0), word
    assert not world.kept.known
    assert world.ack()
    assert world.kept.known and not world.ack()


def test_a_device_over_its_quota_waits_and_keeps_what_it_has() -> None:
    """It is told for how long; afterwards all of it is sent."""
    world = World()
    world.put()
    world.send(lost=True)
    world.kept.heard({"boot": BOOT, "seq": -1, "wait_s": 60.5}, 0)
    world.put()
    assert world.send() == []
    world.now = 60_500
    assert world.send() == [0, 1]


def test_whatever_is_lost_on_the_way_arrives_once_all_is_well() -> None:
    """A thousand histories of lost messages, lost words, new connections and refusals."""
    for seed in range(1000):
        chance = random.Random(seed)
        world = World()
        windows = 0
        for _ in range(60):
            match chance.randrange(6):
                case 0 | 1:
                    windows += world.put()
                case 2:
                    world.send(lost=chance.random() < 0.4)
                case 3:
                    world.send(code=chance.choice([0, 0, NOBODY_LISTENS, 0x97]))
                case 4:
                    if world.mark is not None and chance.random() < 0.6:
                        world.ack()
                case 5:
                    world.kept.connected(world.now)
            world.now += chance.choice([100, 3000, 40_000])
        for _ in range(60):
            world.send()
            world.ack()
            world.now += 60_000
        missing = set(range(windows)) - set(world.stored)
        # Before the first word ever, the broker's counts.
        assert missing <= world.given_way, (seed, missing)
        assert not world.kept._batches, seed


# The device, on a broker that loses what it holds. ---------------------------------------------


@contextmanager
def ingesting(store: Store, config: MqttConfig, topics: Topics) -> Iterator[Consumer]:
    """The controller's ingest."""
    writer = Writer(store, admit_unknown=True)
    consumer = Consumer(topics, config, writer, ack_s=1.0)
    consumer.start()
    try:
        assert consumer.connected.wait(WAIT_S)
        yield consumer
    finally:
        consumer.stop()


def numbers(store: Store) -> dict[str, list[int]]:
    """What is stored, by boot."""
    found: dict[str, list[int]] = {}
    with store.read() as connection:
        rows = connection.execute(sa.select(TELEMETRY.c.boot, TELEMETRY.c.seq).order_by("seq"))
        for boot, seq in rows:
            found.setdefault(boot, []).append(seq)
    return found


class Ear:
    """Hears what the device sends, beside the controller."""

    def __init__(self, config: MqttConfig, topics: Topics) -> None:
        self.highest = -1
        self._changed = threading.Condition()
        self._client = new_client(config, "ear")
        self._client.on_message = self._on_message
        self._client.connect(config.host, config.port)
        self._client.subscribe(topics.every_device("telemetry"), 1)
        self._client.loop_start()

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        batch = codec.decode(message.payload, Telemetry, what="a batch")
        with self._changed:
            self.highest = max(self.highest, batch.seq)
            self._changed.notify_all()

    def wait(self, seq: int) -> None:
        """Until a number was sent."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.highest >= seq, WAIT_S), self.highest

    def stop(self) -> None:
        """Disconnects."""
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """The agent on a device's folder."""
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            device.command("device.py", str(folder)),
            stdout=log,
            stderr=log,
            env=device.environment(),
        )
        try:
            yield
        finally:
            process.kill()
            process.wait(10)


@pytest.mark.timeout(400)
def test_telemetry_that_a_broker_took_and_lost_is_sent_again_and_counted_once(
    repository: Repository, tmp_path: Path
) -> None:
    """Twice, while the device runs on."""
    topics, port = Topics("lossy"), free_port()
    folder = enrol(tmp_path / "chip", "chip", "lossy", MqttConfig(port=port), repository.root)
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    lost = -1
    with running(folder):
        for _ in range(2):
            with mosquitto(port) as config:
                with ingesting(store, config, topics):
                    _until(lambda least=lost: _acknowledged(folder) and _whole(store, least + 1))
                # Its session stays at the broker, which takes what comes, and says so.
                ear = Ear(config, topics)
                ear.wait(max(lost, ear.highest) + 3)
                lost = ear.highest
                ear.stop()
            # The broker is gone with all that it held.
        with mosquitto(port) as config, ingesting(store, config, topics):
            _until(lambda: _whole(store, lost + 1))
    (boot,) = numbers(store)
    assert numbers(store)[boot][:2] == [0, 1]
    store.close()


def _acknowledged(folder: Path) -> bool:
    """Whether the device knows, also after a restart, that the controller acknowledges."""
    counters = folder / "state/counters.json"
    return counters.exists() and json.loads(counters.read_text()).get("acknowledged") == 1


def _boot(store: Store) -> str:
    return next(iter(numbers(store)), "")


def _whole(store: Store, least: int) -> bool:
    """Whether all up to a number is there, each once."""
    found = numbers(store).get(_boot(store), [])
    return len(found) > least and found == list(range(len(found)))


def _until(holds) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come"
        threading.Event().wait(0.2)


def test_the_ring_in_the_unix_port_does_what_it_does_here() -> None:
    """The same class under MicroPython, on the heap of a board."""
    assert device.run("kept.py") == {"sent": [0, 1, 0, 2], "after": [-1, None, -1, None]}
