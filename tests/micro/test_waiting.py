"""What keeps a MicroPython device from getting on is told, and waited out."""

from __future__ import annotations

import time

import pytest

from contracts.bundle import Bundle
from tests.micro import bundles
from tests.micro.conftest import DATA
from tests.support.fault_clock import FaultClock
from tests.support.small_disk import SmallDisk


def _ref(version: str):
    return Bundle.open(DATA / f"tiny-classifier-{version}").ref


@pytest.mark.parametrize("ahead_s", [30 * 86400, -30 * 86400])
def test_a_clock_that_differs_from_the_controllers_is_reported(controller, devices, ahead_s):
    """The time comes with every block; the device says how far off its own is."""
    controller.tell_time = lambda: time.time() - ahead_s
    devices.start(devices.enrol("chip"))
    controller.desire("chip", 1, _ref("1.0.0"))
    reported = controller.wait(
        "the offset", lambda _, k, m: k == "reported" and m.clock_offset_s is not None
    )
    assert reported.clock_offset_s == pytest.approx(ahead_s, abs=5)
    (wait,) = [w for w in reported.waits if w.reason.code == "clock-wrong"]
    assert ("ahead of" if ahead_s > 0 else "behind") in wait.reason.message
    controller.wait_update("committed", 1)


@pytest.mark.parametrize("told", ["", "nan", "soon", "9" * 40, "-5", "1e999"])
def test_a_time_that_is_none_is_not_believed(controller, devices, told):
    """Blocks are taken all the same."""
    controller.tell_time = lambda: told
    devices.start(devices.enrol("chip"))
    controller.desire("chip", 1, _ref("1.0.0"))
    controller.wait_update("committed", 1)


def test_targets_that_look_expired_are_waited_for(controller, devices, tmp_path):
    """By a clock that is years ahead: the clock is named, and when it is set it goes on."""
    clock = FaultClock(tmp_path / "clock", 4000 * 86400)
    devices.environment = clock.environment
    folder = devices.enrol("chip")
    devices.start(folder)
    controller.desire("chip", 1, _ref("1.0.0"))
    event = controller.wait("the reason", lambda _, k, m: k == "update" and m.reason is not None)
    assert (event.state, event.reason.code) == ("downloading", "clock-wrong")
    assert "ahead of the controller's" in event.reason.message
    assert "expired at" in event.reason.message
    reported = controller.wait("the wait", lambda _, k, m: k == "reported" and m.waits)
    assert reported.waits[0].slot == "classify"
    clock.set(0)
    controller.wait_update("committed", 1, 60)
    controller.wait("its end", lambda _, k, m: k == "reported" and m.slots and not m.waits)


def test_a_flash_without_room_is_waited_for(controller, devices):
    """What is needed and what is free are told, also when nothing at all can be written."""
    folder = devices.enrol("chip")
    disk = SmallDisk(folder / "state", 400_000)
    devices.around = disk.around
    process = devices.start(folder)
    controller.wait("online", lambda _, k, m: k == "status" and m.state == "online")
    disk.leave(process.pid, 20_000)
    controller.desire("chip", 1, _ref("1.0.0"))
    event = controller.wait("the reason", lambda _, k, m: k == "update" and m.reason is not None)
    assert (event.state, event.reason.code) == ("downloading", "disk-full")
    assert "needs 4" in event.reason.message or "bytes are free" in event.reason.message
    disk.leave(process.pid, 0)
    disk.make_room(process.pid)
    controller.wait_update("committed", 1, 60)
    assert process.poll() is None


def test_a_download_tells_its_progress(controller, devices, tmp_path):
    """A deadline counts from it: bytes and rate, every few seconds."""
    bundle = bundles.write(tmp_path / "large", "large", "1.0.0", seed=1, large=True)
    controller.repository.publish(bundle)
    controller.spoil = _slowly
    devices.start(devices.enrol("chip"))
    controller.desire("chip", 1, bundle.ref)
    event = controller.wait(
        "progress", lambda _, k, m: k == "update" and m.state == "downloading" and m.bytes_per_s
    )
    assert 0 < event.done_bytes < event.total_bytes
    assert 2_000 < event.bytes_per_s < 40_000


def _slowly(request, payload):
    time.sleep(0.1)
    return payload
