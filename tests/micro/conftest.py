"""A real broker, a real signed repository, and MicroPython devices."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contracts.bundle import Bundle
from contracts.config import MqttConfig
from fleet.repository.repository import Repository
from tests.micro import device
from tests.micro.controller import Controller, enrol
from tests.support.broker import mosquitto

DATA = Path("tests/data")


@pytest.fixture(scope="session")
def broker() -> Iterator[MqttConfig]:
    """One mosquitto for all tests of this folder; each uses a fleet of its own."""
    with mosquitto() as config:
        yield config


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A signed repository with both versions of the tiny classifier."""
    repository = Repository.create(tmp_path / "repo", tmp_path / "keys")
    for version in ("1.0.0", "1.1.0"):
        repository.publish(Bundle.open(DATA / f"tiny-classifier-{version}"))
    return repository


@pytest.fixture
def controller(broker, repository, request) -> Iterator[Controller]:
    """A controller of a fleet named after the test."""
    fleet = "".join(c if c.isalnum() else "-" for c in request.node.name)[:60]
    with Controller(broker, fleet, repository) as connected:
        yield connected
        assert connected.problems == []


class Devices:
    """Starts and stops MicroPython devices."""

    def __init__(self, folder: Path, config: MqttConfig, controller: Controller) -> None:
        self._folder = folder
        self._config = config
        self._controller = controller
        self._processes: list[subprocess.Popen[str]] = []
        self.environment: dict[str, str] = {}
        self.around: Callable[[list[str]], list[str]] = lambda command: command

    def enrol(self, name: str) -> Path:
        """Writes the folder of a device."""
        fleet = self._controller.topics.fleet
        root = self._controller.repository.root
        return enrol(self._folder / name, name, fleet, self._config, root)

    def start(
        self, folder: Path, heap: str = device.HEAP, script: str = "device.py"
    ) -> subprocess.Popen[str]:
        """Starts the agent on a device's folder."""
        log = (folder / "log.txt").open("a")
        process = subprocess.Popen(
            self.around(device.command(script, str(folder), heap=heap)),
            stdout=log,
            stderr=log,
            text=True,
            env=device.environment(**self.environment),
        )
        log.close()
        self._processes.append(process)
        return process

    def stop(self) -> None:
        """Kills every device that runs."""
        for process in self._processes:
            process.kill()
            process.wait(10)


@pytest.fixture
def devices(broker, controller) -> Iterator[Callable[..., Devices]]:
    """Devices of the controller's fleet.

    In a folder whose path is as long in every run: it takes room on heaps that tests make scarce.
    """
    with tempfile.TemporaryDirectory(prefix="shoal-micro-") as folder:
        started = Devices(Path(folder), broker, controller)
        try:
            yield started
        finally:
            started.stop()
