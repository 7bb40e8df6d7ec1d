"""A disk that fills while the agent runs costs no telemetry: it waits in memory, and moves back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agent.telemetry import spool as spools
from agent.telemetry.delivery import Delivery
from agent.telemetry.spool import Spool
from contracts import codec
from contracts.messages import Ack, Telemetry
from tests.support.full_disk import full_disk

TOPIC = "shoal/v1/f/d/d/telemetry"


def _spool(path: Path, **limits: float) -> Spool:
    settings = {"max_bytes": 1 << 20, "max_age_s": 1e6, **limits}
    return Spool(path / "spool.db", int(settings["max_bytes"]), settings["max_age_s"], time.time)


def _put(spool: Spool, seq: int, boot: str = "b") -> bool:
    payload = codec.encode(Telemetry(boot, seq, []))
    return spool.put(TOPIC, payload, boot=boot, seq=seq)


def _seqs(spool: Spool) -> list[int]:
    return [row.seq for row in spool.after(0, 100)]


def test_nothing_is_dropped_while_the_disk_is_full_and_order_stays(tmp_path: Path) -> None:
    """What was in the file, then what waits in memory; and all of it in the file afterwards."""
    one = _spool(tmp_path)
    assert _put(one, 0) and _put(one, 1)
    with full_disk() as said:
        assert all(_put(one, seq) for seq in range(2, 6))
        assert one.in_memory and one.untold == {}
        assert _seqs(one) == list(range(6)) and one.depth == 6
        assert said.getvalue().count("spool goes on in memory") == 1
        assert one.settle() is None
    assert one.in_memory, "it moves when it is told to look"
    moved = one.settle()
    assert moved is not None and len(moved) == 4
    assert not one.in_memory and one.in_memory_s is None
    assert _put(one, 6)
    one.close()
    again = _spool(tmp_path)
    assert _seqs(again) == list(range(7))


def test_what_is_in_memory_follows_what_is_in_the_file(tmp_path: Path) -> None:
    """A message says which is the one before it: a wrong word would have others forgotten."""
    one = _spool(tmp_path)
    for seq in (0, 1, 5):
        _put(one, seq)
    with full_disk():
        _put(one, 7)
        _put(one, 8)
        assert [row.before for row in one.after(0, 9)] == [-1, 0, 1, 5, 7]
        row = one.row((TOPIC, "b", 7))
        assert row is not None and row.before == 5
        _put(one, 0, boot="c")
        assert one.after(0, 9)[-1].before == -1, "of another boot there is none"


def test_what_is_acknowledged_is_forgotten_in_both_places(tmp_path: Path) -> None:
    """The file cannot forget while its disk is full; it does when it can, and nothing doubles."""
    one = _spool(tmp_path)
    for seq in range(3):
        _put(one, seq)
    delivery = Delivery(one, {"telemetry": TOPIC, "update": "u", "result": "r"}, 0.0)
    delivery.connected()
    with full_disk():
        _put(one, 3)
        _put(one, 4)
        sent = delivery.take(1.0)
        assert [message.key[2] for message in sent] == [0, 1, 2, 3, 4]
        delivery.heard(Ack("b", 3))
        assert delivery.take(2.0) == []
        assert 4 in _seqs(one) and 3 not in _seqs(one)
        moved = one.settle()
        assert moved is None
    moved = one.settle()
    assert moved is not None
    delivery.moved(moved)
    again = [message.key[2] for message in delivery.take(3.0)]
    assert 4 not in again, "it is on its way"
    delivery.heard(Ack("b", 4))
    delivery.take(4.0)
    assert _seqs(one) == []
    assert delivery.take(1e6) == [], "all of it arrived"


def test_memory_is_bounded_and_what_does_not_fit_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest goes, its place is told, and the device does not run out of memory."""
    monkeypatch.setattr(spools, "MAX_MEMORY_BYTES", 1000)
    one = _spool(tmp_path)
    with full_disk():
        for seq in range(100):
            assert _put(one, seq)
        assert one.payload_bytes <= 1000
        lost = one.untold["spool-full"]
        assert lost == 100 - len(_seqs(one)) > 0
        assert _seqs(one)[-1] == 99
        told: list[dict[str, int]] = []

        def message(drops: dict[str, int]) -> bytes:
            told.append(drops)
            return codec.encode(Telemetry("b", 100, [], drops=drops))

        assert one.tell(TOPIC, message, boot="b", seq=100, items=1)
        assert told[-1]["spool-full"] == lost
    assert one.settle() is not None
    assert one.untold.get("spool-full", 0) <= 2


def test_a_disk_that_fills_again_and_again(tmp_path: Path) -> None:
    """Each time as the first."""
    one = _spool(tmp_path)
    for turn in range(5):
        _put(one, 2 * turn)
        with full_disk():
            _put(one, 2 * turn + 1)
            assert one.in_memory
        assert one.settle() is not None
    assert _seqs(one) == list(range(10))
    assert one.untold == {}


def test_a_clock_that_is_set_meanwhile_makes_nothing_old(tmp_path: Path) -> None:
    """What waits in memory moves with it, as what is in the file does."""
    wall, running = [1_800_000_000.0], [0.0]
    one = Spool(tmp_path / "spool.db", 1 << 20, 1000.0, lambda: wall[0], lambda: running[0])
    _put(one, 0)
    with full_disk():
        _put(one, 1)
        wall[0] += 1e6
        running[0] += 1
        _put(one, 2)
        assert 1 in _seqs(one) and 2 in _seqs(one)
    assert one.settle() is not None
    running[0] += 1
    wall[0] += 1
    _put(one, 3)
    assert _seqs(one)[-3:] == [1, 2, 3]
