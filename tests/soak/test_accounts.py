"""What the witness reads by itself says what is there, and fails where something is missing."""

from __future__ import annotations

from pathlib import Path

from agent.telemetry.spool import Spool
from contracts import codec
from contracts.messages import Sample, Telemetry
from tests.soak.accounts import Killed, spooled, windows
from tests.soak.witness import missing


def test_what_a_killed_agent_had_on_disk_is_read_from_its_spool(tmp_path: Path) -> None:
    """The write-ahead log too, and nothing of the spool is changed."""
    spool = Spool(tmp_path / "spool.db", 1 << 20, 1e9, lambda: 2e9, lambda: 0.0)
    for seq in range(3):
        samples = [Sample(2e9 + seq, 2.5, "classify", requests=4), Sample(2e9 + seq, 2.5)]
        payload = codec.encode(Telemetry("b", seq, samples))
        spool.put("shoal/v1/f/d/one/telemetry", payload, boot="b", seq=seq)
    spool.put("shoal/v1/f/d/one/result", b"{}", boot="b", seq=0)
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    held = spooled(tmp_path, "one")
    assert sorted(held) == [("one", "b", 0), ("one", "b", 1), ("one", "b", 2)]
    assert windows(list(held.values())) == [2.5, 2.5, 2.5]
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == files


def test_a_number_below_the_highest_that_is_not_there_is_missing() -> None:
    """By device and boot; of the named devices alone."""
    there = [("sim-1", "b", 0), ("sim-1", "b", 2), ("sim-1", "c", 0), ("real-0", "b", 5)]
    assert missing(there, "sim-") == [("sim-1", "b", 1)]


def test_a_kill_may_take_what_came_since_the_last_window_on_disk_and_no_more() -> None:
    """Neither more requests than those, nor a longer time, nor less than nothing."""
    assert Killed(lost=8, at_most=8, blind_s=3.0, may_s=4.0).holds
    assert not Killed(lost=9, at_most=8, blind_s=3.0, may_s=4.0).holds
    assert not Killed(lost=8, at_most=90, blind_s=30.0, may_s=4.0).holds
    assert not Killed(lost=-1, at_most=8, blind_s=3.0, may_s=4.0).holds
