"""What it costs to look at a fleet by its alert rules: one look at N devices, in SQLite.

Each device has an hour of telemetry by the minute for two slots, gauges, documents that are
wanted, and a hundredth of them is in trouble. Rows: seconds of the first look, in which alerts
open, of looks in which nothing is new, and of one with a rule on a label.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _figures import machine, row, save, show

from fleet.alerts import rule as rules
from fleet.figures import Figures
from fleet.lookout.lookout import Lookout
from fleet.store import Store, alerts, devices, rollups
from fleet.store.schema import DEVICE

NOW = 1_800_001_800.0
LOOKS = 5


def fill(store: Store, count: int, minutes: int) -> None:
    """A fleet with its telemetry."""
    names = [f"d{number:05}" for number in range(count)]
    with store.write() as connection:
        for number, name in enumerate(names):
            site = {"site": "lyon" if number % 10 else "graz"}
            devices.enroll(store, connection, name, "raspberry-pi-5", site, [], NOW - 1e6)
        connection.execute(
            DEVICE.update().values(
                state="online", state_at=NOW - 1e5, desired_at=NOW - 1e5, desired_revision=3,
                reached_revision=3,
            )
        )  # fmt: skip
        ill = DEVICE.c.id.in_(names[:: max(1, count // 100)])
        connection.execute(DEVICE.update().where(ill).values(state="offline", state_at=NOW - 5000))
    for minute in range(minutes):
        start = int(NOW) // 60 * 60 - 60 * minute
        sums = {}
        for name in names:
            gauges = {"disk_free_bytes": (start, 5e9), "temperature_c": (start, 52.0)}
            more = {f"gauge_{n}": (float(start), 1.0) for n in range(6)}
            device = Figures(samples=6, gauges={**gauges, **more})
            sums[60, name, "device", "", start] = device
            sums[60, name, "classify", "a" * 64, start] = Figures(requests=60, errors=1)
            if minute == 0:
                hour = start // 3600 * 3600
                sums[3600, name, "device", "", hour] = Figures(samples=6, gauges=dict(gauges))
        with store.write() as connection:
            rollups.add(store, connection, sums)


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--devices", type=int, default=10_000)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    count, minutes = (500, 5) if given.quick else (given.devices, 30)
    case, facts = f"devices-{count}", machine()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/state.db")
        store.migrate()
        fill(store, count, minutes)
        lookout = Lookout(store, lambda: NOW, mails=True, to=["a@example.org"])

        def look(times: int) -> tuple[float, float]:
            walls, used = [], []
            for _ in range(times):
                lookout._due.clear()
                wall, cpu = time.perf_counter(), time.process_time()
                lookout.look()
                walls.append(time.perf_counter() - wall)
                used.append(time.process_time() - cpu)
            return statistics.median(walls), statistics.median(used)

        wall, _ = look(1)
        rows.append(row(case, "shoal", "first_look_s", wall, "s"))
        with store.read() as connection:
            opened = sum(alerts.counts(connection).values())
        rows.append(row(case, "shoal", "opened", opened, "alerts"))
        wall, cpu = look(LOOKS)
        rows.append(row(case, "shoal", "look_s", wall, "s", LOOKS))
        rows.append(row(case, "shoal", "look_cpu_s", cpu, "s", LOOKS))
        with store.write() as connection:
            for kind in ("temperature", "error-rate", "stuck"):
                new = rules.new(f"x-{kind}", kind, now=NOW, by="a", selected="site=lyon")
                alerts.add_rule(connection, new)
        wall, cpu = look(LOOKS)
        rows.append(row(case, "shoal", "look_with_3_rules_on_a_label_s", wall, "s", LOOKS))
        store.close()
    show(rows)
    save(given.json, "alerts", rows, facts)


if __name__ == "__main__":
    main()
