"""A board joins by the one line that `shoal fleet enroll` prints, typed word for word."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from contracts import release
from tests.end_to_end.test_own_fleet import BOARD, NAMES, PATIENCE_S, V4, Stage, stage
from tests.support.joining import Board, offline_release


class Joining:
    """A fleet that runs on one host, and a board on another."""

    def __init__(self, one: Stage, board: Board) -> None:
        self.stage = one
        self.board = board

    def shoal(self, *words: str) -> str:
        """A command on the controller; what it printed."""
        done = self.stage.hosts["controller"].run("shoal", "fleet", *words, "--dir", "home")
        assert done.returncode == 0, done.stderr + self.stage.log("controller")
        return done.stdout

    def line(self, device: str, *options: str) -> str:
        """The line for a device."""
        return self.shoal("enroll", device, "--board", BOARD, *options).strip()

    def refused(self, line: str, **variables: str) -> str:
        """What a line that must fail says: one line, and the board is as it was before."""
        done = self.board.type(line, **variables)
        assert done.returncode == 1, done.stdout + done.stderr
        lines = [text for text in done.stderr.splitlines() if text]
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("error: ")
        assert "Traceback" not in done.stderr
        assert self.board.written() == self.board.before
        return lines[0]

    def until_online(self, device: str) -> None:
        """Waits until the controller sees a device."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = {one["id"]: one for one in json.loads(self.shoal("devices", "--json"))}
            if found.get(device, {}).get("state") == "online":
                return
            log = self.board.agent_log
            text = log.read_text() if log.exists() else ""
            assert time.monotonic() < deadline, f"{found}\n{text}"
            time.sleep(0.3)


@contextmanager
def joining(folder: Path, release_archive: Path) -> Iterator[Joining]:
    """The fleet, its controller running, the release kept, and the board."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the installer makes a user and mounts are made")
    with stage(folder, V4, NAMES) as one, ExitStack() as stack:
        one.type("controller", "shoal fleet init home --host fleet.example.org")
        one.type("controller", "shoal fleet up --dir home")
        board = Board(one.hosts["board"], NAMES)
        stack.callback(board.stop)
        found = Joining(one, board)
        found.shoal("agent", "add", str(release_archive))
        yield found


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of the agent for this machine."""
    return offline_release(tmp_path_factory.mktemp("release"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_board_joins_by_one_line_answers_and_leaves_without_a_trace(
    tmp_path: Path, archive: Path
) -> None:
    """Refused lines change nothing on it; the right one installs an agent that answers."""
    with joining(tmp_path, archive) as one:
        line = one.line("kitchen", "--label", "site=lyon")
        assert "\n" not in line
        token = line.split()[1]

        # Somebody in between, or another fleet: what they give is not run.
        other = re.sub(r'=="([0-9a-f]{64})"', f'=="{"0" * 64}"', line)
        assert "another fleet" in one.refused(other)
        # A name that nobody knows; a port where nothing listens; proxies, which are not asked.
        assert "cannot reach" in one.refused(line.replace("fleet.example.org", "no.example.org"))
        assert "refused" in one.refused(line.replace(":8443", ":1")).lower()
        assert "none of this fleet" in one.refused(line.replace(token, "x" * 43))
        assert "no token came" in one.refused(line.replace(f"echo {token}", "echo"))

        done = one.board.type(line, https_proxy="http://127.0.0.1:1", PIP_INDEX_URL="http://[::1]")
        assert done.returncode == 0, done.stderr + done.stdout
        assert f"kitchen joins home: agent {release_version()}" in done.stdout
        one.until_online("kitchen")
        config = tmp_path / "board/etc/shoal/agent.yaml"
        assert config.stat().st_mode & 0o777 == 0o640
        key = yaml.safe_load(config.read_text())["mqtt"]["tls"]["key"].splitlines()[2]
        assert len(key) > 40
        assert not any(key in text for text in _texts(tmp_path / "controller/home"))
        assert not any(token in text for text in _texts(tmp_path / "controller"))
        assert not list((tmp_path / "board/opt").glob(".shoal-joining"))

        # The same line on the same board goes on from where it is; on another it is used up.
        again = one.board.type(line)
        assert again.returncode == 0, again.stderr
        states = json.loads(one.shoal("tokens", "list", "--json"))
        assert [(each["profile"]["device"], each["state"]) for each in states] == [
            ("kitchen", "used")
        ]
        one.shoal("publish", "out/home-intents-1.0.0")
        one.shoal("rollout", "create", "home-intents", "1.0.0", "--waves", "100%", "--wait")
        answer = one.shoal("query", "site=lyon", "classify", "turn on the lights")
        assert "kitchen" in answer and "lights-on" in answer, answer

        # The board's other name is refused while it is the first one.
        second = one.board.type(one.line("cellar"))
        assert second.returncode == 1
        assert "is kitchen of the fleet home already" in second.stderr

        # Another name: what the command says to do, done.
        one.shoal("rename", "kitchen", "pantry")
        new = tmp_path / "controller/home/devices/pantry/agent.yaml"
        done = one.board.type(f"cp {new} /etc/shoal/agent.yaml && systemctl restart shoal-agent")
        assert done.returncode == 0, done.stderr
        one.until_online("pantry")
        assert "lights-on" in one.shoal("query", "pantry", "classify", "turn on the lights")

        gone = one.board.type("sudo /opt/shoal/bin/shoal-agent uninstall")
        assert gone.returncode == 0, gone.stderr
        assert one.board.written() == one.board.before
        assert "was used by another board" in one.refused(line)
        audit = one.shoal("audit", "--json")
        assert "device.join" in audit
        assert "device.token" in audit
        assert token not in audit


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_cannot_be_installed_is_one_line_that_names_what_is_needed(
    tmp_path: Path, archive: Path
) -> None:
    """Another board's token, no release, a damaged one, a token taken back, a wrong clock."""
    with joining(tmp_path, archive) as one:
        folder = tmp_path / "stick"
        one.shoal("enroll", "cellar", "--board", BOARD, "--usb", str(folder))
        done = one.board.type(f"sudo python3 {folder}/install.py")
        assert done.returncode == 0, done.stderr + done.stdout
        assert f"cellar joins home: agent {release_version()}" in done.stdout
        one.until_online("cellar")
        assert not (folder / "agent.yaml").exists(), "its key is the board's alone"
        gone = one.board.type("sudo /opt/shoal/bin/shoal-agent uninstall")
        assert gone.returncode == 0, gone.stderr
        assert "another board became cellar with it" in one.refused(
            f"sudo python3 {folder}/install.py"
        )

        (tmp_path / "board/etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        claim = one.shoal("serials", "line").strip()
        token = claim.split()[1]
        said = one.refused(claim.replace(token, f"{token} 10000000ABCD"))
        assert "the board 10000000abcd is not on the fleet's list" in said

        other = "raspberry-pi-5" if BOARD != "raspberry-pi-5" else "generic-x86-64"
        wrong = one.shoal("enroll", "k1", "--board", other).strip()
        assert f"the token is for a {other}" in one.refused(wrong)

        line = one.line("k2")
        platform, python = release.here()
        blob = next((tmp_path / "controller/home/repository/blobs").iterdir())
        whole = blob.read_bytes()
        with blob.open("r+b") as stream:
            stream.seek(len(whole) // 2)
            stream.write(b"not what was signed")
        assert "is not the signed release" in one.refused(line)
        with blob.open("r+b") as stream:
            stream.write(whole)

        if shutil.which("faketime"):
            late = f"faketime '2020-01-01 00:00:00' sh -c {_quoted(line)}"
            said = one.refused(late)
            assert "the clock of this board is wrong: it says Wed, 01 Jan 2020" in said
            assert "date -u -s" in said

        version = release_version()
        one.shoal("agent", "withdraw", version, "--platform", platform, "--python", python)
        said = one.refused(line)
        assert f"keeps no agent for {platform} and Python 3.{python[3:]}" in said
        assert f"shoal fleet agent fetch --platform {BOARD} --python 3.{python[3:]}" in said

        one.shoal("tokens", "revoke", "k2")
        assert "was taken back" in one.refused(line)
        short = one.shoal("enroll", "k3", "--board", BOARD, "--hours", "0.01").strip()
        _wait_for_expiry(one)
        assert "has expired" in one.refused(short)


def release_version() -> str:
    """Of the agent."""
    from contracts import __version__

    return __version__


def _wait_for_expiry(one: Joining) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        states = {
            each["profile"]["device"]: each["state"]
            for each in json.loads(one.shoal("tokens", "list", "--json"))
        }
        if states["k3"] == "expired":
            return
        assert time.monotonic() < deadline, states
        time.sleep(0.5)


def _quoted(line: str) -> str:
    return "'" + line.replace("'", "'\\''") + "'"


def _texts(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size < 4_000_000:
            yield path.read_bytes().decode("latin-1")
