"""The README's own fleet, word for word, on hosts of its own: a controller and a board."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from contracts import release
from contracts.bundle import MANIFEST, Bundle
from tests.support.hosts import Host, wire
from tests.support.joining import Board, offline_release
from tests.support.tools import need_tool

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests/data/tiny-classifier-1.0.0"
PATIENCE_S = 240.0
NAMES = "192.0.2.1 fleet.example.org"
BOARDS = {"x86-64": "generic-x86-64", "aarch64": "raspberry-pi-5", "armv7l": "raspberry-pi-4"}
BOARD = BOARDS[release.here()[0]]
V4 = {"controller": ["192.0.2.1/24"], "board": ["192.0.2.2/24"]}
THREE = {**V4, "far": ["192.0.2.3/24"]}
SLOW = {"far": "1mbit"}
FIRST_ANSWER_S = 600.0
V6 = {"controller": ["2001:db8::1/64"], "board": ["2001:db8::2/64"]}


def commands() -> list[tuple[str, str]]:
    """The README's commands, and on which host each is typed."""
    text = (ROOT / "README.md").read_text()
    section = text.split("## Your own fleet")[1].split("\n## ")[0]
    found = []
    for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL):
        for line in block.strip().splitlines():
            prompt, command = line.split("$ ", 1)
            found.append(("board" if prompt else "controller", command.split("  #")[0].strip()))
    return found


def home_intents(folder: Path) -> None:
    """A small bundle under the name that the README publishes."""
    shutil.copytree(TINY, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "name": "home-intents"}))
    assert str(Bundle.open(folder).ref) == "home-intents 1.0.0"


class Stage:
    """The two hosts, and what goes on there."""

    def __init__(self, folder: Path, hosts: dict[str, Host], stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.hosts = hosts
        self._stack = stack
        self.printed: dict[str, str] = {}

    def log(self, host: str) -> str:
        """What long programs of a host printed."""
        path = self.folder / f"{host}.log"
        return path.read_text() if path.exists() else ""

    def type(self, host: str, command: str) -> None:
        """Types a command; one that goes on is left running once it is ready."""
        words = shlex.split(command)
        ready = {"up": "Dashboard", "run": "ready"}.get(words[1 if words[0] != "shoal" else 2])
        if ready is None:
            done = self.hosts[host].run(*words, timeout=300)
            assert done.returncode == 0, f"{command}: {done.stderr}\n{self.log('controller')}"
            self.printed[command] = done.stdout
            return
        process = self.hosts[host].start(*words, log=self.folder / f"{host}.log")
        self._stack.callback(self._end, process)
        deadline = time.monotonic() + PATIENCE_S
        while ready not in self.log(host):
            assert time.monotonic() < deadline, self.log(host)
            assert process.poll() is None, self.log(host)
            time.sleep(0.1)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@contextlib.contextmanager
def stage(
    folder: Path,
    addresses: dict[str, list[str]],
    names: str = "",
    slow: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Stage]:
    """Hosts with the commands on their path, and ``scp`` between them."""
    need_tool("mosquitto", "/usr/sbin/mosquitto")
    tools = folder / "bin"
    tools.mkdir()
    (tools / "scp").write_text(f'#!/bin/sh\nexec cp "$1" {shlex.quote(str(folder / "board"))}\n')
    (tools / "scp").chmod(0o755)
    path = f"{tools}:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    with (
        wire(folder, addresses, names, {"PATH": path, "PYTHONPATH": str(ROOT)}, slow) as hosts,
        contextlib.ExitStack() as stack,
    ):
        home_intents(folder / "controller/out/home-intents-1.0.0")
        yield Stage(folder, hosts, stack)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_of_the_readme_make_a_fleet_that_a_board_joins(tmp_path: Path) -> None:
    """Word for word, with a name; a board that joins later, behind a slow link, answers as well."""
    typed = commands()
    assert len(typed) <= 12
    if os.geteuid() != 0:
        pytest.skip("needs root: what joins the board makes a user, and mounts are made")
    archive = offline_release(tmp_path / "release")
    with stage(tmp_path, THREE, NAMES, SLOW) as one, contextlib.ExitStack() as stack:
        board, far = (Board(one.hosts[name], NAMES) for name in ("board", "far"))
        stack.callback(board.stop)
        stack.callback(far.stop)
        began = time.monotonic()
        for host, command in typed:
            # This machine is no Raspberry Pi, and nothing is downloaded: the rest is as it stands.
            if " agent fetch " in command:
                command = f"shoal fleet agent add {archive} --dir home"
            command = command.replace("raspberry-pi-5", BOARD)
            one.type(host, command)
            if " enroll " in command:
                done = board.type(one.printed[command].strip())
                assert done.returncode == 0, done.stderr
        # What the documentation promises; it takes about a tenth of it.
        assert time.monotonic() - began < FIRST_ANSWER_S
        answer = one.printed[typed[-1][1]]
        assert re.search("kitchen.*lights-on", answer), answer
        (enroll,) = (command for _, command in typed if " enroll " in command)
        enroll = enroll.replace("kitchen", "cellar").replace("raspberry-pi-5", BOARD)
        one.type("controller", enroll)
        done = far.type(one.printed[enroll].strip())
        assert done.returncode == 0, done.stderr
        deadline = time.monotonic() + PATIENCE_S
        while not re.search("cellar.*lights-on", one.printed[typed[-1][1]]):
            assert time.monotonic() < deadline, one.printed[typed[-1][1]] + one.log("controller")
            one.type(*typed[-1])
        host = one.hosts["board"]
        url = "https://fleet.example.org:8443"
        shutil.copy(tmp_path / "controller/home/ca/ca.pem", tmp_path / "board/ca.pem")
        page = host.run("curl", "--silent", "--cacert", "ca.pem", f"{url}/healthz")
        if shutil.which("curl"):
            assert page.returncode == 0, page.stderr
        # The devices' port alone is open to the board; that of the controllers is not.
        for port, opens in ((8883, 0), (8443, 0), (8884, 1)):
            probe = f"import socket; socket.create_connection(('192.0.2.1', {port}), 5)"
            assert bool(host.run(sys.executable, "-c", probe).returncode) == bool(opens), port


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("addresses", [V4, V6], ids=["IPv4", "IPv6 alone"])
def test_the_address_can_be_found_by_itself(
    tmp_path: Path, addresses: dict[str, list[str]]
) -> None:
    """``auto``: a board that knows no name of the controller joins all the same."""
    with stage(tmp_path, addresses) as one, contextlib.ExitStack() as stack:
        one.type("controller", "shoal fleet init home --host auto")
        one.type("controller", "shoal fleet up --dir home")
        enroll = f"shoal fleet enroll kitchen --board {BOARD} --dir home"
        if addresses is V6 and os.geteuid() == 0:
            archive = offline_release(tmp_path / "release")
            one.type("controller", f"shoal fleet agent add {archive} --dir home")
            one.type("controller", enroll)
            board = Board(one.hosts["board"])
            stack.callback(board.stop)
            done = board.type(one.printed[enroll].strip())
            assert done.returncode == 0, done.stderr
        else:
            one.type("controller", f"{enroll} --file")
            one.type("controller", "scp home/devices/kitchen/agent.yaml kitchen:")
            one.type("board", "shoal-agent run --config agent.yaml")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            done = one.hosts["controller"].run("shoal", "fleet", "devices", "--dir", "home")
            if "online" in done.stdout:
                break
            assert time.monotonic() < deadline, done.stdout + done.stderr + one.log("board")
            time.sleep(0.5)
