"""The operator knows what the device knows, and what waited goes on by itself.

Real controller, broker and agents; wrong clocks, full disks, slow links.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from contracts import codec
from contracts.bundle import MANIFEST, Bundle, file_entries
from contracts.clock import EARLIEST
from contracts.config import MqttConfig
from contracts.messages import Telemetry
from fleet.api import models_devices, models_rollouts
from fleet.cli.app import app
from fleet.identity import provisioning
from fleet.rollout.spec import RolloutSpec
from fleet.store.schema import TELEMETRY
from tests.support.broker import mutual_tls
from tests.support.bundles import rewrite
from tests.support.controller import TINY, AgentProcess, make_repository
from tests.support.fault_clock import FaultClock
from tests.support.full_disk import make_room, take_room
from tests.support.proxy import Proxy
from tests.support.served import ServedFleet
from tests.support.small_disk import SmallDisk
from tests.support.tools import until

DAY_S = 24 * 3600.0


@pytest.fixture
def served(mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path) -> Iterator[ServedFleet]:
    """A controller that runs, with the tiny bundle."""
    fleet = ServedFleet(tmp_path / "fleet", mosquitto_broker, name=fleet_name)
    fleet.fleet.publish(TINY)
    with fleet:
        yield fleet


def _agent(served: ServedFleet, folder: Path, way: str, **config: Any) -> AgentProcess:
    """An agent that fetches over HTTP from the controller, or in blocks over MQTT."""
    url = served.fleet.api_url + "/repo" if way == "http" else None
    config |= {"repository_url": url} if url else {}
    repository = served.fleet.open_repository()
    return AgentProcess(
        folder, served.fleet.config.mqtt, served.fleet.config.fleet, repository, **config
    )


def _rollout(served: ServedFleet, **fields: Any) -> str:
    """A rollout to everybody, quick but for its deadline."""
    spec = {
        "bundle": "tiny-classifier", "version": "1.0.0", "waves": [{"percent": 100}],
        "bake_s": 0, "trial": {"seconds": 0.5}, "deadline_s": 600,
    }  # fmt: skip
    with served.client() as client:
        return client.create_rollout(RolloutSpec.model_validate(spec | fields), again=True).id


def _until(
    served: ServedFleet, holds: Callable[[models_devices.DeviceModel], Any], seconds: float = 180.0
) -> models_devices.DeviceModel:
    def look() -> models_devices.DeviceModel | None:
        with served.client() as client:
            device = next((d for d in client.devices("all") if d.id == "dev-1"), None)
        return device if device is not None and holds(device) else None

    found: models_devices.DeviceModel = served.until(look, seconds)
    return found


def _waits(code: str) -> Callable[[models_devices.DeviceModel], Any]:
    return lambda device: [w for w in device.waits if w.code == code]


def _runs(device: models_devices.DeviceModel) -> bool:
    slot = device.slots.get("classify")
    return slot is not None and slot.active is not None and not slot.trial


def _succeeds(served: ServedFleet, rollout: str) -> None:
    def ended() -> models_rollouts.RolloutModel | None:
        with served.client() as client:
            found = client.rollout(rollout)
        return found if found.status in ("succeeded", "stopped", "aborted", "paused") else None

    found: models_rollouts.RolloutModel = served.until(ended, 60)
    assert found.status == "succeeded", found.reason


def _shoal(served: ServedFleet, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["fleet", *arguments, "--dir", str(served.fleet.folder)])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("way", ["http", "mqtt"])
def test_a_clock_that_is_a_month_ahead_is_named_and_goes_on_when_it_is_set(
    served: ServedFleet, tmp_path: Path, way: str
) -> None:
    """It makes the fleet's signatures look expired: nobody else is blamed, nothing is final."""
    clock = FaultClock(tmp_path / "clock", 30 * DAY_S)
    agent = _agent(served, tmp_path / "a", way)
    agent.environment = clock.environment
    with agent:
        _until(served, lambda device: device.state == "online")
        rollout = _rollout(served)
        # The clock alone may be told first, before an update is refused by it.
        device = _until(served, lambda d: [w for w in d.waits if "By it, " in w.message])
        assert device.clock_offset_s == pytest.approx(30 * DAY_S, abs=60)
        (wait,) = device.waits
        assert wait.code == "clock-wrong"
        assert "30 days ahead of the controller's" in wait.message and "expired" in wait.message
        assert device.last_update is not None and device.last_update["state"] == "downloading"
        assert device.last_update["reason"]["code"] == "clock-wrong"
        assert "30 days ahead" in _shoal(served, "devices")
        shown = _shoal(served, "rollout", "show", rollout)
        assert "(dev-1 waits: this device's clock is 30 days ahead" in shown
        assert "waits: dev-1 (updating" in shown
        document = json.loads(_shoal(served, "rollout", "show", rollout, "--json"))
        assert document["waiting"][0]["waits"][0]["code"] == "clock-wrong"
        assert "30 days ahead" in agent.log.read_text()
        clock.set(0)
        _until(served, lambda device: _runs(device) and not device.waits, 90)
        _succeeds(served, rollout)


@pytest.mark.parametrize("way", ["http", "mqtt"])
def test_a_clock_that_says_1970_is_told_from_the_start(
    served: ServedFleet, tmp_path: Path, way: str
) -> None:
    """In the log before anything else, with both times; the update does not depend on it."""
    clock = FaultClock(tmp_path / "clock", 60 - time.time())
    agent = _agent(served, tmp_path / "a", way)
    agent.environment = clock.environment
    with agent:
        device = _until(served, _waits("clock-wrong"))
        assert "not set: it says 1970-01-01 00:0" in device.waits[0].message
        assert device.clock == "unsynced"
        log = agent.log.read_text()
        assert log.index("the clock is wrong") < log.index('"ready"')
        rollout = _rollout(served)
        device = _until(served, _runs)
        assert device.clock_offset_s == pytest.approx(60 - time.time(), abs=60)
        assert ", the controller 20" in device.waits[0].message
        _succeeds(served, rollout)
        clock.set(0)
        device = _until(served, lambda device: not device.waits)
        assert device.clock == "synced"


def test_a_clock_that_jumps_while_the_agent_runs(served: ServedFleet, tmp_path: Path) -> None:
    """A month ahead in the middle of its life, back, and into 1970: each is noticed."""
    clock = FaultClock(tmp_path / "clock")
    agent = _agent(served, tmp_path / "a", "http")
    agent.environment = clock.environment
    with agent:
        _until(served, lambda device: device.state == "online" and not device.waits)
        clock.set(30 * DAY_S)
        rollout = _rollout(served)
        _until(served, _waits("clock-wrong"))
        clock.set(0)
        _until(served, lambda device: _runs(device) and not device.waits)
        _succeeds(served, rollout)
        clock.set(100 - time.time())
        _until(served, _waits("clock-wrong"))
        clock.set(0)
        device = _until(served, lambda device: not device.waits)
        assert device.state == "online"
        assert "the clock moved" in agent.log.read_text()


def _status(agent: AgentProcess) -> str:
    command = [sys.executable, "-m", "agent", "status", "--config", str(agent.path)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (60.0, "this device's clock is not set"),
        (EARLIEST + DAY_S, "this device's clock is behind"),
        (EARLIEST + 9999 * DAY_S, "this device's clock is ahead, or it was not renewed"),
    ],
    ids=["1970", "behind", "ahead"],
)
def test_tls_that_fails_by_the_clock_says_so(
    tmp_path: Path, fleet_name: str, says: float, words: str
) -> None:
    """In the log and in the status at the device: nobody else can be told; then it connects."""
    repository = make_repository(tmp_path, TINY)
    clock = FaultClock(tmp_path / "clock", says - time.time())
    with mutual_tls(tmp_path) as broker:
        agent = AgentProcess(tmp_path / "a", broker, fleet_name, repository)
        agent.environment = clock.environment
        with agent:
            until(lambda: _refusals(agent))
            until(lambda: words in _status(agent))
            threading.Event().wait(3)  # it is said once, however often it is tried
            (said,) = _refusals(agent)
            assert words in said and "the server's certificate" in said
            clock.set(0)
            until(lambda: '"connected"' in agent.log.read_text(), 90)


def _refusals(agent: AgentProcess) -> list[str]:
    lines = agent.log.read_text().splitlines()
    return [line for line in lines if '"event": "no connection"' in line]


@pytest.mark.parametrize("way", ["http", "mqtt"])
def test_a_full_disk_is_told_and_goes_on_when_there_is_room(
    served: ServedFleet, tmp_path: Path, way: str
) -> None:
    """The disk fills while the agent runs: not even its journal can be written."""
    agent = _agent(served, tmp_path / "a", way)
    with agent:
        _until(served, lambda device: device.state == "online")
        assert agent.process is not None
        take_room(agent.process.pid)
        rollout = _rollout(served, deadline_s=8)
        device = _until(served, _waits("disk-full"))
        assert "full" in device.waits[0].message
        assert "dev-1" in _shoal(served, "rollout", "show", rollout)

        def failed() -> models_rollouts.MemberModel | None:
            with served.client() as client:
                return next(client.members(rollout, "failed"), None)

        member: models_rollouts.MemberModel = served.until(failed, 60)
        assert member.reason is not None and member.reason["detail"]["cause"] == "disk-full"
        assert "the disk is full" in member.reason["message"]
        make_room(agent.process.pid)
        again = _rollout(served, if_busy="queue")
        _until(served, lambda device: _runs(device) and not device.waits, 90)
        _succeeds(served, again)


@pytest.mark.parametrize("way", ["http", "mqtt"])
def test_what_the_bundle_needs_and_what_is_free_are_told(
    served: ServedFleet, tmp_path: Path, way: str
) -> None:
    """A disk with too little room for the bundle: both figures; the journal can be written."""
    agent = _agent(served, tmp_path / "a", way)
    disk = SmallDisk(agent.state, 40_000_000)
    agent.command = disk.around(agent.command)
    with agent:
        _until(served, lambda device: device.state == "online")
        assert agent.process is not None
        disk.leave(agent.process.pid, 4_000_000)
        rollout = _rollout(served)
        device = _until(served, _waits("disk-full"))
        (wait,) = device.waits
        assert wait.slot == "classify" and wait.since is not None
        assert "the bundle needs 8.4 MB" in wait.message
        assert re.search(r"[34]\.\d MB are free", wait.message), wait.message
        assert "needs 8.4 MB" in _shoal(served, "devices")
        assert "needs 8.4 MB" in _shoal(served, "rollout", "show", rollout)
        disk.make_room(agent.process.pid)
        _until(served, lambda device: _runs(device) and not device.waits, 90)
        _succeeds(served, rollout)


@pytest.mark.parametrize("way", ["http", "mqtt"])
def test_a_slow_link_is_told_and_meets_no_deadline(
    served: ServedFleet, tmp_path: Path, way: str
) -> None:
    """Far longer than the deadline at the rate of the link, and it succeeds: it gets on."""
    folder = tmp_path / "big"
    Bundle.open(TINY).extract(folder)
    (folder / "extra.bin").write_bytes(random.Random(0).randbytes(600_000))
    files = file_entries(p for p in folder.iterdir() if p.name != MANIFEST)
    served.fleet.publish(rewrite(Bundle.open(folder), version="2.0.0", files=files).path)
    api = urlsplit(served.fleet.api_url)
    assert api.port is not None
    with Proxy(api.port) as http, Proxy(served.fleet.config.mqtt.port) as mqtt:
        agent = _agent(served, tmp_path / "a", "mqtt")
        there = msgspec.structs.replace(
            agent.config,
            mqtt=msgspec.structs.replace(agent.config.mqtt, port=mqtt.port),
            repository_url=f"http://127.0.0.1:{http.port}/repo" if way == "http" else None,
        )
        agent.path.write_bytes(provisioning.to_yaml(there))
        with agent:
            _until(served, lambda device: device.state == "online")
            (http if way == "http" else mqtt).bytes_per_s = 25_000
            rollout = _rollout(served, version="2.0.0", deadline_s=12)
            device = _until(served, _waits("slow-link"))
            assert re.match(
                r"downloads \d\.\d MB of 0\.6 MB at \d\d\.\d kB/s", device.waits[0].message
            )
            assert " left" in device.waits[0].message
            assert "downloads " in _shoal(served, "rollout", "show", rollout)
            _succeeds(served, rollout)
            with served.client() as client:
                (member,) = client.members(rollout)
            assert member.attempts == 1
            assert member.changed - member.since > 20


def test_a_repository_that_is_away_is_told(served: ServedFleet, tmp_path: Path) -> None:
    """Over HTTP nobody listens, and over MQTT nobody answers: a controller of the rest alone."""
    agent = _agent(served, tmp_path / "a", "mqtt")
    blobs = served.fleet.folder / "repository" / "blobs"
    with agent:
        _until(served, lambda device: device.state == "online")
        blobs.rename(blobs.with_name("away"))
        rollout = _rollout(served)
        device = _until(served, lambda device: bool(device.waits))
        assert device.waits[0].message in _shoal(served, "rollout", "show", rollout)
        blobs.with_name("away").rename(blobs)
        _until(served, lambda device: _runs(device) and not device.waits)
        _succeeds(served, rollout)


def test_a_disk_that_fills_costs_no_telemetry(served: ServedFleet, tmp_path: Path) -> None:
    """It waits in memory, which is told; the batches come without a gap; then it ends by itself."""
    agent = _agent(served, tmp_path / "a", "mqtt")
    with agent:
        _until(served, lambda device: device.state == "online")
        assert agent.process is not None
        take_room(agent.process.pid)
        device = _until(served, _waits("telemetry-in-memory"))
        assert "lost if the power fails" in device.waits[0].message
        threading.Event().wait(3)
        make_room(agent.process.pid)
        _until(served, lambda device: not device.waits, 90)
        assert "spool moved from memory" in agent.log.read_text()
        assert agent.terminate() == 0
    store = served.fleet.open_store()
    with contextlib.closing(store), store.read() as connection:
        rows = connection.execute(
            sa.select(TELEMETRY.c.seq, TELEMETRY.c.payload).order_by(TELEMETRY.c.seq)
        ).all()
    assert [row.seq for row in rows] == list(range(len(rows)))
    batches = [codec.decode(row.payload, Telemetry, what="telemetry") for row in rows]
    assert [batch.drops for batch in batches if batch.drops] == []
