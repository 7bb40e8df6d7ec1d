"""Maintenance windows: ``contracts/windows.py`` in short, in whole numbers."""

from . import files
from .errors import Refused, Waits

DAY = 86400
MAX_HINT_BYTES = 16 * 1024


def _local(window, now):
    """Seconds since the epoch as clocks in the window's zone show them."""
    offsets = sorted(window.get("offsets", []))
    past = [one for one in offsets if one[0] <= now] or offsets[:1]
    return now + (past[-1][1] if past else 0)


def holds(window, now):
    """Whether `now` (seconds since the epoch) is inside."""
    local = _local(window, now)
    minute = local % DAY // 60
    weekday = (local // DAY + 3) % 7  # 1970-01-01 was a Thursday
    start, end, days = window["start"], window["end"], window["days"]
    if start < end:
        return weekday in days and start <= minute < end
    return (weekday in days and minute >= start) or ((weekday - 1) % 7 in days and minute < end)


def fits(windows, now, seconds):
    """Whether what takes so long may begin: it ends before its window closes.

    Where the open one is shorter than that, it may begin while it is open.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, IndexError: they are not well-formed.
    """
    for window in windows:
        if holds(window, now):
            lasts = (window["end"] - window["start"]) % 1440 * 60 or DAY
            left = (window["end"] * 60 - _local(window, now)) % DAY or DAY
            if lasts < seconds or (
                left >= seconds and holds(window, now + max(0, int(seconds) - 1))
            ):
                return True
    return False


class Hold:
    """Whether an update that was tested may be activated; lives on while it waits.

    Args:
        device: gives ``controller_time()``.
        windows: of the desired document.
        seconds: of its trial.
    """

    def __init__(self, device, windows, seconds):
        self._device = device
        self._windows = windows
        self._seconds = seconds

    def open(self):
        """As :func:`fits`, by the controller's time."""
        return fits(self._windows, self._device.controller_time(), self._seconds)


async def check(device, windows, seconds):
    """Raises ``Waits`` outside the windows, by the controller's time, which is asked for."""
    if device.controller_time() is None:
        path = device.base + "/trust/fetched.json"
        try:
            await device.blocks.download("metadata/timestamp.json", path, MAX_HINT_BYTES)
        finally:
            files.remove(path)
    if device.controller_time() is None:
        raise Waits("time-unknown", "the controller does not tell the time: no window is known")
    hold = Hold(device, windows, seconds)
    try:
        opened = hold.open()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise Refused("bad-desired", "the maintenance windows are not well-formed")
    if not opened:
        message = "the update waits for its maintenance window"
        raise Waits("window-closed", message, hold.open)
