"""The compose file as it is written: every service's command, with its mounts and nothing else.

No container engine is needed: what one does is done here. A service runs in a mount namespace in
which ``/var/lib/shoal`` is empty but for what it mounts of the volume, all of them in one network
namespace in which their names are known. The database is SQLite.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.hosts import hold
from tests.support.tools import need_tool

ROOT = Path(__file__).resolve().parents[2]
HOME = "/var/lib/shoal"
PROGRAMS = {"shoal-fleet": ["shoal", "fleet"], "shoal-agent": ["shoal-agent"]}
"""Entry points of the images, as the Dockerfile has them."""


class Engine:
    """Runs services of the compose file, as a container engine with one volume ``fleet`` would."""

    def __init__(self, work: Path, holder: int) -> None:
        self.work = work
        self.volume = work / "volume"
        self.volume.mkdir()
        self.services: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())[
            "services"
        ]
        self._enter = ["nsenter", "--target", str(holder), "--net", "--mount"]
        self._bin = work / "bin"
        self._bin.mkdir()
        mosquitto = need_tool("mosquitto", "/usr/sbin/mosquitto")
        for name, words in {
            "shoal": f"{sys.executable} -m fleet",
            "shoal-agent": f"{sys.executable} -m agent",
            "python": sys.executable,
            "mosquitto": mosquitto,
        }.items():
            program = self._bin / name
            program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
            program.chmod(0o755)

    def command(self, name: str, *words: str) -> list[str]:
        """The command line of a service, or of `words` in its place."""
        service = self.services[name]
        lines = ["set -eu", f"mount -t tmpfs none {HOME}"]
        for volume in service.get("volumes", []):
            if isinstance(volume, str):
                source, target = volume.split(":")
                volume = {"source": source, "target": target}
            assert volume["source"] == "fleet"
            inside = self.volume / volume.get("volume", {}).get("subpath", "")
            assert inside.is_dir(), f"{name} mounts what setup did not make: {inside}"
            lines.append(f"mkdir -p {volume['target']}")
            lines.append(f"mount --bind {inside} {volume['target']}")
            if volume.get("read_only"):
                lines.append(f"mount -o remount,ro,bind {volume['target']}")
        entry = service.get("entrypoint", PROGRAMS.get(service["image"], []))
        told = list(words) or [*entry, *(service.get("command") or self._default(name))]
        told = [_filled(word) for word in told]
        lines.append(f"exec {shlex.join(told)}")
        return [*self._enter, "unshare", "--mount", "sh", "-c", "\n".join(lines)]

    @staticmethod
    def _default(name: str) -> list[str]:
        """The image's own command."""
        text = (ROOT / "Dockerfile").read_text()
        found = re.search(r"AS fleet\n.*?CMD (\[.*?\])", text, re.DOTALL)
        assert name == "controller"
        assert found is not None
        command: list[str] = json.loads(found[1])
        return command

    def environment(self, name: str) -> dict[str, str]:
        """Variables of a service."""
        path = f"{self._bin}:{os.environ['PATH']}:/usr/sbin:/sbin"
        more = self.services[name].get("environment", {})
        return {"PATH": path, "PYTHONPATH": str(ROOT), "HOME": "/root", **more}

    def run(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a service, or `words` in its place, to its end."""
        return subprocess.run(
            self.command(name, *words), env=self.environment(name), capture_output=True,
            text=True, timeout=240, check=False,
        )  # fmt: skip

    @contextlib.contextmanager
    def up(self, name: str) -> Iterator[Path]:
        """Runs a service until the block ends; gives its log."""
        log = self.work / f"{name}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                self.command(name), env=self.environment(name), stdout=stream, stderr=stream
            )
        try:
            yield log
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _filled(word: str) -> str:
    """A word as compose hands it on: variables have their defaults, ``$$`` is a dollar."""
    word = re.sub(r"(?<!\$)\$\{\w+:-(\w*)\}", r"\1", word).replace("$$", "$")
    return re.sub(r'--database "[^"]*"', "", word)  # SQLite here


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """One network namespace with the names of the services."""
    for tool in ("unshare", "nsenter", "ip"):
        need_tool(tool, f"/usr/sbin/{tool}", f"/usr/bin/{tool}")
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount")
    names = "127.0.0.1 localhost mosquitto controller database\n::1 localhost\n"
    (tmp_path / "hosts").write_text(names)
    setup = (
        f"mount -t tmpfs none /var/lib && mkdir {HOME} && "
        f"mount --bind {tmp_path / 'hosts'} /etc/hosts && "
        "ip link set lo up && echo ready && exec sleep infinity"
    )
    with contextlib.ExitStack() as stack:
        holder = hold(stack, ["unshare", "--net", "--mount", "sh", "-c", setup])
        yield Engine(tmp_path, holder)


def until(holds: Callable[[], object], what: str, logs: list[Path]) -> None:
    """Waits for what other processes do."""
    deadline = time.monotonic() + 180
    while not holds():
        if time.monotonic() > deadline:
            tails = "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in logs)
            raise AssertionError(f"{what}\n{tails}")
        threading.Event().wait(0.5)


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_the_services_of_the_compose_file_work_with_what_they_mount(engine: Engine) -> None:
    """Two devices are online; the broker sees its own key alone, an agent its own folder."""
    made = engine.run("setup")
    assert made.returncode == 0, made.stderr
    seen = engine.run("mosquitto", "find", HOME, "-type", "f").stdout.split()
    keys = [path for path in seen if "key" in path]
    assert keys == [f"{HOME}/fleet/ca/broker/broker.key.pem"]
    assert not [path for path in seen if "token" in path or "identity" in path]
    assert engine.run("mosquitto", "touch", f"{HOME}/fleet/ca/broker/x").returncode != 0
    seen = engine.run("kitchen", "find", HOME, "-type", "f").stdout.split()
    assert seen == [f"{HOME}/agent.yaml"]

    health = engine.services["controller"]["healthcheck"]["test"]
    assert health[0] == "CMD"
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(engine.up("mosquitto"))]
        logs.append(stack.enter_context(engine.up("controller")))
        until(
            lambda: engine.run("controller", *health[1:]).returncode == 0,
            "the controller is not healthy", logs,
        )  # fmt: skip
        logs += [stack.enter_context(engine.up(name)) for name in ("kitchen", "garden")]

        def online() -> bool:
            words = ["shoal", "fleet", "devices", "--dir", f"{HOME}/fleet", "--json"]
            done = engine.run("controller", *words)
            found = json.loads(done.stdout) if done.returncode == 0 else []
            return [one["state"] for one in found] == ["online", "online"]

        until(online, "not both devices are online", logs)
        # A revoked device is out: what the broker reads is what the controller wrote.
        words = ["shoal", "fleet", "revoke", "garden", "--dir", f"{HOME}/fleet"]
        done = engine.run("controller", *words)
        assert done.returncode == 0, done.stderr
        crl = (engine.volume / "fleet/ca/broker/crl.pem").read_bytes()
        assert crl == (engine.volume / "fleet/ca/crl.pem").read_bytes()
