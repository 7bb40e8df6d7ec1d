"""Starts our programs from a process that has imported them: else each start imports for seconds.

:func:`start` takes the command of a program and returns what ``subprocess.Popen`` would. The
command, as ``python -m fleet ...``, then runs in a fork of a process that imported what such a
program imports and did nothing else; it is a process of its own in every respect, with its own
environment, folder and descriptors, and ends as Python does. What cannot be started so is started
as usual: other options, or an environment that Python or the loader reads before any import.

As a program, ``python -m tests.support.programs DESCRIPTOR MODULE...``: that process.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any, Final

ROOT: Final = Path(__file__).parents[2]

_FLEET: Final = ("fleet.cli.app", "fleet.api.app", "fleet.api.server", "fleet.dashboard")
_AGENT: Final = ("agent.daemon", "agent.cli.device")
_IMPORTS: Final = {
    "fleet": _FLEET,
    "tests.support.event_loop": _FLEET,
    "tests.support.breaking_controller": _FLEET,
    str(ROOT / "tests" / "support" / "crashing_serve.py"): _FLEET,
    "agent": _AGENT,
    "tests.support.breaking_agent": _AGENT,
}
"""What each program imports before it does anything."""

_EARLY: Final = ("PYTHON", "LD_", "MALLOC_", "GLIBC_")
"""Variables of these prefixes are read before a program can change them."""

_MOST_BYTES: Final = 180_000


class Program:
    """A program that runs, or ran: the part of ``subprocess.Popen`` that tests use.

    Args:
        ends: says the process id, and how it ended.
        args: its command.
    """

    stdin = stdout = stderr = None

    def __init__(self, ends: socket.socket, args: list[str]) -> None:
        self.args = args
        self.returncode: int | None = None
        self._ends = ends
        self._reading = threading.Lock()
        self.pid = self._read()

    def _read(self) -> int:
        said = self._ends.recv(100)
        if not said:
            raise RuntimeError(f"what starts programs ended, and {self.args} with it or unseen")
        return int(said)

    def poll(self) -> int | None:
        """The exit code, if it has ended; as of ``Popen``, negative for a signal."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end; returns the exit code."""
        end = None if timeout is None else time.monotonic() + timeout
        if not self._reading.acquire(timeout=-1 if timeout is None else timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        try:
            if self.returncode is None:
                self._ends.settimeout(None if end is None else max(0.0, end - time.monotonic()))
                try:
                    self.returncode = self._read()
                except (TimeoutError, BlockingIOError):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
                self._ends.close()
            return self.returncode
        finally:
            self._reading.release()

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Starter:
    """The process that has imported `modules`, seen from the test."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            subprocess.run(
                [sys.executable, "-m", "tests.support.programs", str(theirs.fileno()), *modules],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                check=True,
            )
        atexit.register(self.socket.close)  # which ends it

    def start(self, command: list[str], files: list[int], request: dict[str, Any]) -> Program:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            data = json.dumps(request).encode()
            socket.send_fds(self.socket, [data], [*files, theirs.fileno()])
        return Program(ours, command)


_STARTERS: dict[tuple[str, ...], _Starter] = {}
_STARTING = threading.Lock()


def start(
    command: list[Any],
    *,
    stdout: IO[bytes] | IO[str] | int | None = None,
    stderr: IO[bytes] | IO[str] | int | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | str | None = None,
    **options: Any,
) -> subprocess.Popen[bytes] | Program:
    """Starts a program: see ``subprocess.Popen``."""
    words = [str(word) for word in command]
    request = {"argv": words, "env": dict(env or os.environ), "cwd": str(cwd or Path.cwd())}
    modules = None if options else _imports(words, request["env"])
    files = [_descriptor(stdout, 1), _descriptor(stderr, 2)]
    if stderr == subprocess.STDOUT:
        files[1] = files[0]
    if modules is None or min(files) < 0 or len(json.dumps(request)) > _MOST_BYTES:
        return subprocess.Popen(words, stdout=stdout, stderr=stderr, env=env, cwd=cwd, **options)
    with _STARTING:
        starter = _STARTERS.get(modules)
        if starter is None:
            starter = _STARTERS[modules] = _Starter(modules)
    return starter.start(words, [0, *files], request)


def _descriptor(file: Any, standard: int) -> int:
    if file is None:
        return standard
    return int(file) if isinstance(file, int) else int(file.fileno())


def _imports(words: list[str], env: dict[str, str]) -> tuple[str, ...] | None:
    """What the process that starts `words` has imported; None: it cannot be started so."""
    if not hasattr(os, "pidfd_open") or words[0] != sys.executable or len(words) < 2:
        return None
    program = words[2] if words[1] == "-m" and len(words) > 2 else words[1]
    usual = {**os.environ, "PYTHONPATH": env.get("PYTHONPATH", "")}
    if usual["PYTHONPATH"] not in ("", str(ROOT), os.environ.get("PYTHONPATH")):
        return None
    names = {*env, *usual} - {"PYTHONPATH"}
    if any(name.startswith(_EARLY) and env.get(name) != usual.get(name) for name in names):
        return None
    return _IMPORTS.get(program)


# The process that starts programs. ---------------------------------------------------------------


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Forks for each request and says how the forks end.

    Returns:
        In a fork: what it is to run. None: nobody asks any more.
    """
    running: dict[int, tuple[int, socket.socket]] = {}
    with selectors.DefaultSelector() as ready:
        ready.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fd in running:
                    ready.unregister(key.fd)
                    pid, ends = running.pop(key.fd)
                    os.close(key.fd)
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    with ends, contextlib.suppress(OSError):  # a test that ended asks no more
                        ends.send(b"%d" % code)
                    continue
                data, files, *_ = socket.recv_fds(requests, _MOST_BYTES + 1000, 4)
                if not data:
                    return None
                pid = os.fork()
                ends = socket.socket(fileno=files.pop())
                if not pid:
                    ends.close()
                    break
                for file in files:
                    os.close(file)
                watch = os.pidfd_open(pid)
                ready.register(watch, selectors.EVENT_READ)
                running[watch] = pid, ends
                ends.send(b"%d" % pid)
            else:
                continue
            break
    for watch, (_, ends) in running.items():
        os.close(watch)
        ends.close()
    requests.close()
    for standard, file in enumerate(files):
        os.dup2(file, standard)
        os.close(file)
    request: dict[str, Any] = json.loads(data)
    return request


def _run(request: dict[str, Any]) -> None:
    """Becomes the program."""
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    words = request["argv"]
    if words[1] == "-m":
        sys.argv = words[2:]
        sys.modules.pop(f"{words[2]}.__main__", None)
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words[1:]
        runpy.run_path(words[1], run_name="__main__")


def main() -> None:
    """The process that starts programs, and each of them."""
    if os.fork():
        os._exit(0)  # tests look at the children of their own process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a person, to the test
    for module in sys.argv[2:]:
        importlib.import_module(module)
    assert threading.active_count() == 1, threading.enumerate()  # a fork has but one
    gc.collect()
    gc.freeze()
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        _run(request)


if __name__ == "__main__":
    main()
