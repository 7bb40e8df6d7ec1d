"""Delivery: what is sent again, and when, over both stores, with a controller of the real marks.

Over 400 lines: one window and one wire, lost from in every way.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.telemetry.delivery import (
    FIRST_PAUSE_S,
    FIRST_REFUSAL_S,
    GREETING_S,
    MAX_PAUSE_S,
    NOBODY_LISTENS,
    PATIENCE_S,
    WINDOW,
    Delivery,
    Outgoing,
)
from agent.telemetry.memory import MemorySpool
from agent.telemetry.spool import Spool
from contracts import codec
from contracts.messages import Ack, Acknowledged, Telemetry
from fleet.store.marks import Mark, advance

TOPICS: dict[Acknowledged, str] = {"telemetry": "t", "update": "u", "result": "r"}
AnySpool = Spool | MemorySpool


@pytest.fixture(params=["file", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[int], AnySpool]:
    """Makes a spool of so many bytes; of a file, each time over the same one."""

    def made(max_bytes: int = 1 << 20) -> AnySpool:
        if request.param == "memory":
            return MemorySpool(max_bytes)
        return Spool(tmp_path / "spool.db", max_bytes, 1e9, lambda: 1e9, lambda: 0.0)

    return made


def put(spool: AnySpool, *numbers: int, topic: str = "t", boot: str = "b") -> None:
    """Puts telemetry under numbers."""
    for seq in numbers:
        payload = codec.encode(Telemetry(boot, seq, []))
        assert spool.put(topic, payload, boot=boot, seq=seq)


def told(sent: list[Outgoing]) -> list[tuple[int, int | None]]:
    """Numbers, each with its `after`."""
    decoded = [codec.decode(one.payload, Telemetry, what="telemetry") for one in sent]
    return [(one.seq, one.after) for one in decoded]


class Wire:
    """A device's delivery, whose broker takes everything at once."""

    def __init__(self, spool: AnySpool, *, acknowledged: bool = True) -> None:
        self.spool = spool
        self.now = 0.0
        if acknowledged:
            spool.set_acknowledged(True)
        self.delivery = Delivery(spool, TOPICS, 0.0, random.Random(1))
        self.delivery.connected()

    def send(self, code: int = 0) -> list[Outgoing]:
        """What goes out now."""
        found: list[Outgoing] = []
        while more := self.delivery.take(self.now):
            found += more
            for one in more:
                self.delivery.landed(one.key, code)
        return found

    def ack(self, seq: int, **fields: object) -> None:
        """The controller acknowledges."""
        self.delivery.heard(Ack("b", seq, **fields))  # type: ignore[arg-type]

    def wait(self, seconds: float) -> list[Outgoing]:
        """What goes out after a while, step by step as a reporter does."""
        found: list[Outgoing] = []
        for _ in range(int(seconds)):
            self.now += 1.0
            found += self.send()
        return found


def test_what_is_acknowledged_is_forgotten_and_what_is_not_is_kept(
    make: Callable[[], AnySpool],
) -> None:
    """The broker's acknowledgement alone lets nothing go."""
    wire = Wire(make())
    put(wire.spool, 0, 1, 2)
    assert told(wire.send()) == [(0, -1), (1, None), (2, None)]
    assert wire.spool.depth == 3
    wire.ack(1)
    assert wire.send() == []
    assert [row.seq for row in wire.spool.after(0, 9)] == [2]
    put(wire.spool, 3)
    assert told(wire.send()) == [(3, None)]


def test_no_more_than_a_window_is_on_its_way_while_nobody_acknowledges(
    make: Callable[[], AnySpool],
) -> None:
    """A controller that is away for hours gets a window, and the oldest of it now and then."""
    wire = Wire(make())
    put(wire.spool, *range(100))
    assert len(wire.send()) == WINDOW
    again = wire.wait(4 * 3600)
    assert {seq for seq, _ in told(again)} == {0}
    assert len(again) <= 4 * 3600 / MAX_PAUSE_S + 10
    wire.ack(WINDOW - 1)
    assert [seq for seq, _ in told(wire.send())] == list(range(WINDOW, 2 * WINDOW))


def test_what_a_broker_lost_is_sent_again_once_a_later_one_is_acknowledged(
    make: Callable[[], AnySpool],
) -> None:
    """After a reconnect the oldest is tried; its acknowledgement brings the rest at once."""
    wire = Wire(make())
    put(wire.spool, *range(5))
    wire.send()
    wire.delivery.disconnected()
    wire.delivery.connected()
    assert wire.send() == []
    assert told(wire.wait(2 * GREETING_S)) == [(0, -1)]
    wire.ack(0)
    assert told(wire.send()) == [(1, None), (2, None), (3, None), (4, None)]


def test_a_controller_that_says_what_it_has_after_a_reconnect_gets_nothing_twice(
    make: Callable[[], AnySpool],
) -> None:
    """The acknowledgement that was lost with the connection comes again by itself."""
    wire = Wire(make())
    put(wire.spool, *range(5))
    wire.send()
    wire.delivery.disconnected()
    wire.delivery.connected()
    wire.ack(4)
    assert wire.wait(3600) == []
    assert wire.spool.depth == 0


def test_ranges_beyond_a_gap_are_forgotten_and_the_gap_alone_is_sent_again(
    make: Callable[[], AnySpool],
) -> None:
    """What the broker lost in the middle."""
    wire = Wire(make())
    put(wire.spool, *range(8))
    wire.send()
    wire.now += 5
    wire.ack(2, ahead=[(5, 7)])
    assert wire.send() == []
    assert told(wire.wait(1.3 * FIRST_PAUSE_S)) == [(3, -1)]
    wire.ack(3, ahead=[(5, 7)])
    assert told(wire.send()) == [(4, None)]


def test_what_was_dropped_for_want_of_room_is_told_as_a_gap(
    make: Callable[[int], AnySpool],
) -> None:
    """The next message says that nothing comes between; the acknowledgement goes on."""
    size = len(codec.encode(Telemetry("b", 10, [])))
    wire = Wire(make(3 * size))
    put(wire.spool, *range(10, 13))
    wire.spool.put("u", codec.encode(Telemetry("b", 4, [])), boot="b", seq=4, precious=True)
    put(wire.spool, *range(13, 20))
    assert told(wire.send()) == [(4, -1), (18, -1), (19, None)]
    assert wire.spool.untold == {"spool-full": 8}


def test_what_is_on_its_way_is_dropped_last_so_that_no_drop_is_counted_that_arrived(
    make: Callable[[int], AnySpool],
) -> None:
    """A controller that is away while the spool runs over: each is delivered or counted."""
    size = len(codec.encode(Telemetry("b", 100, [])))
    wire = Wire(make(2 * WINDOW * size))
    put(wire.spool, *range(100, 100 + WINDOW))
    sent = {seq for seq, _ in told(wire.send())}
    put(wire.spool, *range(100 + WINDOW, 400))
    left = {row.seq for row in wire.spool.after(0, 999)}
    assert sent <= left
    assert len(left) + wire.spool.untold["spool-full"] == 300
    wire.ack(max(sent))
    assert told(wire.send())[0] == (400 - WINDOW, -1)


def test_a_message_nobody_listens_to_waits(make: Callable[[], AnySpool]) -> None:
    """PUBACK 0x10: the controller's session is gone. Longer and longer, until somebody does."""
    wire = Wire(make())
    put(wire.spool, 0, 1)
    assert len(wire.send(NOBODY_LISTENS)) == 2
    assert wire.send() == []
    wire.now += FIRST_REFUSAL_S
    assert len(wire.send(NOBODY_LISTENS)) == 2
    wire.now += FIRST_REFUSAL_S
    assert wire.send() == []
    wire.now += FIRST_REFUSAL_S
    assert told(wire.send()) == [(0, -1), (1, None)]


def test_a_topic_that_the_broker_refuses_stands_in_no_other_s_way(
    make: Callable[[], AnySpool],
) -> None:
    """As of an access list that lacks it; it is tried again, and lost never."""
    wire = Wire(make())
    put(wire.spool, *range(3 * WINDOW), topic="r")
    put(wire.spool, 0, 1)
    refused = wire.delivery.take(wire.now)
    assert {one.topic for one in refused} == {"r"}
    for one in refused:
        wire.delivery.landed(one.key, 0x87)
    assert [one.topic for one in wire.send()] == ["t", "t"]
    wire.now += FIRST_REFUSAL_S
    assert len(wire.send()) == WINDOW - 2
    assert wire.spool.depth == 3 * WINDOW + 2


def test_a_controller_that_never_acknowledges_gets_everything_and_nothing_fills_up(
    make: Callable[[int], AnySpool],
) -> None:
    """One of before ``ack``: what its broker took makes room for what comes, uncounted."""
    size = len(codec.encode(Telemetry("b", 1000, [])))
    wire = Wire(make(50 * size), acknowledged=False)
    for seq in range(1000, 2000):
        put(wire.spool, seq)
        assert [number for number, _ in told(wire.send())] == [seq]
    wire.wait(2 * PATIENCE_S / 100)
    assert (wire.spool.depth, wire.spool.untold) == (0, {})
    assert wire.spool.payload_bytes <= 50 * size


def test_with_the_first_acknowledgement_what_was_only_taken_is_sent_again(
    make: Callable[[], AnySpool],
) -> None:
    """A fleet whose broker was lost before its controller ever came."""
    wire = Wire(make(), acknowledged=False)
    put(wire.spool, 0, 1, 2)
    wire.send()
    assert (wire.spool.depth, wire.send()) == (0, [])
    wire.ack(-1)
    assert told(wire.send()) == [(0, -1), (1, None), (2, None)]
    assert wire.spool.depth == 3


def test_a_boot_that_the_controller_does_not_know_is_begun_anew(
    make: Callable[[], AnySpool],
) -> None:
    """Its database is a backup's: the oldest that is held says that nothing is below."""
    wire = Wire(make())
    put(wire.spool, *range(4))
    wire.send()
    wire.ack(2)
    wire.send()
    wire.ack(-1)
    assert told(wire.send()) == [(3, -1)]
    wire.ack(-1)
    assert wire.send() == [], "a controller that asks again and again is not answered each time"


def test_an_acknowledgement_that_goes_back_is_answered_by_the_oldest_with_its_after(
    make: Callable[[], AnySpool],
) -> None:
    """A restored controller has less than it said; what is held is enough to go on from."""
    wire = Wire(make())
    put(wire.spool, *range(6))
    wire.send()
    wire.ack(4)
    wire.send()
    wire.ack(1)
    assert told(wire.wait(1.3 * FIRST_PAUSE_S)) == [(5, -1)]


def test_an_acknowledgement_of_what_was_never_there_lets_nothing_go(
    make: Callable[[], AnySpool],
) -> None:
    """Whoever made it up."""
    wire = Wire(make())
    put(wire.spool, 0, 1)
    wire.send()
    wire.ack(2**50)
    wire.ack(0, ahead=[(1, 2**50)])
    wire.send()
    assert wire.spool.depth == 2


def test_what_a_copy_of_the_device_delivered_is_let_go_and_what_follows_arrives(
    make: Callable[[], AnySpool],
) -> None:
    """A board flashed from its image sends all that it held: more than it has sent itself."""
    wire, held = Wire(make()), 10 * WINDOW
    put(wire.spool, *range(held))
    assert len(wire.send()) == WINDOW
    wire.ack(held - 1)  # of the copy's
    put(wire.spool, *range(held, held + 3))
    assert [seq for seq, _ in told(wire.send())] == [held, held + 1, held + 2]
    wire.ack(held + 2)
    wire.send()
    assert wire.spool.depth == 0


def test_what_an_earlier_run_delivered_beyond_a_gap_does_not_stop_the_next(
    tmp_path: Path,
) -> None:
    """The next run holds the gap alone; what it is told reaches beyond what it ever sent."""

    def spool() -> Spool:
        return Spool(tmp_path / "spool.db", 1 << 20, 1e9, lambda: 1e9, lambda: 0.0)

    wire = Wire(spool())
    put(wire.spool, *range(10))
    wire.send()
    wire.ack(2, ahead=[(5, 9)])
    wire.send()
    wire.spool.close()
    again = Wire(spool())
    put(again.spool, *range(2 * WINDOW), boot="c")
    assert told(again.send())[:2] == [(3, -1), (4, None)]
    again.ack(9)
    again.send()
    assert {row.boot for row in again.spool.after(0, 999)} == {"c"}


def test_a_device_over_its_quota_waits_with_that_kind_alone(make: Callable[[], AnySpool]) -> None:
    """And sends all of it later."""
    wire = Wire(make())
    put(wire.spool, *range(WINDOW))
    wire.send()
    wire.ack(3, wait_s=600.0)
    put(wire.spool, 0, 1, topic="u")
    assert [one.topic for one in wire.wait(590)] == ["u", "u"] + ["u"] * 3
    assert [seq for seq, _ in told(wire.wait(20)) if seq > 1] == list(range(4, WINDOW))


def test_a_controller_that_stops_acknowledging_for_good_does_not_stop_the_device(
    make: Callable[[], AnySpool],
) -> None:
    """It was replaced by one of before: after a day the broker's word counts again."""
    wire = Wire(make())
    put(wire.spool, *range(2 * WINDOW))
    wire.send()
    wire.now += PATIENCE_S - 10
    assert [seq for seq, _ in told(wire.send())] == [0]
    wire.now += 20
    assert [seq for seq, _ in told(wire.send())] == list(range(WINDOW, 2 * WINDOW))
    assert wire.spool.depth == 0
    wire.ack(WINDOW)
    assert [seq for seq, _ in told(wire.send())] == list(range(WINDOW + 1, 2 * WINDOW))


def test_messages_of_an_agent_before_go_as_they_did(make: Callable[[], AnySpool]) -> None:
    """They have no number: the broker's word lets them go."""
    wire = Wire(make())
    wire.spool.put("t", b'{"boot":"old"}')
    assert [one.payload for one in wire.send()] == [b'{"boot":"old"}']
    wire.send()
    assert wire.spool.depth == 0


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_lost_everything_arrives_and_is_forgotten(
    make: Callable[[int], AnySpool], seed: int
) -> None:
    """A broker that loses, delays, repeats and is killed; a controller whose answers get lost.

    Once all of it is well again, everything that was put is there, or is counted as dropped.
    """
    chance = random.Random(seed)
    small = seed % 3 == 0
    size = len(codec.encode(Telemetry("b", 100, [])))
    wire = Wire(make(60 * size if small else 1 << 20), acknowledged=seed % 2 == 0)
    there: set[int] = set()
    mark: Mark | None = None
    queue: list[bytes] = []
    produced = 100
    for step in range(4000):
        bad = step < 3000
        if step < 2900 and chance.random() < 0.2:
            put(wire.spool, produced)
            produced += 1
        if bad and chance.random() < 0.01:
            wire.delivery.disconnected()
            queue.clear()
            wire.delivery.connected()
        for one in wire.delivery.take(wire.now):
            fate = chance.random() if bad else 1.0
            code = NOBODY_LISTENS if fate < 0.02 else 0x97 if fate < 0.04 else 0
            if code == 0 and fate > 0.2:
                queue += [one.payload] * (1 + (bad and chance.random() < 0.1))
            wire.delivery.landed(one.key, code)
        if bad and chance.random() < 0.2:
            chance.shuffle(queue)
        if not bad or chance.random() < 0.1:
            for payload in queue:
                one = codec.decode(payload, Telemetry, what="telemetry")
                there.add(one.seq)
                if one.after is not None or mark is not None:
                    after = one.seq - 1 if one.after is None else one.after
                    mark = advance(mark or Mark(), [(after, one.seq)])
            if queue and (not bad or chance.random() < 0.5):
                found = mark or Mark()
                wire.ack(found.upto, ahead=list(found.ahead))
            queue.clear()
        wire.now += 10.0
    dropped = wire.spool.untold.get("spool-full", 0)
    assert len(there) + dropped == produced - 100
    assert dropped == 0 or small
    assert wire.spool.depth == 0
    assert mark is not None
    assert mark == Mark(produced - 1)
