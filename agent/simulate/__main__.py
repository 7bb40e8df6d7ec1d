"""``python -m agent.simulate``: simulated devices; progress as JSON lines on stdout."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from agent.simulate import runner, scenario
from agent.system import log
from contracts import codec, files
from contracts.config import MqttConfig
from contracts.errors import InputError, ShoalError
from contracts.topics import check_name


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m agent.simulate", description=__doc__)
    made.add_argument("--fleet", required=True)
    made.add_argument("--mqtt", required=True, help="the broker, as JSON (MqttConfig)")
    made.add_argument("--devices", type=int, required=True, help="in all processes together")
    made.add_argument("--first", type=int, default=0, help="index of the first device here")
    made.add_argument("--count", type=int, help="devices in this process; default: all")
    made.add_argument("--prefix", default="sim-", help="of device names")
    made.add_argument("--scenario", type=Path)
    made.add_argument("--repository-url")
    made.add_argument("--connects-per-s", type=float, default=300.0)
    made.add_argument("--progress-s", type=float, default=1.0)
    return made


def read_plan(arguments: argparse.Namespace) -> runner.Plan:
    """The plan of a command line.

    Raises:
        InputError: a value is not usable.
    """
    devices, first = arguments.devices, arguments.first
    count = devices - first if arguments.count is None else arguments.count
    if not (1 <= devices <= 100_000 and first >= 0 and count >= 1 and first + count <= devices):
        raise InputError(
            "bad-count",
            f"devices {first} to {first + count} of {devices} cannot be simulated: expected 1 to "
            "100000 devices, and a part of them",
        )
    if arguments.connects_per_s <= 0 or arguments.progress_s <= 0:
        raise InputError("bad-count", "rates and intervals must be above 0")
    check_name(arguments.fleet, "fleet")
    check_name(f"{arguments.prefix}00000", "device")
    return runner.Plan(
        fleet=arguments.fleet,
        mqtt=codec.decode(arguments.mqtt.encode(), MqttConfig, what="--mqtt"),
        devices=devices,
        first=first,
        count=count,
        prefix=arguments.prefix,
        repository_url=arguments.repository_url,
        connects_per_s=arguments.connects_per_s,
        progress_s=arguments.progress_s,
    )


def read_scenario(path: Path | None) -> scenario.Scenario:
    """The scenario of a file; the one where all goes well without a file.

    Raises:
        InputError: ``no-such-file``, ``bad-scenario``.
    """
    if path is None:
        return scenario.Scenario()
    return scenario.load(files.read_small(path, what="scenario"), what=f"scenario {path.name}")


def _report(facts: dict[str, Any]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(facts) + b"\n")
    sys.stdout.buffer.flush()


async def _main(plan: runner.Plan, chosen: scenario.Scenario) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await runner.run(plan, chosen, stop, _report)


def main(arguments: list[str] | None = None) -> int:
    """Runs the simulation; returns the exit code."""
    log.silence()
    try:
        parsed = parser().parse_args(arguments)
        plan, chosen = read_plan(parsed), read_scenario(parsed.scenario)
        asyncio.run(_main(plan, chosen))
    except ShoalError as error:
        sys.stderr.buffer.write(codec.encode(error.body()) + b"\n")
        return error.exit_code
    except BrokenPipeError:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
