"""The demo's child processes: each with a log file, all stopped at the end, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from contracts import interpreter
from contracts.errors import UnavailableError

if TYPE_CHECKING:
    from typing_extensions import Self

_STOP_TIMEOUT_S = 10.0


class Processes:
    """Starts programs of Shoal, and stops them on exit.

    Args:
        logs: folder for one log file a program.
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.logs.mkdir(parents=True, exist_ok=True)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, tuple[str, Sequence[str]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop_all()

    def start(self, name: str, module: str, arguments: Sequence[str]) -> None:
        """Starts ``python -m module arguments`` in the background; its output goes to its log."""
        command = interpreter.module(module, *arguments)
        self._commands[name] = module, arguments
        with self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def kill(self, name: str) -> None:
        """SIGKILL, as a power cut would."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def restart(self, name: str) -> None:
        """Starts a program again that was killed."""
        self.start(name, *self._commands[name])

    def log(self, name: str) -> Path:
        """The log file of a program."""
        return self.logs / f"{name}.log"

    def check(self) -> None:
        """Raises when a program has ended by itself.

        Raises:
            UnavailableError: ``program-ended`` with the end of its log.
        """
        for name, process in self._running.items():
            if process.poll() is not None:
                tail = self.log(name).read_text(errors="replace").splitlines()[-5:]
                raise UnavailableError(
                    "program-ended",
                    f"{name} ended with code {process.returncode}: {' | '.join(tail)[-800:]}",
                )

    def stop_all(self) -> None:
        """SIGTERM to all, last started first; SIGKILL to what does not end in time."""
        for name in reversed(list(self._running)):
            process = self._running.pop(name)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def run(module: str, arguments: Sequence[str], log: Path, *, show: bool) -> bytes:
    """Runs ``python -m module arguments`` to its end and returns its standard output.

    Args:
        module: the program.
        arguments: its arguments.
        log: where its standard error goes when it is not shown.
        show: pass its standard error (progress bars) through to the terminal.

    Raises:
        UnavailableError: ``program-failed`` with the end of its log.
    """
    command = interpreter.module(module, *arguments)
    with log.open("ab") as sink:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if show else sink,
            check=False,
            env=os.environ,
        )
    if done.returncode != 0:
        tail = "it said why above" if show else log.read_text(errors="replace")[-600:]
        raise UnavailableError(
            "program-failed",
            f"python -m {module} {' '.join(arguments)[:200]} ended with code "
            f"{done.returncode}: {tail.strip()}",
        )
    return done.stdout
