"""Runs the devices of one process: connects them at a rate, reports progress, ends well."""

from __future__ import annotations

import asyncio
import functools
import resource
from collections.abc import Callable
from typing import Any, Final

import msgspec

from agent.simulate.device import SimulatedDevice, World
from agent.simulate.fate import Fates
from agent.simulate.host import LoopHost
from agent.simulate.link import LoopLink
from agent.simulate.repository import Repository, installed
from agent.simulate.scenario import Churn, Scenario
from contracts.config import MqttConfig
from contracts.errors import UnavailableError
from contracts.messages import BundleRef
from contracts.simulation import Counters

_TICK_S: Final = 2.0
_SPARE_FILES: Final = 64


class Plan(msgspec.Struct, frozen=True):
    """What one process simulates.

    Attributes:
        fleet: its name.
        mqtt: the broker.
        devices: of all processes together.
        first, count: which of them run here.
        prefix: of the names; a device is ``{prefix}{index:05}``.
        repository_url: where bundles come from; None: nothing is downloaded.
        connects_per_s: how fast devices connect.
        progress_s: between progress reports.
    """

    fleet: str
    mqtt: MqttConfig
    devices: int
    first: int
    count: int
    prefix: str = "sim-"
    repository_url: str | None = None
    connects_per_s: float = 300.0
    progress_s: float = 1.0

    def name(self, index: int) -> str:
        """A device's name."""
        return f"{self.prefix}{index:05}"


def allow_files(wanted: int) -> None:
    """Raises the limit of open files.

    Raises:
        UnavailableError: ``too-many-files``; the system does not allow as many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise UnavailableError(
            "too-many-files",
            f"{wanted} open files are needed, the system allows {hard}: raise 'ulimit -n', or "
            "simulate fewer devices in one process",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def run(
    plan: Plan, scenario: Scenario, stop: asyncio.Event, report: Callable[[dict[str, Any]], None]
) -> None:
    """Runs until `stop` is set.

    Args:
        plan: which devices, and where.
        scenario: how they behave.
        stop: ends the simulation.
        report: called with ``{"event": "progress" | "connected" | "summary", ...}``: counts of
            :class:`Counters`; ``connected`` once, when all that should be online are.
    """
    allow_files(plan.count + _SPARE_FILES)
    counters = Counters()
    repository = Repository(plan.repository_url, counters, plan.mqtt.tls)
    fates = Fates(scenario, plan.devices)
    away = fates.chosen("offline", scenario.offline.share)
    devices: list[SimulatedDevice] = []
    tasks = []
    try:
        world = await _world(plan, scenario, fates, repository, counters)
        tasks = [
            asyncio.create_task(_connect(plan, devices, away, scenario, stop), name="connect"),
            asyncio.create_task(
                _progress(plan, devices, away, counters, stop, report), name="progress"
            ),
            asyncio.create_task(_keep_alive(devices, stop), name="keep-alive"),
        ]
        for index in range(plan.first, plan.first + plan.count):
            devices.append(SimulatedDevice(index, plan.name(index), world))
            if index % 50 == 0:
                await asyncio.sleep(0)
        waiting = asyncio.create_task(stop.wait(), name="stop")
        done, _ = await asyncio.wait([*tasks, waiting], return_when=asyncio.FIRST_COMPLETED)
        while waiting not in done:
            for task in done:
                task.result()
            rest = [t for t in (*tasks, waiting) if not t.done()]
            done, _ = await asyncio.wait(rest, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        report({"event": "summary", **msgspec.to_builtins(counters)})
        await _goodbye(devices)
        repository.close()


async def _world(
    plan: Plan, scenario: Scenario, fates: Fates, repository: Repository, counters: Counters
) -> World:
    """What the devices have together, with what they have from the start."""
    wanted = [
        (start.slot, BundleRef(start.bundle, start.version, start.manifest_sha256))
        for start in scenario.start
    ]
    loop = asyncio.get_running_loop()
    return World(
        fleet=plan.fleet,
        mqtt=plan.mqtt,
        fates=fates,
        host=LoopHost(loop),
        repository=repository,
        counters=counters,
        make_link=functools.partial(LoopLink, loop=loop, counters=counters),
        start=await asyncio.to_thread(lambda: list(installed(repository, wanted))),
    )


async def _connect(
    plan: Plan,
    devices: list[SimulatedDevice],
    away: frozenset[int],
    scenario: Scenario,
    stop: asyncio.Event,
) -> None:
    """Connects devices in order, so many a second; those that are away come later or never."""
    loop = asyncio.get_running_loop()
    began, position = loop.time(), 0
    while position < plan.count and not stop.is_set():
        due = min(int((loop.time() - began) * plan.connects_per_s) + 1, len(devices))
        for device in devices[position:due]:
            if device.index not in away:
                _start(device, scenario)
            elif scenario.offline.back_after_s is not None:
                loop.call_later(scenario.offline.back_after_s, _start, device, scenario)
        position = max(position, due)
        await asyncio.sleep(0.02)


def _start(device: SimulatedDevice, scenario: Scenario) -> None:
    device.start()
    if device.index in device.world.fates.chosen("churn", scenario.churn.share):
        _break_later(device, scenario.churn, 0.0)


def _break_later(device: SimulatedDevice, churn: Churn, away_s: float) -> None:
    seconds = away_s + device.chance.expovariate(1 / churn.every_s)
    asyncio.get_running_loop().call_later(seconds, _break, device, churn)


def _break(device: SimulatedDevice, churn: Churn) -> None:
    """The scenario's churn."""
    link = link_of(device)
    if link is not None and link.connected.is_set():
        if churn.reboot:
            device.reboot(churn.away_s)
        else:
            link.leave_for(churn.away_s)
    _break_later(device, churn, churn.away_s)


def link_of(device: SimulatedDevice) -> LoopLink | None:
    """The connection of a device that runs."""
    link = None if device.run is None else device.run.link
    return link if isinstance(link, LoopLink) else None


async def _keep_alive(devices: list[SimulatedDevice], stop: asyncio.Event) -> None:
    """Gives every connection its turn within a tick, a few at a time."""
    while not stop.is_set():
        began = asyncio.get_running_loop().time()
        for index, device in enumerate(list(devices)):
            link = link_of(device)
            if link is not None:
                link.keep_alive()
            if index % 100 == 0:
                await asyncio.sleep(0)
        took = asyncio.get_running_loop().time() - began
        await asyncio.sleep(max(_TICK_S - took, 0.1))


async def _progress(
    plan: Plan,
    devices: list[SimulatedDevice],
    away: frozenset[int],
    counters: Counters,
    stop: asyncio.Event,
    report: Callable[[dict[str, Any]], None],
) -> None:
    expected = sum(i not in away for i in range(plan.first, plan.first + plan.count))
    connected = False
    while not stop.is_set():
        await asyncio.sleep(0.05 if not connected else plan.progress_s)
        if not connected and counters.online >= expected:
            connected = True
            report({"event": "connected", "devices": counters.online})
        if connected:
            report({"event": "progress", **msgspec.to_builtins(counters)})


async def _goodbye(devices: list[SimulatedDevice]) -> None:
    links = [link for device in devices if (link := link_of(device)) is not None]
    for index, device in enumerate(devices):
        device.shut_down()
        if index % 100 == 0:
            await asyncio.sleep(0)
    deadline = asyncio.get_running_loop().time() + 5
    while any(link.connected.is_set() for link in links):
        if asyncio.get_running_loop().time() >= deadline:
            return
        await asyncio.sleep(0.02)
