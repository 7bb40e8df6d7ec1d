"""The controller's claims: ingest, rollout, fan-out, API, dashboard, memory, what idling costs.

Everything runs on loopback with a real mosquitto. Ingest and a bare paho consumer drain the
same number of the same messages that wait at the same broker, in turns, so that no publisher
takes part of the processor while they are measured. Rolling up is a later step of the
controller and has figures of its own. Seconds of processor, the database's server included, are
those that a busy machine does not change. Devices are simulated (``python -m agent.simulate``),
each with its own connection.

    python benchmarks/fleet.py [--quick] [--json FILE] [--plot FILE] [--only CASE]...
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from _figures import ROOT, Row, machine, row, save, show

sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = str(ROOT)

import _idle
import _ingest
import _quiet
import httpx
import msgspec
import psutil

from fleet.api import models, models_rollouts
from fleet.rollout.spec import RolloutSpec
from fleet.simulate.launcher import Simulation
from tests.support.serving import Served, served
from tests.support.tools import need_tool

DATA = ROOT / "tests" / "data"
BUNDLES = [DATA / "tiny-classifier-1.0.0", DATA / "tiny-classifier-1.1.0"]


class Size(msgspec.Struct, frozen=True):
    """How much is measured."""

    messages: int
    rounds: int
    devices: int
    memory: tuple[int, ...]
    api_s: float
    settle_s: float


FULL = Size(20_000, 3, 1000, (100, 1000, 5000), 15.0, 25.0)
QUICK = Size(2000, 1, 50, (10, 50), 3.0, 5.0)


# With devices -----------------------------------------------------------------------------------

_SCENARIO = """
seed: 11
boards: {raspberry-pi-5: 1}
labels: {site: [lyon, graz, porto, aarhus]}
traffic: {requests_per_s: 1, telemetry_s: 10}
updates: {step_s: 0.1, download: full}
bundles: [{version: 1.1.0, fail_selftest: 0.015, roll_back: 0.015}]
"""


@contextlib.contextmanager
def rehearsal(devices: int) -> Iterator[tuple[Served, Simulation]]:
    """A controller and simulated devices, all online and heard."""
    with _ingest.broker() as config, tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        scenario = Path(folder) / "scenario.yaml"
        scenario.write_text(_SCENARIO)
        with served(Path(folder) / "fleet", config, name="bench", bundles=BUNDLES) as running:
            simulation = Simulation(
                "bench", config, devices, scenario=scenario, connects_per_s=400,
                repository_url=f"{running.url}/repo/",
            )  # fmt: skip
            with simulation, running.client() as client:
                simulation.wait_connected(60 + devices / 50)
                until(lambda: client.devices_page(limit=1).counts.get("online", 0) == devices)
                yield running, simulation


def until(condition: Callable[[], bool], seconds: float = 600) -> None:
    """Waits for what a controller on another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen in time")
        time.sleep(0.1)


def roll_out(
    running: Served, version: str, failing: float
) -> tuple[models_rollouts.RolloutModel, float]:
    """A rollout in four waves; returns its end and its seconds."""
    spec = RolloutSpec.model_validate(
        {
            "bundle": "tiny-classifier",
            "version": version,
            "waves": [{"percent": p} for p in (1, 10, 50, 100)],
            "gates": {"max_failure_rate": failing},
            "bake_s": 1,
            "trial": {"seconds": 1},
        }
    )
    began = time.monotonic()
    with running.client() as client:
        name = client.create_rollout(spec).id
        until(lambda: client.rollout(name).status != "running")
        return client.rollout(name), time.monotonic() - began


def measure_fleet(size: Size) -> list[Row]:
    """Rollout, fan-out, API and dashboard with one fleet of devices."""
    rows: list[Row] = []
    with rehearsal(size.devices) as (running, simulation):
        roll_out(running, "1.0.0", 0.0)
        before = simulation.wait_changed(5)
        ended, seconds = roll_out(running, "1.1.0", 0.2)
        after = simulation.wait_changed(5)
        case = f"rollout-{size.devices}"
        moved = after.published + after.received - before.published - before.received
        payload = after.published_bytes + after.received_bytes
        payload -= before.published_bytes + before.received_bytes
        loaded = after.downloaded_bytes - before.downloaded_bytes
        succeeded = ended.status == "succeeded"
        rows += [
            row(case, "shoal", "seconds", seconds, "s"),
            row(case, "shoal", "succeeded", float(succeeded), "bool"),
            row(case, "shoal", "confirmed", ended.phases.get("confirmed", 0), "devices"),
            row(case, "shoal", "failed", ended.phases.get("failed", 0), "devices"),
            row(case, "shoal", "messages_per_device", moved / size.devices, "messages"),
            row(case, "shoal", "mqtt_bytes_per_device", payload / size.devices, "bytes"),
            row(case, "shoal", "bytes_per_device", (payload + loaded) / size.devices, "bytes"),
        ]
        rows += measure_fanout(running, size)
        rows += asyncio.run(measure_api(running, size))
        rows += measure_dashboard(running, size)
    return rows


def measure_fanout(running: Served, size: Size) -> list[Row]:
    """One question to every device."""
    case, times, answered = f"fanout-{size.devices}", [], []
    query = models.Query(op="classify", text="turn on the lights", selector="all", timeout_s=60)
    with running.client() as client:
        for _ in range(5):
            began = time.perf_counter()
            result = client.query(query)
            times.append(time.perf_counter() - began)
            answered.append(result.answered)
    return [
        row(case, "shoal", "seconds", statistics.median(times), "s", len(times)),
        row(case, "shoal", "answered", min(answered), "devices", len(times)),
    ]


async def measure_api(running: Served, size: Size) -> list[Row]:
    """Latency at 100 requests a second, begun on time whether or not earlier ones have ended."""
    paths = [
        "/v1/devices?limit=50", "/v1/devices/sim-00007", "/v1/rollouts", "/v1/bundles",
        "/v1/devices/sim-00007/telemetry", "/v1/devices?selector=own%3Asite%3Dlyon&limit=50",
    ]  # fmt: skip
    times: list[float] = []
    wrong: list[int] = []
    headers = {"Authorization": f"Bearer {running.token('viewer')}"}
    # Shorter than the server's: a connection is never used as the server closes it.
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200, keepalive_expiry=2.0)
    async with httpx.AsyncClient(
        base_url=running.url, headers=headers, limits=limits, timeout=30, trust_env=False
    ) as client:

        async def one(path: str) -> None:
            began = time.perf_counter()
            try:
                status = (await client.get(path)).status_code
            except httpx.TransportError:
                status = 0
            times.append(time.perf_counter() - began)
            if status != 200:
                wrong.append(status)

        await one(paths[0])
        times.clear()
        tasks, start = [], time.perf_counter()
        for index in range(int(size.api_s * 100)):
            await asyncio.sleep(max(0.0, start + index / 100 - time.perf_counter()))
            tasks.append(asyncio.create_task(one(paths[index % len(paths)])))
        await asyncio.gather(*tasks)
    times.sort()
    case, runs = "api-100-per-s", len(times)
    found = [
        row(case, "shoal", f"latency_p{q}_ms", times[min(runs - 1, runs * q // 100)] * 1000, "ms",
            runs)
        for q in (50, 95, 99)
    ]  # fmt: skip
    return [*found, row(case, "shoal", "errors", len(wrong), "responses", runs)]


_PAGES = {
    "overview": ("/ui/", "text=Devices online"),
    "devices": ("/ui/devices", "text=sim-00001"),
    "device": ("/ui/devices/sim-00007", "text=Update history"),
    "rollout": ("/ui/rollouts/r2", "text=What happened"),
}


def measure_dashboard(running: Served, size: Size) -> list[Row]:
    """Milliseconds from the click to the data in Chromium; the browser's cache is warm."""
    from playwright.sync_api import sync_playwright

    rows: list[Row] = []
    program = need_tool("chromium", "/usr/bin/chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        page = browser.new_page()
        page.goto(f"{running.url}/")
        page.get_by_label("API token").fill(running.token("viewer"))
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Overview", exact=True).wait_for()
        for name, (path, sign) in _PAGES.items():
            times = []
            for _ in range(6):
                began = time.perf_counter()
                page.goto(running.url + path, wait_until="commit")
                page.locator(sign).first.wait_for()
                times.append((time.perf_counter() - began) * 1000)
            case = f"dashboard-{size.devices}-{name}"
            rows.append(row(case, "shoal", "data_ms", statistics.median(times[1:]), "ms", 5))
        browser.close()
    return rows


def measure_memory(size: Size) -> list[Row]:
    """Resident memory of a new controller with so many devices connected and reporting."""
    rows: list[Row] = []
    found: list[tuple[int, int]] = []
    for devices in size.memory:
        with rehearsal(devices) as (running, simulation):
            time.sleep(size.settle_s)  # two rounds of telemetry
            assert running.process is not None
            rss = psutil.Process(running.process.pid).memory_info().rss
            own = sum(psutil.Process(pid).memory_info().rss for pid in simulation.pids)
            found.append((devices, rss))
            case = f"devices-{devices}"
            rows.append(row(case, "shoal", "rss_mb", rss / 1e6, "MB"))
            rows.append(row(case, "simulator", "rss_mb", own / 1e6, "MB"))
    (few, low), (many, high) = found[0], found[-1]
    grown = (high - low) / (many - few) / 1000
    rows.append(row(f"devices-{many}", "shoal", "growth_kb_per_device", grown, "kB"))
    return rows


def plot(rows: list[Row], file: Path) -> None:
    """Memory of the controller against devices."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    points = sorted(
        (int(r["case"].split("-")[1]), r["value"])
        for r in rows
        if r["figure"] == "rss_mb" and r["system"] == "shoal"
    )
    figure, axes = pyplot.subplots(figsize=(6, 3.6))
    axes.plot([x for x, _ in points], [y for _, y in points], "o-", color="#0b6e7f")
    axes.set_xlabel("connected devices")
    axes.set_ylabel("controller RSS, MB")
    axes.set_ylim(0, 1.15 * max(y for _, y in points))
    figure.tight_layout()
    figure.savefig(file)


# Output -----------------------------------------------------------------------------------------


CASES: dict[str, Callable[[Size], list[Row]]] = {
    "ingest": lambda size: _ingest.measure(size.messages, size.rounds),
    "fleet": measure_fleet,
    "memory": measure_memory,
    "idle": lambda size: _idle.measure(_idle.QUICK if size is QUICK else _idle.FULL),
    "quiet": lambda size: _quiet.measure(_quiet.QUICK if size is QUICK else _quiet.FULL),
}


def main() -> int:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="growth of memory, PNG")
    parser.add_argument("--only", action="append", choices=CASES)
    arguments = parser.parse_args()
    size, facts = (QUICK if arguments.quick else FULL), machine()
    rows: list[Row] = []
    for name in arguments.only or CASES:
        fresh = CASES[name](size)
        rows += fresh
        show(fresh)
    save(arguments.json, "fleet", rows, facts)
    if arguments.plot and any(r["figure"] == "rss_mb" for r in rows):
        plot(rows, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
