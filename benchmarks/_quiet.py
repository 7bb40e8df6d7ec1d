"""What a fleet writes and sends while nothing happens: agents and their controller, as installed.

Real programs on a mosquitto. Each agent connects through a proxy that counts what its socket
carries. One agent is like the others, but the broker keeps the controller's acknowledgements from
it, as if there were none: so the same minutes are measured with and without them. What is written
is what the kernel charges to the processes (``/proc/PID/io``).

After a start everything is told for a while, as it was always before devices idled
(``agent/telemetry/quiet.py``): that is measured as ``told-all``, and waited for. Last comes a
controller with a thousand simulated devices that nobody asks anything.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import _ingest
import msgspec
import psutil
from _figures import ROOT, Row, row

sys.path.insert(0, str(ROOT))

from agent.telemetry.quiet import WATCHED_S
from fleet.folder import ApiConfig, Fleet, FleetConfig
from fleet.rollout.spec import RolloutSpec
from fleet.simulate.launcher import Simulation
from tests.support.controller import AgentProcess
from tests.support.proxy import Proxy
from tests.support.serving import Served, served
from tests.support.tools import free_port

BUNDLE = ROOT / "tests" / "data" / "tiny-classifier-1.0.0"
FLEET = "quiet"
NAMES = ("with-1", "with-2", "without")
DAY_S = 24 * 3600.0


class QuietSize(msgspec.Struct, frozen=True):
    """How long is waited before measuring, how long is measured, and of how many devices."""

    settle_s: float
    measured_s: float
    devices: int


FULL = QuietSize(WATCHED_S + 30.0, 900.0, 1000)
QUICK = QuietSize(5.0, 45.0, 20)

_SCENARIO = """
seed: 11
boards: {raspberry-pi-5: 1}
traffic: {requests_per_s: 0}
"""


class _Spent(msgspec.Struct, frozen=True):
    """What one program and its children have used so far."""

    written: int
    processor_s: float

    def since(self, before: _Spent) -> _Spent:
        """What it used since."""
        return _Spent(self.written - before.written, self.processor_s - before.processor_s)


def _spent(program: subprocess.Popen[bytes] | None) -> _Spent:
    assert program is not None
    process, written, seconds = psutil.Process(program.pid), 0, 0.0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            written += one.io_counters().write_bytes
            # Those of children that ended are in the last two; their bytes the kernel adds itself.
            seconds += sum(one.cpu_times()[:4])
    return _Spent(written, seconds)


def _deny_acknowledgements(file: Path) -> None:
    """Has a mosquitto keep the controller's acknowledgements from `without` alone."""
    access = file.with_name("access")
    everything = "topic readwrite #\n"
    denied = f"topic deny shoal/v1/{FLEET}/d/without/ack\n"
    access.write_text(f"{everything}user with\n{everything}user without\n{denied}{everything}")
    access.chmod(0o600)
    file.write_text(f"{file.read_text()}acl_file {access}\n")


def measure(size: QuietSize) -> list[Row]:
    """Bytes, written and sent, and seconds of processor, as of a day."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-bench-")))
        broker = stack.enter_context(_ingest.broker(_deny_acknowledgements))
        fleet = Fleet.init(
            folder / "fleet",
            FleetConfig(FLEET, mqtt=broker, api=ApiConfig(port=free_port()), admit_unknown=True),
        )
        fleet.publish(BUNDLE)
        running = Served(fleet)
        running.start()
        stack.callback(running.stop)
        proxies = {name: stack.enter_context(Proxy(broker.port)) for name in NAMES}
        agents = {}
        for name, proxy in proxies.items():
            user = name.split("-")[0]
            mqtt = msgspec.structs.replace(broker, port=proxy.port, username=user)
            agent = AgentProcess(
                folder / name, mqtt, FLEET, fleet.open_repository(), device=name, telemetry_s=10
            )
            agents[name] = stack.enter_context(agent)
        _roll_out(running)
        began = time.monotonic()
        rows = _span("told-all", size.measured_s / 3, proxies, agents, running)
        time.sleep(max(0.0, size.settle_s - (time.monotonic() - began)))
        rows += _span("shoal", size.measured_s, proxies, agents, running)
    return rows + _many(size)


def _span(
    system: str,
    seconds: float,
    proxies: Mapping[str, Proxy],
    agents: Mapping[str, AgentProcess],
    running: Served,
) -> list[Row]:
    """What one stretch of time costs, as of a day."""
    sent = {name: proxy.forwarded for name, proxy in proxies.items()}
    used = {name: _spent(agent.process) for name, agent in agents.items()}
    controller, began = _spent(running.process), time.monotonic()
    time.sleep(seconds)
    times = DAY_S / (time.monotonic() - began)
    carried = {name: proxies[name].forwarded - sent[name] for name in NAMES}
    spent = {name: _spent(agents[name].process).since(used[name]) for name in NAMES}
    of_controller = _spent(running.process).since(controller)
    both = NAMES[:2]
    acknowledged = statistics.mean([carried[name] for name in both])
    written = statistics.mean([spent[name].written for name in both])
    processor_s = statistics.mean([spent[name].processor_s for name in both])
    without, runs = carried["without"], len(both)
    figures = (
        ("wire_bytes_day_without_acknowledgements", without * times, "bytes", 1),
        ("wire_bytes_day", acknowledged * times, "bytes", runs),
        ("wire_ratio", acknowledged / max(without, 1), "ratio", runs),
        ("agent_written_mb_day", written * times / 1e6, "MB", runs),
        ("agent_processor_s_day", processor_s * times, "s", runs),
        ("controller_written_mb_day", of_controller.written * times / 1e6, "MB", 1),
        ("controller_processor_s_day", of_controller.processor_s * times, "s", 1),
    )
    return [row("quiet", system, *figure) for figure in figures]


def _many(size: QuietSize) -> list[Row]:
    """A controller with many idle devices."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-bench-")))
        broker = stack.enter_context(_ingest.broker(_deny_acknowledgements))
        running = stack.enter_context(
            served(folder / "fleet", broker, name="many", bundles=[BUNDLE])
        )
        scenario = folder / "scenario.yaml"
        scenario.write_text(_SCENARIO)
        simulation = stack.enter_context(
            Simulation("many", broker, size.devices, scenario=scenario, connects_per_s=100,
                       repository_url=f"{running.url}/repo/")
        )  # fmt: skip
        simulation.wait_connected(60 + size.devices / 20)
        time.sleep(size.settle_s)
        before, began = _spent(running.process), time.monotonic()
        time.sleep(min(size.measured_s, 300.0))
        times = DAY_S / (time.monotonic() - began)
        spent = _spent(running.process).since(before)
    case = f"quiet-{size.devices}"
    return [
        row(case, "shoal", "controller_written_gb_day", spent.written * times / 1e9, "GB"),
        row(case, "shoal", "controller_processor_s_day", spent.processor_s * times, "s"),
    ]


def _roll_out(running: Served) -> None:
    """Every agent serves a model that nobody asks."""
    with running.client() as client:
        deadline = time.monotonic() + 180
        while client.devices_page(limit=1).counts.get("online", 0) < len(NAMES):
            assert time.monotonic() < deadline, "the agents did not connect"
            time.sleep(0.2)
        rules = {"bundle": "tiny-classifier", "version": "1.0.0", "waves": [{"percent": 100}]}
        spec = RolloutSpec.model_validate(rules | {"bake_s": 0, "trial": {"seconds": 1}})
        name = client.create_rollout(spec).id
        while client.rollout(name).status == "running":
            assert time.monotonic() < deadline, "the rollout did not end"
            time.sleep(0.2)
        assert client.rollout(name).status == "succeeded", client.rollout(name)
