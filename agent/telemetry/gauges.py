"""Facts of the process and the board: memory, processor, temperature, throttling."""

from __future__ import annotations

from pathlib import Path

import psutil

_THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
"""Raspberry Pi: bits of under-voltage and throttling, now (0-3) and since boot (16-19)."""

_MEMORY = Path("/proc/meminfo")

_COOLING = Path("/sys/class/thermal")


class Gauges:
    """Measures; each call's processor share is since the call before."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent()

    def rss(self) -> int:
        """Resident bytes of this process."""
        return int(self._process.memory_info().rss)

    def read(self, folder: Path) -> dict[str, float]:
        """Every gauge that this board has.

        Args:
            folder: whose file system's free bytes count.
        """
        memory, disk = room(folder)
        found = {
            "rss_bytes": float(self.rss()),
            "cpu_ratio": self._process.cpu_percent() / 100,
            "threads": float(self._process.num_threads()),
            "memory_available_bytes": float(memory),
            "disk_free_bytes": float(disk),
        }
        temperature = _temperature()
        if temperature is not None:
            found["temperature_c"] = temperature
        throttled = _throttled()
        if throttled is not None:
            found["throttled"] = throttled
        return found


def available_memory() -> int:
    """Bytes of memory that can still be used."""
    try:
        with _MEMORY.open("rb") as file:
            for line in file:
                if line.startswith(b"MemAvailable:"):
                    return int(line.split()[1]) * 1024  # psutil works out ten figures more
    except (OSError, ValueError, IndexError):
        pass
    return int(psutil.virtual_memory().available)


def room(folder: Path) -> tuple[int, int]:
    """Bytes of memory that are available, and bytes that are free where `folder` is."""
    return available_memory(), psutil.disk_usage(str(folder)).free


def _temperature() -> float | None:
    """The hottest sensor of the processor, in degrees Celsius."""
    try:
        sensors = psutil.sensors_temperatures()
    except (AttributeError, OSError):
        return None
    values = [row.current for rows in sensors.values() for row in rows if 0 < row.current < 150]
    return max(values, default=None)


def _throttled() -> float | None:
    """1.0 while the board slows itself down, 0.0 while not; None when it does not tell."""
    try:
        return float(bool(int(_THROTTLED.read_text(), 16) & 0xF))
    except (OSError, ValueError):
        pass
    states = []
    for device in _COOLING.glob("cooling_device*"):
        try:
            if "cpufreq" in (device / "type").read_text().lower():
                states.append(int((device / "cur_state").read_text()) > 0)
        except (OSError, ValueError):
            continue
    return float(any(states)) if states else None
