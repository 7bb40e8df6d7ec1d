"""Starts the agent, and goes back to the release that worked when a new one does not.

It belongs to the environment that was installed (`base`), which no update ever changes, and
needs the standard library alone. systemd runs it::

    python -I -m agent.release.starter --home /var/lib/shoal/program --base /opt/shoal run ...

    {home}/current        link to releases/{name}: what runs; without it, `base` as installed
    {home}/trial.json     the release on trial, with how often it was started
    {home}/failed.json    the last release that was given up, and why

A release on trial is started as a child and becomes ``current`` only when its own agent says so.
Each start is counted on the disk before it happens. After `max_starts` of them, or when the trial
has not ended `deadline_s` seconds after a start, what is current runs again. That needs no write.
"""

# ruff: noqa: D102, S606

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

AGAIN = 75  # exit code of an agent that wants to be started again: another release may have to run
PAUSE_S = 2.0  # seconds between two starts of a release on trial
SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)


class Disk:
    """What is done to the disk, one method a system call."""

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def size(self, path: Path) -> int | None:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return None

    def link_target(self, path: Path) -> str | None:
        return os.readlink(path) if path.is_symlink() else None  # noqa: PTH115

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)

    def sync(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    sync_folder = sync

    def rename(self, old: Path, new: Path) -> None:
        old.replace(new)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)


def put(disk: Any, path: Path, value: dict[str, Any]) -> None:
    """Replaces a file durably: a power cut leaves the old or the new one, whole."""
    new = path.with_name(path.name + ".new")
    disk.write(new, json.dumps(value).encode())
    disk.sync(new)
    disk.rename(new, path)
    disk.sync_folder(path.parent)


def on_trial(disk: Any, home: Path) -> dict[str, Any] | None:
    """The trial; None: there is none, or nothing that can be read."""
    try:
        trial = json.loads(disk.read(home / "trial.json"))
        numbers = (trial["starts"], trial["max_starts"], trial["deadline_s"])
        whole = trial["release"].isalnum() and all(isinstance(n, (int, float)) for n in numbers)
        return trial if whole else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def give_up(disk: Any, home: Path, trial: dict[str, Any], why: str, *, code: str) -> None:
    """Ends a trial: the agent that runs next tells why. A disk that refuses changes nothing."""
    say(f"release {trial['release'][:12]} is given up: {why}")
    try:
        put(disk, home / "failed.json", {**trial, "code": code, "message": why})
        disk.remove(home / "trial.json")
        disk.sync_folder(home)
    except OSError as error:
        say(f"that is not written down: {error}")


def whole(disk: Any, folder: Path) -> bool:
    """Whether a release is there."""
    try:
        return all(disk.size(folder / name) is not None for name in ("ready.json", "bin/python"))
    except OSError:
        return False


def choose(disk: Any, home: Path, base: Path) -> tuple[Path, str, dict[str, Any] | None]:
    """What to start now: its folder, its name, and its trial if it has one."""
    trial = on_trial(disk, home)
    if trial is not None:
        folder = home / "releases" / trial["release"]
        if not whole(disk, folder):
            give_up(disk, home, trial, "its files are not there", code="release-missing")
        elif trial["starts"] >= trial["max_starts"]:
            why = f"it was started {trial['starts']} times and did not pass its trial"
            give_up(disk, home, trial, why, code="trial-restarts")
        else:
            trial["starts"] += 1
            try:  # a start that is not counted could be repeated for ever
                put(disk, home / "trial.json", trial)
                return folder, trial["release"], trial
            except OSError as error:
                say(f"the disk does not take the count of starts: {error}")
    try:
        name = (disk.link_target(home / "current") or "").rpartition("/")[2]
    except OSError:
        name = ""
    folder = home / "releases" / name
    return (folder, name, None) if name and whole(disk, folder) else (base, "", None)


def say(text: str) -> None:
    """One line for whoever reads the log; where nobody does, all goes on."""
    with contextlib.suppress(OSError, ValueError):
        os.write(2, f"starter: {text}\n".encode(errors="replace"))


def _child(parent: int) -> None:
    """In the child: it ends with its parent, and gets its signals."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)
    for number in SIGNALS:  # a shell starts what it puts behind itself with one of them ignored
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def watch(disk: Any, home: Path, trial: dict[str, Any], command: list[str], env: Any) -> int | None:
    """Runs a release on trial; returns the exit code to end with, or None: choose again."""

    def still() -> bool:
        now = on_trial(disk, home)
        return now is not None and now["release"] == trial["release"]

    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        parent = os.getpid()
        child = subprocess.Popen(command, env=env, preexec_fn=lambda: _child(parent))
    except (OSError, subprocess.SubprocessError) as error:  # the start is counted
        say(f"{command[0]} does not start: {error}")
        return 1 if signal.sigtimedwait(SIGNALS[1:], PAUSE_S) else None
    end = time.monotonic() + trial["deadline_s"]
    stopping = late = False
    while child.poll() is None:
        left = end - time.monotonic()
        got = signal.sigtimedwait(SIGNALS, max(0.0, left) if not late else 3600)
        if got is not None and got.si_signo != signal.SIGCHLD:
            stopping = True
            child.send_signal(got.si_signo)
        elif got is None and not late:
            late = True
            if still():
                child.kill()
                why = f"its trial did not end within {trial['deadline_s']:g} s of its start"
                give_up(disk, home, trial, why, code="trial-deadline")
                child.wait()
                return None
    code = child.returncode if child.returncode >= 0 else 128 - child.returncode
    if stopping or (code != AGAIN and on_trial(disk, home) is None):
        return code
    return code if signal.sigtimedwait(SIGNALS[1:], PAUSE_S if code != AGAIN else 0) else None


def parser() -> argparse.ArgumentParser:
    """What it is started with."""
    made = argparse.ArgumentParser(prog="starter")
    made.add_argument("--home", type=Path, required=True, help="folder of the releases")
    made.add_argument("--base", type=Path, required=True, help="environment as installed")
    made.add_argument("arguments", nargs=argparse.REMAINDER, help="of the agent")
    return made


def main() -> int:
    """Starts the agent; returns its exit code."""
    given = parser().parse_args()
    home, base = given.home.absolute(), given.base.absolute()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(home, os.O_RDONLY | os.O_CLOEXEC)  # until this process ends, or is another
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"another starter runs on {home}")
        return 1
    except OSError as error:  # what is installed runs all the same
        say(f"{home} cannot be used: {error}")
    argv = [sys.executable, "-I", str(Path(__file__).absolute()), *sys.argv[1:]]
    while True:
        folder, name, trial = choose(Disk(), home, base)
        for at, release in dict.fromkeys([(folder, name), (base, "")]):
            watched = trial is not None
            about = {"home": str(home), "base": str(base), "release": release, "argv": argv}
            env = {**os.environ, "SHOAL_STARTER": json.dumps({**about, "watched": watched})}
            command = [str(at / "bin/python"), "-I", "-m", "agent", *given.arguments]
            if trial is not None:
                env.pop("WATCHDOG_PID", None)  # of this process, which the child is not
                code = watch(Disk(), home, trial, command, env)
                if code is not None:
                    return code
                break
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            try:
                os.execve(command[0], command, env)
            except OSError as error:
                say(f"{command[0]} does not start: {error}")
        else:
            return 1


if __name__ == "__main__":
    sys.exit(main())
