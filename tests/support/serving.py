"""A whole controller as a program, as users run it: a fleet's folder, `serve`, kill, restart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from contracts.config import MqttConfig
from fleet.client import Client
from fleet.folder import ApiConfig, Fleet, FleetConfig
from fleet.openid.config import OpenIdConfig
from fleet.smtp import MailConfig
from fleet.store import tokens
from tests.support import programs
from tests.support.event_loop import COMPLAINT
from tests.support.tools import free_port

STARTS_S = 180.0  # a safety limit: four workers share two cores


class Served:
    """A fleet and its controller's process.

    Attributes:
        fleet: the folder.
        url: of the HTTP side.
        process: the controller, when it runs.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.url = f"http://127.0.0.1:{fleet.config.api.port}"
        self.process: subprocess.Popen[bytes] | programs.Program | None = None
        self._log = fleet.folder / "serve.log"

    def token(self, role: str) -> str:
        """A new token of a role."""
        store = self.fleet.open_store()
        try:
            with store.write() as connection:
                return tokens.create(connection, f"a {role}", role, time.time())
        finally:
            store.close()

    def client(self) -> Client:
        """A client with the admin token."""
        return Client(self.url, self.fleet.token_file.read_text().strip())

    def start(self) -> None:
        """Starts the controller; returns once it is ready."""
        with self._log.open("ab") as log:
            self.process = programs.start(
                [sys.executable, "-m", "tests.support.event_loop", "fleet", "serve",
                 "--dir", self.fleet.folder, "--log-level", "warning"],
                stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + STARTS_S
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()  # nothing of a test that failed may run on beside the next one
                raise RuntimeError(
                    f"the controller did not start:\n{self._log.read_text()[-2000:]}"
                )
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as response:
                return response.status == 200
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(120)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def log(self) -> str:
        """What the controller logged."""
        return self._log.read_text()


@contextmanager
def served(
    folder: Path,
    mqtt: MqttConfig,
    *,
    name: str = "tests",
    bundles: Sequence[Path] = (),
    database: str = "",
    requests_per_s: float = 1000.0,
    public_url: str | None = None,
    mail_port: int | None = None,
    openid: OpenIdConfig | None = None,
) -> Iterator[Served]:
    """A new fleet that admits simulated devices, and its running controller.

    `public_url`: under which devices find it, as behind a proxy that has TLS. `mail_port`: of a
    mail server on loopback; with it, webhooks on loopback may be told too. `openid`: whose accounts
    may sign in; its files by absolute names.
    """
    os.environ.pop("SHOAL_FLEET", None)
    config = FleetConfig(
        fleet=name,
        mqtt=mqtt,
        api=ApiConfig(port=free_port(), requests_per_s=requests_per_s, burst=2000, url=public_url),
        database=database,
        admit_unknown=True,
        engine_s=0.2,
        webhook_hosts=["127.0.0.1"] if mail_port else [],
        mail=MailConfig("127.0.0.1", "fleet@example.org", mail_port, "none", ["ops@example.org"])
        if mail_port
        else None,
        openid=openid,
    )
    fleet = Fleet.init(folder, config)
    for bundle in bundles:
        fleet.publish(bundle)
    running = Served(fleet)
    running.start()
    try:
        yield running
    finally:
        running.stop()
        assert COMPLAINT not in running.log(), running.log()[-3000:]
