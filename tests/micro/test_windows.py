"""Maintenance windows on MicroPython: the same arithmetic, and what is activated outside them."""

from __future__ import annotations

import random
import time

import msgspec

from agent.micro import windows as micro
from contracts import windows
from contracts.bundle import Bundle
from contracts.desired import Desired, DesiredBundle, TrialRules, Window
from tests.micro.conftest import DATA

OLD = Bundle.open(DATA / "tiny-classifier-1.0.0").ref
NEW = Bundle.open(DATA / "tiny-classifier-1.1.0").ref
EVERY_DAY = list(range(7))


def _some(rng: random.Random) -> Window:
    offsets = [(rng.randrange(2 * 10**9), rng.randrange(-50_000, 50_000)) for _ in range(3)]
    return Window(
        rng.randrange(1440),
        rng.randrange(1440),
        sorted(rng.sample(EVERY_DAY, rng.randint(1, 7))),
        offsets[: rng.randrange(4)],
    )


def test_a_microcontroller_reads_windows_as_other_devices_do():
    """Any window, zones that change, and an activation that takes its time."""
    rng = random.Random(1)
    for _ in range(20_000):
        window, now = _some(rng), rng.randrange(10**9, 2 * 10**9)
        seconds = rng.choice([0, 30, 3600, 7200])
        plain = msgspec.to_builtins(window)
        assert micro.holds(plain, now) == windows.holds(window, now), (window, now)
        if len(window.offsets) < 2:
            may = windows.fits([window], now, seconds)
            assert micro.fits([plain], now, seconds) == may, (window, now, seconds)


def _want(revision: int, ref, *spans: Window) -> Desired:
    wish = DesiredBundle(ref, trial=TrialRules(seconds=0.3), windows=list(spans))
    return Desired(revision, {"classify": wish}, rollout="test")


def test_an_update_waits_for_its_window_by_the_controllers_time(controller, devices):
    """Through a restart; the old bundle serves, and the reason is told."""
    # By the device's own clock the window is open; by the controller's it opens in 45 seconds.
    began = time.time()
    minute = int(began % 86400 // 60)
    window = Window((minute - 2) % 1440, (minute + 60) % 1440, EVERY_DAY)
    opens = (minute - 2) * 60 + began // 86400 * 86400
    controller.tell_time = lambda: opens - 45 + time.time() - began
    folder = devices.enrol("chip")
    process = devices.start(folder)
    controller.desire_document("chip", _want(1, OLD))
    controller.wait_update("committed", 1)
    controller.desire_document("chip", _want(2, NEW, window))
    event = controller.wait("the reason", lambda _, k, m: k == "update" and m.reason is not None)
    assert (event.state, event.reason.code) == ("self-tested", "window-closed")
    assert event.golden_accuracy == 1.0
    reported = controller.wait(
        "the wait", lambda _, k, m: k == "reported" and any(w.blocks for w in m.waits)
    )
    (wait,) = [w for w in reported.waits if w.blocks]
    assert (wait.reason.code, wait.slot) == ("window-closed", "classify")
    assert reported.slots["classify"].active == OLD
    process.kill()
    process.wait(10)
    devices.start(folder)
    answer = controller.ask("chip", "classify", {"text": "turn on the light"})[-1]
    assert answer.classified.bundle == OLD
    controller.wait_update("committed", 2, 120)
    assert time.time() - began >= 45
