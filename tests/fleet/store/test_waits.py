"""What devices wait for, as an operator reads it."""

from __future__ import annotations

from typing import Any

import pytest

from contracts import codec
from contracts.errors import ErrorInfo, InputError
from contracts.messages import BundleRef, Reported, Status, UpdateEvent, Wait
from fleet.ingest.decode import Body, Message, decode
from fleet.ingest.writer import Writer
from fleet.store import Store, devices, waits
from fleet.store.waits import Waiting

NOW = 1_800_000_000.0
REF = BundleRef("m", "1.0.0", "a" * 64)
FULL = ErrorInfo("disk-full", "the disk is full: the bundle needs 135 MB, 21.0 MB are free")


def _say(store: Store, device: str, *bodies: Body) -> None:
    batch = [Message(device, body, b"", NOW) for body in bodies]
    Writer(store, admit_unknown=True).write(batch, NOW)


def _reported(device: str, *found: Wait, **fields: Any) -> Reported:
    return Reported(device, "b", "1", "raspberry-pi-5", "litert", NOW, waits=[*found], **fields)


def _of(store: Store, device: str = "d") -> list[Waiting]:
    with store.read() as connection:
        return waits.of(devices.get(connection, device))


def test_a_reason_is_shown_as_the_device_said_it(store: Store) -> None:
    """Its code for programs, its words for people, and since when."""
    _say(store, "d", _reported("d", Wait(FULL, NOW - 300, "classify")))
    assert _of(store) == [Waiting(FULL.code, FULL.message, "classify", NOW - 300)]


@pytest.mark.parametrize(
    ("since", "offset", "shown"),
    [
        (NOW + 30 * 86400 - 60, 30 * 86400.0, NOW - 60),
        (NOW - 30 * 86400 - 60, -30 * 86400.0, NOW - 60),
        (NOW + 100, None, None),
        (12.0, None, None),
        (12.0, 12.0 + 60 - NOW, NOW - 60),
        (1e300, -1e300, None),
    ],
)
def test_since_when_is_by_the_controllers_clock(
    store: Store, since: float, offset: float | None, shown: float | None
) -> None:
    """A clock that is wrong by a known time is put right; what cannot be right is not shown."""
    _say(store, "d", _reported("d", Wait(FULL, since), clock_offset_s=offset))
    (found,) = _of(store)
    assert found.since == (None if shown is None else pytest.approx(shown))


def test_a_download_waits_for_its_link(store: Store) -> None:
    """How far it is, at what rate, and how long it takes: as new as its last event."""
    event = UpdateEvent(
        "b", 1, 1, "classify", REF, "downloading", NOW,
        done_bytes=4_570_000, total_bytes=12_010_000, bytes_per_s=24_800.0,
    )  # fmt: skip
    _say(store, "d", _reported("d"), event)
    (found,) = _of(store)
    assert found == Waiting(
        "slow-link", "downloads 4.6 MB of 12.0 MB at 24.8 kB/s, about 5 minutes left", "classify"
    )
    _say(store, "d", _reported("d", Wait(FULL, NOW)))
    assert [wait.code for wait in _of(store)] == ["disk-full"], "what stops it says more"


def test_a_device_that_gets_on_waits_for_nothing(store: Store) -> None:
    """Neither after its update, nor before it has said anything."""
    event = UpdateEvent("b", 1, 1, "classify", REF, "committed", NOW, total_bytes=9, done_bytes=9)
    _say(store, "d", event)
    assert _of(store) == []


def test_devices_are_counted_by_what_they_wait_for(store: Store) -> None:
    """Those that are connected: of the others nobody knows what holds now."""
    online = Status("online", "b", 1, NOW)
    clock = ErrorInfo("clock-wrong", "30 days ahead")
    _say(store, "d1", _reported("d1", Wait(FULL, NOW)), online)
    _say(store, "d2", _reported("d2", Wait(FULL, NOW), Wait(clock, NOW)), online)
    _say(store, "d3", _reported("d3", Wait(clock, NOW), Wait(clock, NOW)), online)
    _say(store, "d4", _reported("d4", labels={"x": '"waits":['}), online)
    _say(store, "d5", _reported("d5", Wait(FULL, NOW)))
    with store.read() as connection:
        assert waits.counts(connection) == [("clock-wrong", 2), ("disk-full", 2)] or (
            waits.counts(connection) == [("disk-full", 2), ("clock-wrong", 2)]
        )


@pytest.mark.parametrize(
    "reported",
    [
        _reported("d", *[Wait(FULL, NOW)] * 17),
        _reported("d", Wait(FULL, NOW, "s" * 65)),
        _reported("d", clock_offset_s=1e16),
    ],
)
def test_what_no_device_can_wait_for_is_refused(reported: Reported) -> None:
    """As any message beyond a cap is."""
    with pytest.raises(InputError):
        decode("f", "shoal/v1/f/d/d/reported", codec.encode(reported))
