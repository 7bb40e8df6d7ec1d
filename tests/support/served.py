"""A controller as a program of its own, that a test may kill and start again."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from contracts.config import MqttConfig
from contracts.errors import ShoalError
from fleet.client import Client
from fleet.folder import ApiConfig, Fleet, FleetConfig
from tests.support import programs
from tests.support.tools import free_port, until

if TYPE_CHECKING:
    from typing_extensions import Self

STARTS_S = 180.0  # a safety limit: four workers share two cores


class ServedFleet:
    """A fleet's folder with ``shoal fleet serve`` running on it; a context manager."""

    def __init__(
        self, folder: Path, mqtt: MqttConfig, *, name: str, database: str = "", **config: Any
    ) -> None:
        self.fleet = Fleet.init(
            folder,
            msgspec.structs.replace(
                FleetConfig(
                    name,
                    mqtt=mqtt,
                    api=ApiConfig(port=free_port(), requests_per_s=5000, burst=5000),
                    database=database,
                    admit_unknown=True,
                    engine_s=0.2,
                ),
                **config,
            ),
        )
        self.log = folder / "serve.log"
        self.token = self.fleet.token_file.read_text().strip()
        self.program = [sys.executable, "-m", "fleet"]
        self.process: subprocess.Popen[bytes] | programs.Program | None = None
        self._asking = self.client()  # one for all polls: each takes 25 ms to make

    def client(self, token: str | None = None) -> Client:
        """A client with the admin token, or another."""
        return Client(self.fleet.api_url, token or self.token)

    def start(self, *arguments: str) -> None:
        """Starts the program and returns once it is ready."""
        with self.log.open("ab") as log:
            self.process = programs.start(
                [*self.program, "fleet", "serve", "--dir", str(self.fleet.folder), *arguments],
                stdout=log,
                stderr=log,
            )
        try:
            self.until(self._ready, STARTS_S)
        except BaseException:
            self.kill()  # nothing of a test that failed may run on beside the next one
            raise

    def _ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the controller ended:\n{self.log.read_text()[-3000:]}")
        try:
            return self._asking.ready().ready
        except ShoalError:
            return False

    def kill(self) -> None:
        """As the out-of-memory killer does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(60)

    def stop(self) -> int:
        """As systemd does; returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)

    def until(self, holds: Callable[[], Any], seconds: float = 120.0) -> Any:
        """Asks over HTTP until something holds."""
        return until(holds, seconds, lambda: f"log:\n{self.log.read_text()[-2000:]}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._asking.close()
        if self.process is not None and self.process.poll() is None:
            self.stop()
